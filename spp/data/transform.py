"""From an image to a net's input: size, crop, mirror, colour, mean and scale of a transform_param."""
import functools
import os
from typing import Any, NamedTuple

import numpy as np

from spp.data import images
from spp.data.pixels import Pixels
from spp.errors import DataError, format_shape
from spp.proto import arrays, caffe_pb2
from spp.proto.binary import read_blob_proto

# Principal components of ILSVRC's colours, in the form that AlexNet's followers use: "eigenvalues" in units
# of a pixel's value (0 to 255), and the matrix whose columns are the eigenvectors, its rows B, G, R.
EIGENVALUES = (55.46, 4.794, 1.148)
EIGENVECTORS = (-0.5836, -0.6948, 0.4203,
                -0.5808, -0.0045, -0.8140,
                -0.5675, 0.7192, 0.4009)

RECORDS, SIZES, SKIP, ORDER, ROWS = range(5)    # the purposes of random streams


def generator(seed: int, purpose: int, number: int) -> np.random.Generator:
    """The random stream of one record, or of one epoch's size or order: a pure function of its arguments."""
    return np.random.Generator(np.random.Philox(key=seed, counter=(0, number, purpose, 0)))


class Cut(NamedTuple):
    """The part of an image that a net gets, and the random choices for it."""

    image: np.ndarray               # H x W x C of the input, not mirrored
    mirrored: bool
    shift: np.ndarray | None        # float32, C: the colour altering, or None
    full: tuple[int, ...]           # the shape of the image from which it was cut
    top: int                        # of the cut, in that image
    left: int


class Transformer:
    """Transforms one image at a time as a transform_param says; has no state, so threads may share it.

    In this order: the shorter side to `resize_short`; a crop of `crop_size` (TEST: the centre; TRAIN: anywhere, or by
    CORNERS one of five places); the crop to the scheduled size of `size_param`; the mirror, with probability 1/2 in
    both phases; in TRAIN the colour altering of AlexNet; minus the mean; times the scale. Crop, mirror, mean and scale
    are Caffe's DataTransformer (float32 after the mirror); the rest is SPP-net's (Sec. 3.1).

    `phase` is caffe_pb2.TRAIN or TEST. Raises DataError for fields that contradict each other or are incomplete, and a
    missing mean file; ProtoError if that file is no BlobProto.
    """

    def __init__(self, param: caffe_pb2.TransformationParameter, phase: int) -> None:
        self._param = param
        self._train = phase == caffe_pb2.TRAIN
        check(param)
        # how to decode encoded images: to 3 channels, to 1, or (None) to the channels that they have
        self.color: bool | None = True if param.force_color else False if param.force_gray else None
        self._mean_values = np.array(param.mean_value, np.float32)
        self._means: tuple[np.ndarray, ...] = ()        # the mean image and its mirror image
        if param.mean_file:
            mean = read_mean(param.mean_file)
            self._means = (mean, images.flip(mean))
        self._warped = functools.lru_cache(32)(self._warp)
        # the same array for many batches: a GPU copies it once
        self._staged_warped = functools.lru_cache(32)(self._stage_warped)
        self._staged_values = functools.lru_cache(32)(self._stage_values)
        self._color_std = param.color_param.std if self._train and param.HasField("color_param") else 0.0
        values, vectors = param.color_param.eigenvalue, param.color_param.eigenvector
        components = np.reshape(vectors or EIGENVECTORS, (3, 3)) * (values or EIGENVALUES)
        self._components = components.astype(np.float32)

    def size(self, epoch: int, seed: int) -> int:
        """The input's side in pixels in an epoch: size_param's in TRAIN, else crop_size; 0: the image's own size."""
        schedule = self._param.size_param
        if not self._train or not schedule.size:
            return self._param.crop_size
        if schedule.schedule == schedule.UNIFORM:
            return int(generator(seed, SIZES, epoch).integers(schedule.size[0], schedule.size[1] + 1))
        return schedule.size[epoch % len(schedule.size)]

    def shape(self, image: tuple[int, ...], size: int) -> tuple[int, int, int]:
        """The shape H x W x C of the output of `write` for an image of shape `image` (H x W x C)."""
        height, width, channels = image
        if size:
            return size, size, channels
        if self._param.resize_short:
            height, width = images.short_size(height, width, self._param.resize_short)
        return height, width, channels

    def write(self, image: np.ndarray, out: np.ndarray, rng: np.random.Generator, size: int) -> None:
        """Transform `image` (H x W x C, uint8 or float32) into `out` (float32, C order, of the shape of `shape`).

        `rng` is used for the mirror, then the crop (row, column), then the colour. Raises DataError if the
        crop, the mean or the colour altering does not fit the image.
        """
        cut = self._cut(image, rng, size)
        out[...] = images.flip(cut.image) if cut.mirrored else cut.image
        if cut.shift is not None:
            _add(out, cut.shift)
        if self._means:
            out -= self._mean_at(cut)
        elif self._mean_values.size:
            _add(out, -mean_per_channel(self._mean_values, cut.full[2]))
        if self._param.scale != 1:
            out *= np.float32(self._param.scale)

    def stages(self, size: int) -> bool:
        """Whether uint8 images may be staged: not if each may need its own resized mean."""
        if not self._means:
            return True
        return size > 0 if self._param.mean_mode == self._param.WARP else size == self._param.crop_size

    def pixels(self, memory: np.ndarray) -> Pixels:
        """A batch of images to be transformed later; `memory`: uint8, N x H x W x C."""
        return Pixels(memory, self._param.scale)

    def stage(self, image: np.ndarray, pixels: Pixels, index: int, rng: np.random.Generator, size: int) -> None:
        """Like `write` for a uint8 image, but only cut it, into `pixels` at `index`.

        A backend's `transform` then computes what `write` does, bit for bit. Raises DataError like `write`.
        """
        cut = self._cut(image, rng, size)
        pixels.images[index] = cut.image
        pixels.mirrored[index] = cut.mirrored
        if cut.shift is not None:
            pixels.shift[index] = cut.shift
        pixels.mean, pixels.place[index] = self._mean_under(cut)

    def _cut(self, image: np.ndarray, rng: np.random.Generator, size: int) -> Cut:
        param = self._param
        if param.resize_short:
            image = images.resize_short(image, param.resize_short)
        mirrored = param.mirror and bool(rng.integers(2))
        full, (top, left) = image.shape, (0, 0)
        if param.crop_size:
            top, left = self._offset(full[0], full[1], rng)
            image = image[top:top + param.crop_size, left:left + param.crop_size]
            image = images.resize(image, size, size)
        shift = self._color_shift(full[2], rng) if self._color_std else None
        return Cut(image, mirrored, shift, full, top, left)

    def _offset(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
        crop = self._param.crop_size
        down, right = height - crop, width - crop
        if down < 0 or right < 0:
            raise DataError(f"crop_size {crop} is larger than the image of {height} x {width} pixels (height "
                            f"x width); set transform_param's resize_short to {crop} or more")
        places = ((down // 2, right // 2), (0, 0), (0, right), (down, 0), (down, right))
        if not self._train:
            return places[0]
        if self._param.crop_mode == self._param.CORNERS:
            return places[rng.integers(5)]
        return int(rng.integers(down + 1)), int(rng.integers(right + 1))

    def _color_shift(self, channels: int, rng: np.random.Generator) -> np.ndarray:
        if channels != 3:
            raise DataError(f"color_param needs images of 3 channels, and this one has {channels}; drop it, "
                            "or set force_color: true for encoded images")
        return self._components @ rng.normal(0, self._color_std, 3).astype(np.float32)

    def _mean_at(self, cut: Cut) -> np.ndarray:
        """The mean image under the cut (INDEX) or all of it at the input's size (WARP), mirrored like the cut."""
        self._check_mean(cut.full)
        height, width = cut.image.shape[:2]
        if self._param.mean_mode == self._param.WARP:
            return self._warped(height, width, cut.mirrored)
        mean, crop, left = self._means[cut.mirrored], self._param.crop_size, cut.left
        if not crop:
            return mean
        if cut.mirrored:
            left = cut.full[1] - crop - left
        return images.resize(mean[cut.top:cut.top + crop, left:left + crop], height, width)

    def _mean_under(self, cut: Cut) -> tuple[np.ndarray, tuple[int, int]]:
        """A mean for many cuts, and the place in it of the first pixel of this cut before mirroring."""
        if not self._means:
            return self._staged_values(cut.full[2]), (0, 0)
        self._check_mean(cut.full)
        if self._param.mean_mode == self._param.WARP:
            side = len(cut.image)
            return self._staged_warped(side), (side * cut.mirrored, 0)
        return self._means[0], (cut.top, cut.left)

    def _stage_values(self, channels: int) -> np.ndarray:
        if not self._mean_values.size:
            return np.zeros(channels, np.float32)
        return mean_per_channel(self._mean_values, channels).copy()

    def _stage_warped(self, side: int) -> np.ndarray:
        """The mean for plain cuts, and below it the mean for mirrored cuts in the order before mirroring.

        There are two, since resizing a mirrored mean rounds otherwise than mirroring a resized one.
        """
        return np.concatenate((self._warped(side, side, False), images.flip(self._warped(side, side, True))))

    def _check_mean(self, full: tuple[int, ...]) -> None:
        mean, name = self._means[0], self._param.mean_file
        if mean.shape[2] != full[2]:
            raise DataError(f"mean_file '{name}' has {mean.shape[2]} channel(s) and the image {full[2]}; "
                            "compute it from this database with tools/compute_image_mean")
        if self._param.mean_mode != self._param.WARP and mean.shape != full:
            raise DataError(f"mean_file '{name}' is {mean.shape[0]} x {mean.shape[1]} and the image {full[0]} x "
                            f"{full[1]} pixels (height x width); set transform_param's mean_mode: WARP, or compute "
                            "the mean from this database with tools/compute_image_mean")

    def _warp(self, height: int, width: int, mirrored: bool) -> np.ndarray:
        return images.resize(self._means[mirrored], height, width)


def check(param: caffe_pb2.TransformationParameter) -> None:
    """Check the fields and their combinations; raises DataError."""
    crop, short, sizes = param.crop_size, param.resize_short, param.size_param.size
    forks = [field.name for field, _ in param.ListFields() if field.number >= 11000]
    if forks:
        raise DataError(f"transform_param: {', '.join(forks)} belong to SSD's AnnotatedData, not to this layer; "
                        f"remove them (resize_short and crop_size are here)")
    if param.mean_file and param.mean_value:
        raise DataError("transform_param: cannot specify mean_file and mean_value at the same time; drop one")
    if param.force_color and param.force_gray:
        raise DataError("transform_param: cannot set force_color and force_gray at the same time; drop one")
    if short and short < crop:
        raise DataError(f"transform_param: resize_short {short} is smaller than crop_size {crop}; set it to "
                        f"{crop} or more")
    if param.HasField("size_param"):
        _check_sizes(crop, sizes, param.size_param.schedule == param.size_param.UNIFORM)
    counts = (len(param.color_param.eigenvalue), len(param.color_param.eigenvector))
    if counts not in ((0, 0), (3, 9)):
        raise DataError("color_param takes 3 eigenvalue and 9 eigenvector entries, or none for those of "
                        f"ILSVRC; found {counts[0]} and {counts[1]}")
    if param.color_param.std < 0:
        raise DataError(f"color_param: std must be at least 0, found {param.color_param.std:g}")


def _check_sizes(crop: int, sizes: Any, uniform: bool) -> None:
    listed = ", ".join(map(str, sizes)) or "none"
    if not crop:
        raise DataError("size_param needs crop_size, the region that is resized to each size; set it")
    if not sizes or min(sizes) < 1:
        raise DataError(f"size_param needs one size or more, each at least 1 pixel; found {listed}")
    if uniform and (len(sizes) != 2 or sizes[0] > sizes[1]):
        raise DataError(f"size_param with schedule UNIFORM takes two sizes, the smallest and the largest; "
                        f"found {listed}")


def read_mean(path: str) -> np.ndarray:
    """A mean image as H x W x C float32; raises DataError or ProtoError if the file contains none."""
    if not os.path.exists(path):
        raise DataError(f"mean_file '{path}' not found (looked from {os.getcwd()}); make it from the "
                        f"training database with tools/compute_image_mean DB {path}")
    mean = arrays.from_proto(read_blob_proto(path), f"mean_file '{path}'").astype(np.float32)
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim != 3 or mean.size == 0:
        raise DataError(f"mean_file '{path}' has the shape {format_shape(mean.shape)}; expected "
                        "1 x channels x height x width, as tools/compute_image_mean writes")
    return images.planes_to_image(mean)


def mean_per_channel(values: np.ndarray, channels: int) -> np.ndarray:
    """The mean of each channel (C) from the values of mean_value; raises DataError for a wrong number of values."""
    if values.size not in (1, channels):
        raise DataError(f"mean_value is given {values.size} times; specify either 1 mean_value or as many as the "
                        f"image has channels: {channels}")
    return np.broadcast_to(values, channels)


def _add(out: np.ndarray, values: np.ndarray) -> None:
    """Add one value per channel to an H x W x C image in place: by rows, since NumPy is slow on short axes."""
    rows = out.reshape(len(out), -1)
    rows += np.tile(values, out.shape[1])
