"""Contiguous arrays for kernels. Each order of axes has three functions: load, allocate and store.

`load_...` returns a contiguous array with the values of an array; `empty_...` one for a kernel to write, whose
values are undefined; `store...` copies such a result to its array. Where the array is contiguous in this order
already, all three work on views of it and copy nothing; otherwise the copy is in the thread's scratch buffer `name`.

A convolution may also write a slice of the channels of an array, such as an input of Concat: `pixels` are its memory.
"""
import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from spp.backend.host.scratch import scratch

_CHANNELS_LAST = [(0, *range(2, ndim), 1) for ndim in range(33)]       # 32: the most axes that NumPy 1 supports


def load_channels_last(array: np.ndarray, name: str) -> np.ndarray:
    """The values of an N x C x ... array as a C-contiguous N x ... x C array."""
    last = _channels_last(array)
    if last.flags.c_contiguous:
        return last
    copy = scratch(name, last.shape, array.dtype)
    copy[...] = last
    return copy


def empty_channels_last(array: np.ndarray, name: str) -> np.ndarray:
    """A C-contiguous N x ... x C array to write the results for an N x C x ... array to."""
    last = _channels_last(array)
    return last if last.flags.c_contiguous else scratch(name, last.shape, array.dtype)


def store_channels_last(result: np.ndarray, array: np.ndarray) -> None:
    """Copy the result, from `empty_channels_last(array)`, to `array`, unless it is a view of it."""
    last = _channels_last(array)
    if not last.flags.c_contiguous:
        last[...] = result


def _channels_last(array: np.ndarray) -> np.ndarray:
    return array.transpose(_CHANNELS_LAST[array.ndim])


def load_matrix(array: np.ndarray, axis: int, name: str) -> np.ndarray:
    """The values of an array as a C-contiguous matrix: the axes before `axis`, flattened, by all other axes."""
    matrix = empty_matrix(array, axis, name)
    store(array, matrix.reshape(array.shape))
    return matrix


def empty_matrix(array: np.ndarray, axis: int, name: str) -> np.ndarray:
    """A C-contiguous matrix to write the results for `array` to; its shape is that of `load_matrix`."""
    contiguous = array if array.flags.c_contiguous else scratch(name, array.shape, array.dtype)
    return contiguous.reshape(math.prod(array.shape[:axis]), math.prod(array.shape[axis:]))


def store(result: np.ndarray, target: np.ndarray) -> None:
    """Copy `result` to the equally shaped `target`, unless it is a view of it."""
    if not np.may_share_memory(result, target):
        target[...] = result


def flat_views(*arrays: np.ndarray) -> list[np.ndarray] | None:
    """One-dimensional views of equally shaped arrays with their elements in one order; None if that takes a copy."""
    axes = sorted(range(arrays[0].ndim), key=lambda axis: -abs(arrays[0].strides[axis]))
    ordered = [array.transpose(axes) for array in arrays]
    return [array.reshape(-1) for array in ordered] if all(array.flags.c_contiguous for array in ordered) else None


def pixels(y: np.ndarray, name: str) -> np.ndarray:
    """An N x C x H x W array to write to, as N x H x W x C: channels contiguous, pixels equally far apart.

    A view if the array's memory has this order, else the thread's scratch buffer `name`, uninitialised.
    """
    last = y.transpose(0, 2, 3, 1)
    if last.flags.c_contiguous:
        return last
    _, height, width, channels = last.shape
    stride = last.strides[2]
    if last.strides == (height * width * stride, width * stride, stride, y.itemsize) and (
            stride >= channels * y.itemsize and stride % y.itemsize == 0):
        return last
    return scratch(name, last.shape, y.dtype)


def pixel_stride(image: np.ndarray) -> int:
    """The number of elements from one pixel to the next in an array that `pixels` returned."""
    return image.shape[3] if image.flags.c_contiguous else image.strides[2] // image.itemsize


def flat_pixels(image: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int], int]:
    """An array that `pixels` returned, as a flat, contiguous array; images x height x width; its pixel stride.

    Elements between the pixels belong to other blobs.
    """
    shape, channels, stride = image.shape[:3], image.shape[3], pixel_stride(image)
    if image.flags.c_contiguous:
        return image.reshape(-1), shape, stride
    length = (shape[0] * shape[1] * shape[2] - 1) * stride + channels
    return as_strided(image, (length,), (image.itemsize,)), shape, stride
