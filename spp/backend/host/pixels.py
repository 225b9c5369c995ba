"""What the last pass of a convolution takes: what is done to each output, and the pixels to write.

The pixels lie equally far apart: those of an array, or some of the channels of one, as a Concat's top has them.
"""
import numpy as np
from numpy.lib.stride_tricks import as_strided

from spp.backend.host.scratch import scratch


def pixels(y: np.ndarray, name: str) -> np.ndarray:
    """An N x C x H x W array to write to, as N x H x W x C: channels contiguous, pixels equally far apart.

    A view where the array lies so, else the thread's scratch buffer `name`, uninitialised.
    """
    last = y.transpose(0, 2, 3, 1)
    if last.flags.c_contiguous:
        return last
    _, height, width, channels = last.shape
    apart = last.strides[2]
    if last.strides == (height * width * apart, width * apart, apart, y.itemsize) and (
            apart >= channels * y.itemsize and apart % y.itemsize == 0):
        return last
    return scratch(name, last.shape, y.dtype)


def pixels_apart(image: np.ndarray) -> int:
    """How many elements lie from one pixel to the next in what `pixels` gave."""
    return image.shape[3] if image.flags.c_contiguous else image.strides[2] // image.itemsize


def flat_pixels(image: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int], int]:
    """What `pixels` gave as a flat, contiguous array; images x height x width; how far apart the pixels lie in it.

    What lies between the pixels belongs to somebody else.
    """
    shape, channels, apart = image.shape[:3], image.shape[3], pixels_apart(image)
    if image.flags.c_contiguous:
        return image.reshape(-1), shape, apart
    length = (shape[0] * shape[1] * shape[2] - 1) * apart + channels
    return as_strided(image, (length,), (image.itemsize,)), shape, apart


def bias_scale_shift(bias: np.ndarray | None, scale: np.ndarray | None, shift: np.ndarray | None, outputs: int,
                     dtype: np.dtype) -> np.ndarray:
    """The rows bias, scale and shift: y = (sum + bias) * scale + shift. Those not given change nothing."""
    rows = scratch("convolution.last_pass", (3, outputs), dtype)
    for row, given, neutral in zip(rows, (bias, scale, shift), (0, 1, -0.0)):      # -0 + 0 would be 0
        row[:] = neutral if given is None else given
    return rows
