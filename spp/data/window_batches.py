"""Batches of foreground and background windows, cropped, padded and warped as R-CNN does, read ahead."""
import functools

import numpy as np

from spp.boxes import context_window
from spp.data import images
from spp.data.listing import read_bytes
from spp.data.stream import Batch, Stream
from spp.data.transform import RECORDS, check, generator, mean_per_channel, read_mean
from spp.data.windows import WindowFile
from spp.errors import DataError
from spp.proto import caffe_pb2

PREFETCH = 4            # batches, as in Caffe
USED = ("scale", "mirror", "crop_size", "mean_file", "mean_value", "mean_mode")


class WindowBatches(Stream):
    """Batches of windows: background windows, then int(batch_size * fg_fraction) foreground windows.

    `next` returns data, float32, N x C x crop_size x crop_size, and labels, float32, N (background: 0). A
    window whose overlap reaches fg_threshold is foreground; else, if it is below bg_threshold, background.
    Windows are drawn with replacement, and with `mirror` flipped with probability 1/2. `cache_images`
    keeps the bytes of the image files in memory after they are read.

    Raises DataError for parameters that are out of range or do not fit the windows, and from `next` for a bad
    image, which it names.
    """

    def __init__(self, windows: WindowFile, param: caffe_pb2.WindowDataParameter,
                 transform_param: caffe_pb2.TransformationParameter, seed: int = 0) -> None:
        super().__init__(param.batch_size, seed, PREFETCH)
        _check(param, transform_param)
        self._windows = windows
        self._crop: int = transform_param.crop_size
        self._context_pad: int = param.context_pad
        self._square = param.crop_mode == "square"
        self._mirror: bool = transform_param.mirror
        self._scale = np.float32(transform_param.scale)
        self._mean = mean_patch(transform_param, windows.channels)
        self._read = functools.cache(read_bytes) if param.cache_images else read_bytes
        # float32, as Caffe's product and comparisons: 10 * 0.7 is 7, and an overlap of 0.6 reaches 0.6
        foreground = windows.overlap >= np.float32(param.fg_threshold)
        background = ~foreground & (windows.overlap < np.float32(param.bg_threshold))
        self._foreground, self._background = np.flatnonzero(foreground), np.flatnonzero(background)
        self._foregrounds = int(np.float32(self._batch_size) * np.float32(param.fg_fraction))
        self._check_windows(param)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of data and labels."""
        return [(self._batch_size, self._windows.channels, self._crop, self._crop), (self._batch_size,)]

    def _check_windows(self, param: caffe_pb2.WindowDataParameter) -> None:
        unlabelled = self._foreground[self._windows.label[self._foreground] == 0]
        if unlabelled.size:
            raise DataError(f"{self._windows.place(unlabelled[0])}: a foreground window (its overlap reaches "
                            f"fg_threshold {param.fg_threshold:g}) needs a class of 1 or more, found 0")
        for kind, count, windows, field, comparison in (
                ("foreground", self._foregrounds, self._foreground, "fg_threshold", "at least"),
                ("background", self._batch_size - self._foregrounds, self._background, "bg_threshold", "below")):
            if count and not windows.size:
                raise DataError(f"window file '{self._windows.source}' has no {kind} window (overlap {comparison} "
                                f"{field} {getattr(param, field):g}), and a batch needs {count}; change {field} or "
                                "fg_fraction")

    def _make(self, batch: int) -> Batch | None:
        crop, channels = self._crop, self._windows.channels
        data, memory = self._empty((self._batch_size, crop, crop, channels))
        labels = np.zeros(self._batch_size, np.float32)
        first_foreground = self._batch_size - self._foregrounds
        for i in range(self._batch_size):
            if self._unwanted:
                return None
            rng = generator(self.seed, RECORDS, batch * self._batch_size + i)
            kind = self._background if i < first_foreground else self._foreground
            window = int(kind[rng.integers(len(kind))])
            if i >= first_foreground:
                labels[i] = self._windows.label[window]
            self._write(window, self._mirror and bool(rng.integers(2)), data[i])
        return Batch((data.transpose(0, 3, 1, 2), labels), memory)

    def _write(self, window: int, mirrored: bool, out: np.ndarray) -> None:
        """Warp a window into `out`, H x W x C; pixels outside the image have the mean colour, that is 0."""
        image = self._image(self._windows.image[window], window)
        box, size = self._windows.boxes[window], (image.shape[0], image.shape[1])
        across, down = context_window(box, size, self._crop, self._context_pad, self._square)
        (left, width), (top, height) = across.place(self._crop, mirrored), down.place(self._crop)
        patch = images.resize(image[down.start:down.stop, across.start:across.stop], height, width)
        part = (slice(top, top + height), slice(left, left + width))
        out[...] = 0
        np.subtract(images.flip(patch) if mirrored else patch, self._mean[part], out[part])
        out[part] *= self._scale

    def _image(self, index: int, window: int) -> np.ndarray:
        listed = self._windows.images[index]
        try:
            image = images.decode(self._read(listed.path), self._windows.channels == 3)
            if image.shape[:2] != (listed.height, listed.width):
                raise DataError(f"is {image.shape[0]} x {image.shape[1]} pixels (height x width), but the window "
                                f"file says {listed.height} x {listed.width}; correct it")
        except DataError as error:
            raise DataError(f"{self._windows.place(window)}: image '{listed.path}': {error}") from error
        return image


def mean_patch(param: caffe_pb2.TransformationParameter, channels: int) -> np.ndarray:
    """The mean to subtract from a crop, H x W x C: the mean image's centre (or all of it, warped), or mean_value."""
    crop = param.crop_size
    if not param.mean_file:
        values = np.array(param.mean_value or [0], np.float32)
        return np.broadcast_to(mean_per_channel(values, channels), (crop, crop, channels))
    mean = read_mean(param.mean_file)
    if mean.shape[2] != channels:
        raise DataError(f"mean_file '{param.mean_file}' has {mean.shape[2]} channel(s), and the window file's "
                        f"images {channels}")
    if param.mean_mode == param.WARP:
        return images.resize(mean, crop, crop)
    down, right = mean.shape[0] - crop, mean.shape[1] - crop
    if down < 0 or right < 0:
        raise DataError(f"mean_file '{param.mean_file}' is {mean.shape[0]} x {mean.shape[1]} pixels, smaller than "
                        f"crop_size {crop}; set transform_param's mean_mode: WARP")
    return mean[down // 2:down // 2 + crop, right // 2:right // 2 + crop]


def _check(param: caffe_pb2.WindowDataParameter, transform_param: caffe_pb2.TransformationParameter) -> None:
    check(transform_param)
    unused = [field.name for field, _ in transform_param.ListFields() if field.name not in USED]
    if unused:
        raise DataError(f"transform_param: windows take no {', '.join(unused)}; drop it (they take {', '.join(USED)})")
    crop = transform_param.crop_size
    if not crop:
        raise DataError("transform_param needs crop_size, the side of the warped windows; set it (R-CNN: 227)")
    if 2 * param.context_pad >= crop:
        raise DataError(f"context_pad {param.context_pad} on both sides leaves nothing of crop_size {crop}; make "
                        "it smaller (R-CNN: 16)")
    if param.crop_mode not in ("warp", "square"):
        raise DataError(f"unknown crop_mode {param.crop_mode!r}; known: warp, square")
    if not 0 <= param.fg_fraction <= 1:
        raise DataError(f"fg_fraction must be 0 to 1, found {param.fg_fraction:g}")
