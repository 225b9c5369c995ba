"""Bilinear resizing: every output pixel is interpolated between two rows and two columns of the input.

`rows` and `columns` have one entry for each row and column of the output.
Arrays are N x C x H x W, of one floating dtype.
"""
import numpy as np
from numba import njit, prange

from spp.backend.host.layout import empty_channels_last, load_channels_last, store_channels_last
from spp.backend.host.threads import channel_blocks
from spp.backend.types import Array, Interpolation


def bilinear(x: np.ndarray, rows: Interpolation, columns: Interpolation, y: np.ndarray) -> None:
    """y = x, interpolated between its rows and columns."""
    (top, bottom, down), (left, right, across) = rows, columns
    out = empty_channels_last(y, "pool.out")
    _bilinear(load_channels_last(x, "pool.in"), top, bottom, down, left, right, across, out)
    store_channels_last(out, y)


def bilinear_backward(dy: np.ndarray, rows: Interpolation, columns: Interpolation, dx: np.ndarray) -> None:
    """dx = the sum of dy, each times the weight of this position in it."""
    (top, bottom, down), (left, right, across) = rows, columns
    out = empty_channels_last(dx, "pool.in")
    _bilinear_backward(load_channels_last(dy, "pool.out"), top, bottom, down, left, right, across, out,
                       channel_blocks(*dx.shape[:2]))
    store_channels_last(out, dx)


@njit(parallel=True, cache=True, nogil=True)
def _bilinear(x: Array, top: Array, bottom: Array, down: Array, left: Array, right: Array, across: Array,
              y: Array) -> None:
    height, channels = y.shape[1], y.shape[3]
    one = y.dtype.type(1)
    for task in prange(len(y) * height):
        n, i = task // height, task % height
        above, below, v = x[n, top[i]], x[n, bottom[i]], down[i]
        for j in range(y.shape[2]):
            a, b, c, d, h = above[left[j]], above[right[j]], below[left[j]], below[right[j]], across[j]
            for k in range(channels):
                y[n, i, j, k] = (one - v) * ((one - h) * a[k] + h * b[k]) + v * ((one - h) * c[k] + h * d[k])


@njit(parallel=True, cache=True, nogil=True)
def _bilinear_backward(dy: Array, top: Array, bottom: Array, down: Array, left: Array, right: Array, across: Array,
                       dx: Array, blocks: int) -> None:
    channels, one = dx.shape[3], dx.dtype.type(1)
    for task in prange(len(dx) * blocks):
        n, block = task // blocks, task % blocks
        first, last = block * channels // blocks, (block + 1) * channels // blocks
        dx[n, :, :, first:last] = 0
        for i in range(dy.shape[1]):
            above, below, v = dx[n, top[i]], dx[n, bottom[i]], down[i]
            for j in range(dy.shape[2]):
                h = across[j]
                for k in range(first, last):
                    g = dy[n, i, j, k]
                    above[left[j], k] += (one - v) * (one - h) * g
                    above[right[j], k] += (one - v) * h * g
                    below[left[j], k] += v * (one - h) * g
                    below[right[j], k] += v * h * g
