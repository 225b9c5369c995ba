"""caffe.io: images, their conversion to a net's input and back, and arrays in Caffe's messages."""
import os
from typing import Any, Iterable, Sequence

import numpy as np
from scipy import ndimage

from spp.data import images
from spp.errors import DataError, format_shape
from spp.proto import arrays, caffe_pb2, files
from spp.pycaffe.common import CaffeError, CaffeValueError, caffe_errors, readable

GRAY = np.array([0.2125, 0.7154, 0.0721])       # weights of red, green and blue in scikit-image's gray


# --- arrays in messages

@caffe_errors()
def blobproto_to_array(blob: caffe_pb2.BlobProto, return_diff: bool = False) -> np.ndarray:
    """The values, or the gradients, of a BlobProto as a float32 array; raises CaffeValueError if they do not fit."""
    values = np.array(blob.diff if return_diff else blob.data, np.float32)
    if not values.size:
        return arrays.from_proto(blob, diff=return_diff)        # doubles
    shape = arrays.shape_of(blob)
    if values.size != np.prod(shape, dtype=np.int64):
        raise CaffeValueError(f"cannot reshape the BlobProto's {values.size} values to its shape "
                              f"{format_shape(shape) if shape else '(none is given)'}; set blob.shape.dim")
    return values.reshape(shape)


def array_to_blobproto(arr: np.ndarray, diff: np.ndarray | None = None) -> caffe_pb2.BlobProto:
    """A BlobProto with float32 values of an array of any shape, and of its gradients."""
    return arrays.to_proto(np.asarray(arr, np.float32), None if diff is None else np.asarray(diff, np.float32))


def arraylist_to_blobprotovector_str(arraylist: Iterable[np.ndarray]) -> bytes:
    """Arrays as the bytes of a BlobProtoVector."""
    return caffe_pb2.BlobProtoVector(blobs=[array_to_blobproto(arr) for arr in arraylist]).SerializeToString()


def blobprotovector_str_to_arraylist(data: bytes) -> list[np.ndarray]:
    """The arrays in the bytes of a BlobProtoVector; raises CaffeValueError for other bytes."""
    try:
        return [blobproto_to_array(blob) for blob in caffe_pb2.BlobProtoVector.FromString(data).blobs]
    except files.DecodeError:
        raise CaffeValueError(f"these {len(data)} bytes are no BlobProtoVector") from None


def array_to_datum(arr: np.ndarray, label: int | None = None) -> caffe_pb2.Datum:
    """An image C x H x W as a Datum, with bytes if it is uint8, else floats. Raises CaffeValueError for other axes."""
    if arr.ndim != 3:
        raise CaffeValueError(f"Incorrect array shape: {arr.shape}; a Datum takes channels x height x width")
    datum = caffe_pb2.Datum(channels=arr.shape[0], height=arr.shape[1], width=arr.shape[2])
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(float).flat)
    if label is not None:
        datum.label = label
    return datum


@caffe_errors()
def datum_to_array(datum: caffe_pb2.Datum) -> np.ndarray:
    """The image of a Datum, C x H x W: uint8, or float64 for floats; an encoded image is decoded to BGR."""
    if datum.encoded:
        return images.decode(datum.data).transpose(2, 0, 1)
    values = np.array(bytearray(datum.data)) if datum.data else np.array(datum.float_data, float)
    shape = datum.channels, datum.height, datum.width
    if values.size != np.prod(shape, dtype=np.int64):
        raise CaffeValueError(f"the Datum holds {values.size} values, which is not {format_shape(shape)}, its "
                              "channels x height x width")
    return values.reshape(shape)


# --- images

@caffe_errors()
def load_image(filename: str | os.PathLike[str], color: bool = True) -> np.ndarray:
    """An image file as H x W x 3 float32, RGB, in [0, 1]; with `color` False as H x W x 1.

    Transparency is dropped, and a photo is rotated according to its EXIF data. Raises CaffeError for a file that is
    missing or cannot be decoded.
    """
    with open(readable(filename), "rb") as file:
        data = file.read()
    try:
        image = images.decode(data, color=True if color else None) / 255
    except DataError as error:
        raise CaffeError(f"{os.fspath(filename)}: {error}") from error
    if color or image.shape[2] == 3:
        image = image[:, :, ::-1]
    if not color and image.shape[2] == 3:
        image = (image @ GRAY)[:, :, None]
    return np.ascontiguousarray(image, np.float32)


def resize_image(im: np.ndarray, new_dims: Any, interp_order: int = 1) -> np.ndarray:
    """Resize an image H x W x K to `new_dims` (height, width) by splines of an order (1: bilinear); float32.

    As in Caffe, images of 1 or 3 channels are resized like scikit-image's with mode "constant" and without
    anti-aliasing, so that pixels outside have the image's minimum; others by scipy's `zoom`, which aligns corners.
    """
    height, width = (int(size) for size in new_dims)
    scale = (height / im.shape[0], width / im.shape[1])
    channels = im.shape[-1]
    if channels not in (1, 3):
        return ndimage.zoom(im.astype(float), (*scale, 1), order=interp_order).astype(np.float32)
    minimum, maximum = float(im.min()), float(im.max())
    if maximum == minimum:
        return np.full((height, width, channels), minimum, np.float32)
    unit = (im.astype(float) - minimum) / (maximum - minimum)
    resized = np.stack([ndimage.zoom(unit[:, :, k], scale, order=interp_order, mode="grid-constant", grid_mode=True)
                        for k in range(channels)], axis=2)
    return (np.clip(resized, 0, 1) * (maximum - minimum) + minimum).astype(np.float32)


def oversample(images: Any, crop_dims: Any) -> np.ndarray:
    """Ten crops per image H x W x K: four corners, the centre, then their mirror images; float32 10N x h x w x K."""
    height, width = (int(size) for size in crop_dims)
    down, right = images[0].shape[0] - height, images[0].shape[1] - width
    places = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
    crops = []
    for image in images:
        five = [image[top:top + height, left:left + width] for top, left in places]
        crops += five + [crop[:, ::-1] for crop in five]
    return np.array(crops, np.float32)


class Transformer:
    """Converts images H x W x K to a net's inputs, and back; `inputs` are the shapes N x K x H x W by blob name.

    `preprocess` applies the settings in this order: float32; resize to the input's H x W; transpose; channel swap;
    multiply by the raw scale; subtract the mean; multiply by the input scale. So the mean is in the units of the
    scaled image. Raises CaffeError for a setting that does not fit the input, and for an unknown input.
    """

    def __init__(self, inputs: dict[str, Sequence[int]]) -> None:
        self.inputs = {name: tuple(shape) for name, shape in inputs.items()}
        self.transpose: dict[str, tuple[int, ...]] = {}
        self.channel_swap: dict[str, tuple[int, ...]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, np.ndarray] = {}
        self.input_scale: dict[str, float] = {}

    def _shape(self, in_: str) -> tuple[int, ...]:
        if in_ not in self.inputs:
            raise CaffeError(f"{in_} is not one of the net inputs: {', '.join(self.inputs)}")
        return self.inputs[in_]

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """The order of axes, as for numpy's transpose: (2, 0, 1) makes K x H x W of H x W x K."""
        if len(order) != len(self._shape(in_)) - 1:
            raise CaffeError(f"Transpose order needs to have the same number of dimensions as the input: {in_!r} has "
                             f"{len(self._shape(in_)) - 1} without the batch, the order {tuple(order)}")
        self.transpose[in_] = tuple(order)

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """The order of channels, after the transpose: (2, 1, 0) makes BGR of RGB."""
        if len(order) != self._shape(in_)[1]:
            raise CaffeError(f"Channel swap needs to have the same number of dimensions as the input channels: "
                             f"{in_!r} has {self._shape(in_)[1]}, the order is {tuple(order)}")
        self.channel_swap[in_] = tuple(order)

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """A factor before the mean: 255 for images in [0, 1] and a mean of byte values."""
        self._shape(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: np.ndarray) -> None:
        """The mean to subtract: one value per channel, or an image K x H x W or H x W, resized to the input's size."""
        shape = self._shape(in_)
        mean = np.asarray(mean)
        if mean.ndim == 1:
            if len(mean) != shape[1]:
                raise CaffeValueError(f"Mean channels incompatible with input: {len(mean)} values, {in_!r} has "
                                      f"{shape[1]} channels")
            self.mean[in_] = mean[:, None, None]
            return
        image = mean[None] if mean.ndim == 2 else mean
        if image.ndim != 3:
            raise CaffeValueError(f"Mean shape invalid: {mean.shape}; expected channels x height x width, or a "
                                  "value per channel")
        if image.shape != shape[1:]:
            image = resize_image(image.transpose(1, 2, 0), shape[2:]).transpose(2, 0, 1)
        if image.shape[0] not in (1, shape[1]):
            raise CaffeValueError(f"Mean channels incompatible with input: {image.shape[0]}, {in_!r} has {shape[1]}")
        self.mean[in_] = image

    def set_input_scale(self, in_: str, scale: float) -> None:
        """A factor after the mean."""
        self._shape(in_)
        self.input_scale[in_] = scale

    def preprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """An image H x W x K as the net's input K x H x W, float32; `data` is not changed."""
        size = self._shape(in_)[2:]
        result = np.array(data, np.float32)
        if result.shape[:2] != size:
            result = resize_image(result, size)
        if in_ in self.transpose:
            result = result.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            result = result[list(self.channel_swap[in_])]
        if in_ in self.raw_scale:
            result *= np.float32(self.raw_scale[in_])
        if in_ in self.mean:
            result -= self.mean[in_]
        if in_ in self.input_scale:
            result *= np.float32(self.input_scale[in_])
        return result

    def deprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """The inverse of `preprocess`, without the resizing."""
        self._shape(in_)
        result = np.array(data).squeeze()
        if in_ in self.input_scale:
            result /= self.input_scale[in_]
        if in_ in self.mean:
            result += self.mean[in_]
        if in_ in self.raw_scale:
            result /= self.raw_scale[in_]
        if in_ in self.channel_swap:
            result = result[np.argsort(self.channel_swap[in_])]
        if in_ in self.transpose:
            result = result.transpose(np.argsort(self.transpose[in_]))
        return result
