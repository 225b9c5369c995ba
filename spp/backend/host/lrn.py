"""Local response normalisation, y = x * scale^-beta.

The scale is computed again in the backward pass: that costs less than writing and reading it would.
"""
import math

import numba
import numpy as np
from numba import njit, prange

from spp.backend.host.pooling import lay, load, unload

CHUNK = 64      # positions of a map that one task works on


def lrn_across(x: np.ndarray, y: np.ndarray, size: int, alpha: float, beta: float, k: float) -> None:
    """scale = k + alpha / size * sum of x^2 over `size` (odd) channels around each.

    x, y: N x C x (any axes). Zeros lie beyond the first and the last channel.
    """
    out = lay(y, "lrn.out")
    real = x.dtype.type
    _across(_rows(load(x, "lrn.x")), _rows(out), min(size // 2, x.shape[1]), real(alpha / size), real(beta), real(k))
    unload(out, y)


def lrn_across_backward(dy: np.ndarray, x: np.ndarray, dx: np.ndarray,
                        size: int, alpha: float, beta: float, k: float) -> None:
    """dx = dy * scale^-beta - 2 alpha beta / size * x * sum of dy * y / scale over the same channels."""
    out = lay(dx, "lrn.out")
    real = x.dtype.type
    _across_backward(_rows(load(dy, "lrn.dy")), _rows(load(x, "lrn.x")), _rows(out), min(size // 2, x.shape[1]),
                     real(alpha / size), real(beta), real(k))
    unload(out, dx)


def lrn_within(x: np.ndarray, y: np.ndarray, size: int, alpha: float, beta: float) -> None:
    """scale = 1 + alpha / size^2 * sum of x^2 over the size x size (odd) positions around each, same channel.

    x, y: N x C x H x W. Zeros lie beyond the border.
    """
    out = lay(y, "lrn.out")
    real = x.dtype.type
    _within(load(x, "lrn.x"), out, min(size // 2, max(x.shape[2:])), real(alpha / size ** 2), real(beta))
    unload(out, y)


def lrn_within_backward(dy: np.ndarray, x: np.ndarray, dx: np.ndarray,
                        size: int, alpha: float, beta: float) -> None:
    """dx = dy * scale^-beta - 2 alpha beta / size^2 * x * sum of dy * y / scale over the same positions."""
    out = lay(dx, "lrn.out")
    real = x.dtype.type
    bands = max(1, min(x.shape[2] // 16, 4 * numba.get_num_threads() // max(1, len(x))))
    _within_backward(load(dy, "lrn.dy"), load(x, "lrn.x"), out, bands, min(size // 2, max(x.shape[2:])),
                     real(alpha / size ** 2), real(beta))
    unload(out, dx)


def _rows(laid: np.ndarray) -> np.ndarray:
    """N x ... x C as positions x C."""
    return laid.reshape(math.prod(laid.shape[:-1]), laid.shape[-1])


@njit(inline="always")
def _powers(scale, beta, power):
    """power = scale^-beta; for the usual 3/4 from two square roots."""
    if beta == 0.75:
        for c in range(len(scale)):
            power[c] = math.sqrt(math.sqrt(scale[c])) / scale[c]
    else:
        for c in range(len(scale)):
            power[c] = scale[c] ** -beta


@njit(inline="always")
def _scales_across(x, row, half, a, k, square, scale):
    """scale[c] = k + a * sum of x[row]^2 over channels c - half .. c + half; `square` has zeros around."""
    channels = len(scale)
    for c in range(channels):
        square[half + c] = x[row, c] * x[row, c]
        scale[c] = k
    for offset in range(2 * half + 1):
        for c in range(channels):
            scale[c] += a * square[offset + c]


@njit(parallel=True, cache=True, nogil=True)
def _across(x, y, half, a, beta, k):
    rows, channels = x.shape
    for task in prange((rows + CHUNK - 1) // CHUNK):
        square, scale = np.zeros(channels + 2 * half, x.dtype), np.empty(channels, x.dtype)
        for row in range(task * CHUNK, min(rows, (task + 1) * CHUNK)):
            _scales_across(x, row, half, a, k, square, scale)
            _powers(scale, beta, scale)
            for c in range(channels):
                y[row, c] = x[row, c] * scale[c]


@njit(parallel=True, cache=True, nogil=True)
def _across_backward(dy, x, dx, half, a, beta, k):
    rows, channels = x.shape
    factor = a * beta + a * beta
    for task in prange((rows + CHUNK - 1) // CHUNK):
        square, ratio = np.zeros(channels + 2 * half, x.dtype), np.zeros(channels + 2 * half, x.dtype)
        scale, power = np.empty(channels, x.dtype), np.empty(channels, x.dtype)
        total = np.empty(channels, x.dtype)
        for row in range(task * CHUNK, min(rows, (task + 1) * CHUNK)):
            _scales_across(x, row, half, a, k, square, scale)
            _powers(scale, beta, power)
            for c in range(channels):
                ratio[half + c] = dy[row, c] * x[row, c] * power[c] / scale[c]
                total[c] = 0
            for offset in range(2 * half + 1):
                for c in range(channels):
                    total[c] += ratio[offset + c]
            for c in range(channels):
                dx[row, c] = dy[row, c] * power[c] - factor * x[row, c] * total[c]


@njit(inline="always")
def _sums_down(x, n, i, half, sums):
    """sums[half + j, c] = the sum of x^2 over rows i - half .. i + half of column j."""
    _, height, width, channels = x.shape
    sums[half:half + width] = 0
    for row in range(max(i - half, 0), min(i + half + 1, height)):
        for j in range(width):
            for c in range(channels):
                sums[half + j, c] += x[n, row, j, c] * x[n, row, j, c]


@njit(inline="always")
def _sum_along(sums, j, half, total):
    """total[c] = the sum over columns j - half .. j + half."""
    for c in range(len(total)):
        total[c] = 0
    for offset in range(2 * half + 1):
        for c in range(len(total)):
            total[c] += sums[j + offset, c]


@njit(parallel=True, cache=True, nogil=True)
def _within(x, y, half, a, beta):
    n_images, height, width, channels = x.shape
    one = x.dtype.type(1)       # with a plain 1 the sum would be in double precision
    for task in prange(n_images * height):
        n, i = task // height, task % height
        sums, scale = np.zeros((width + 2 * half, channels), x.dtype), np.empty(channels, x.dtype)
        _sums_down(x, n, i, half, sums)
        for j in range(width):
            _sum_along(sums, j, half, scale)
            for c in range(channels):
                scale[c] = one + a * scale[c]
            _powers(scale, beta, scale)
            for c in range(channels):
                y[n, i, j, c] = x[n, i, j, c] * scale[c]


@njit(parallel=True, cache=True, nogil=True)
def _within_backward(dy, x, dx, bands, half, a, beta):
    """A task is one of `bands` bands of rows of an image. A window's rows of dy * y / scale are kept, not all."""
    n_images, height, width, channels = x.shape
    one, factor = x.dtype.type(1), a * beta + a * beta
    window = 2 * half + 1
    for task in prange(n_images * bands):
        n, top, bottom = task // bands, task % bands * height // bands, (task % bands + 1) * height // bands
        sums = np.zeros((width + 2 * half, channels), x.dtype)
        ratios = np.empty((window, width, channels), x.dtype)       # row i of the image is row i % window
        scale, power, total = np.empty(channels, x.dtype), np.empty(channels, x.dtype), np.empty(channels, x.dtype)
        for row in range(top - half, bottom + half):
            if 0 <= row < height:
                slot = row % window
                _sums_down(x, n, row, half, sums)
                for j in range(width):
                    _sum_along(sums, j, half, scale)
                    for c in range(channels):
                        scale[c] = one + a * scale[c]
                    _powers(scale, beta, power)
                    for c in range(channels):
                        ratios[slot, j, c] = dy[n, row, j, c] * power[c] * x[n, row, j, c] / scale[c]
                    if top <= row < bottom:
                        for c in range(channels):
                            dx[n, row, j, c] = dy[n, row, j, c] * power[c]
            i = row - half
            if i < top:
                continue
            sums[half:half + width] = 0
            for near in range(max(i - half, 0), min(i + half + 1, height)):
                slot = near % window
                for j in range(width):
                    for c in range(channels):
                        sums[half + j, c] += ratios[slot, j, c]
            for j in range(width):
                _sum_along(sums, j, half, total)
                for c in range(channels):
                    dx[n, i, j, c] -= factor * x[n, i, j, c] * total[c]
