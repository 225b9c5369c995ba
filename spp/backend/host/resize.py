"""Bilinear resizing: pixels between two rows and two columns.

`rows` is (first, second, weight of the second) for each row of the output: int32, int32 and floats; so is
`columns`. Arrays are N x C x H x W.
"""
from typing import Any

import numba
import numpy as np
from numba import njit, prange

from spp.backend.host.pooling import lay, load, unload


def bilinear(x: np.ndarray, rows: Any, columns: Any, y: np.ndarray) -> None:
    """y = x between its rows and columns."""
    (top, bottom, down), (left, right, across) = rows, columns
    out = lay(y, "pool.out")
    _bilinear(load(x, "pool.in"), top, bottom, down, left, right, across, out)
    unload(out, y)


def bilinear_backward(dy: np.ndarray, rows: Any, columns: Any, dx: np.ndarray) -> None:
    """dx = the sum of dy by the weight that a pixel has in it."""
    (top, bottom, down), (left, right, across) = rows, columns
    out = lay(dx, "pool.in")
    n, c = dx.shape[:2]
    blocks = max(1, min(c // 16, 2 * numba.get_num_threads() // max(n, 1)))
    _bilinear_backward(load(dy, "pool.out"), top, bottom, down, left, right, across, out, blocks)
    unload(out, dx)


@njit(parallel=True, cache=True, nogil=True)
def _bilinear(x, top, bottom, down, left, right, across, y):
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
def _bilinear_backward(dy, top, bottom, down, left, right, across, dx, blocks):
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
