"""The pixels of an array that a convolution writes: those of a whole array, or of a slice of its channels.

A Concat's inputs, for example, are slices of the channels of its output: their pixels are equally far apart.
"""
import numpy as np
from numpy.lib.stride_tricks import as_strided

from spp.backend.host.scratch import scratch


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
