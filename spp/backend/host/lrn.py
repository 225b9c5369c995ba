"""Local response normalization, y = x * scale^-beta.

The backward pass computes the scale again, which costs less than writing and reading it.
"""
import math

import numba
import numpy as np
from numba import njit, prange

from spp.backend.host.layout import empty_channels_last, load_channels_last, store_channels_last
from spp.backend.types import Array, LrnParameters

CHUNK = 64      # positions of a map per task


def lrn_across(x: np.ndarray, y: np.ndarray, p: LrnParameters) -> None:
    """y = x * scale^-beta; scale = k + alpha / size * sum of x^2 over the `size` channels around each.

    x, y: N x C x (any axes), one floating dtype. Beyond the first and the last channel x counts as 0.
    """
    out = empty_channels_last(y, "lrn.out")
    real, half = x.dtype.type, min(p.size // 2, x.shape[1])
    _across(_positions(x, "lrn.x"), _as_positions(out), half, real(p.alpha / p.size), real(p.beta), real(p.k))
    store_channels_last(out, y)


def lrn_across_backward(dy: np.ndarray, x: np.ndarray, dx: np.ndarray, p: LrnParameters) -> None:
    """dx = dy * scale^-beta - 2 alpha beta / size * x * sum of dy * y / scale over the same channels."""
    out = empty_channels_last(dx, "lrn.out")
    real, half = x.dtype.type, min(p.size // 2, x.shape[1])
    _across_backward(_positions(dy, "lrn.dy"), _positions(x, "lrn.x"), _as_positions(out), half,
                     real(p.alpha / p.size), real(p.beta), real(p.k))
    store_channels_last(out, dx)


def lrn_within(x: np.ndarray, y: np.ndarray, p: LrnParameters) -> None:
    """y = x * scale^-beta; scale = 1 + alpha / size^2 * sum of x^2 over the size x size window around each position.

    x, y: N x C x H x W, one floating dtype. Beyond the border x counts as 0; the divisor is size^2 there too.
    """
    out = empty_channels_last(y, "lrn.out")
    real, half = x.dtype.type, min(p.size // 2, max(x.shape[2:]))
    _within(load_channels_last(x, "lrn.x"), out, half, real(p.alpha / p.size ** 2), real(p.beta))
    store_channels_last(out, y)


def lrn_within_backward(dy: np.ndarray, x: np.ndarray, dx: np.ndarray, p: LrnParameters) -> None:
    """dx = dy * scale^-beta - 2 alpha beta / size^2 * x * sum of dy * y / scale over the same window."""
    out = empty_channels_last(dx, "lrn.out")
    real, half = x.dtype.type, min(p.size // 2, max(x.shape[2:]))
    bands = max(1, min(x.shape[2] // 16, 4 * numba.get_num_threads() // max(1, len(x))))
    _within_backward(load_channels_last(dy, "lrn.dy"), load_channels_last(x, "lrn.x"), out, bands, half,
                     real(p.alpha / p.size ** 2), real(p.beta))
    store_channels_last(out, dx)


def _positions(array: np.ndarray, name: str) -> np.ndarray:
    return _as_positions(load_channels_last(array, name))


def _as_positions(array: np.ndarray) -> np.ndarray:
    """N x ... x C as positions x C."""
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1])


@njit(inline="always")
def _powers(scale: Array, beta: float, power: Array) -> None:
    """power = scale^-beta; for the usual 3/4 from two square roots."""
    if beta == 0.75:
        for c in range(len(scale)):
            power[c] = math.sqrt(math.sqrt(scale[c])) / scale[c]
    else:
        for c in range(len(scale)):
            power[c] = scale[c] ** -beta


@njit(inline="always")
def _scales_across(x: Array, row: int, half: int, a: float, k: float, square: Array, scale: Array) -> None:
    """scale[c] = k + a * sum of x[row]^2 over channels c - half .. c + half; `square` has zeros around."""
    channels = len(scale)
    for c in range(channels):
        square[half + c] = x[row, c] * x[row, c]
        scale[c] = k
    for offset in range(2 * half + 1):
        for c in range(channels):
            scale[c] += a * square[offset + c]


@njit(parallel=True, cache=True, nogil=True)
def _across(x: Array, y: Array, half: int, a: float, beta: float, k: float) -> None:
    rows, channels = x.shape
    for task in prange((rows + CHUNK - 1) // CHUNK):
        square, scale = np.zeros(channels + 2 * half, x.dtype), np.empty(channels, x.dtype)
        for row in range(task * CHUNK, min(rows, (task + 1) * CHUNK)):
            _scales_across(x, row, half, a, k, square, scale)
            _powers(scale, beta, scale)
            for c in range(channels):
                y[row, c] = x[row, c] * scale[c]


@njit(parallel=True, cache=True, nogil=True)
def _across_backward(dy: Array, x: Array, dx: Array, half: int, a: float, beta: float, k: float) -> None:
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
def _sums_down(x: Array, n: int, i: int, half: int, sums: Array) -> None:
    """sums[half + j, c] = the sum of x^2 over rows i - half .. i + half of column j."""
    _, height, width, channels = x.shape
    sums[half:half + width] = 0
    for row in range(max(i - half, 0), min(i + half + 1, height)):
        for j in range(width):
            for c in range(channels):
                sums[half + j, c] += x[n, row, j, c] * x[n, row, j, c]


@njit(inline="always")
def _sum_along(sums: Array, j: int, half: int, total: Array) -> None:
    """total[c] = the sum over columns j - half .. j + half."""
    for c in range(len(total)):
        total[c] = 0
    for offset in range(2 * half + 1):
        for c in range(len(total)):
            total[c] += sums[j + offset, c]


@njit(parallel=True, cache=True, nogil=True)
def _within(x: Array, y: Array, half: int, a: float, beta: float) -> None:
    n_images, height, width, channels = x.shape
    one = x.dtype.type(1)       # 1 would make the sum double precision
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
def _within_backward(dy: Array, x: Array, dx: Array, bands: int, half: int, a: float, beta: float) -> None:
    """A task is one of `bands` bands of rows of an image. Only the rows of dy * y / scale of a window are stored."""
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
