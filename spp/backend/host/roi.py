"""Pooling of regions, each in one image of a batch: max (Fast R-CNN), position-sensitive average (R-FCN).

Maps are N x C x H x W, pooled arrays R x C x rows x columns of bins, of one floating dtype. `bins.rows` and
`bins.columns`: int32 (R, bins, 2), half-open intervals inside the map. The result of an empty bin is 0.
"""
from typing import Sequence

import numba
import numpy as np
from numba import njit, prange

from spp.backend.host.layout import empty_channels_last, load_channels_last, store_channels_last
from spp.backend.host.scratch import scratch
from spp.backend.host.threads import channel_blocks
from spp.backend.types import Array, Bins


def roi_max_pool(x: np.ndarray, bins: Bins, y: np.ndarray, argmax: np.ndarray | None) -> None:
    """y = the largest x of each bin; argmax (int32, or None) = its position h * W + w, -1 for an empty bin.

    The first of equal values wins; a NaN wins its bin.
    """
    out = empty_channels_last(y, "pool.out")
    positions: Array = None if argmax is None else empty_channels_last(argmax, "pool.where")
    _max(load_channels_last(x, "pool.in"), *bins, out, positions)
    store_channels_last(out, y)
    if argmax is not None:
        store_channels_last(positions, argmax)


def roi_max_pool_backward(dy: np.ndarray, argmax: np.ndarray, bins: Bins, dx: np.ndarray) -> None:
    """dx = the sum of dy over the bins whose argmax is this position."""
    gradient, positions = load_channels_last(dy, "pool.out"), load_channels_last(argmax, "pool.where")
    out = empty_channels_last(dx, "pool.in")
    _max_backward(gradient, positions, bins.image, out, channel_blocks(*dx.shape[:2]))
    store_channels_last(out, dx)


def roi_max_pyramid(x: np.ndarray, bins: Bins, levels: Sequence[int], y: np.ndarray) -> None:
    """y (R x C x B) = the largest x of each bin of each region's pyramid, n x n bins per level, level after level.

    bins.rows, bins.columns: int32 (R, sum of levels, 2), none empty. If n divides the n of an earlier level, each bin
    must be a union of bins of that level, from which it is then computed. A NaN wins its bin.
    """
    channels_first = y.flags.c_contiguous       # each region's result is transposed while it is in the cache
    out = y if channels_first else empty_channels_last(y, "pool.out")
    buffer = scratch("pool.bins", (numba.get_num_threads(), y.shape[2], y.shape[1]), y.dtype)
    _max_pyramid(load_channels_last(x, "pool.in"), *bins, np.array(levels), buffer, out, channels_first)
    if not channels_first:
        store_channels_last(out, y)


def roi_group_average(x: np.ndarray, bins: Bins, y: np.ndarray) -> None:
    """y[r, c, i, j] = the mean of x over bin (i, j), in channel (c * n + i) * n + j; a region has n x n bins."""
    out = empty_channels_last(y, "pool.out")
    _average(load_channels_last(x, "pool.in"), *bins, out)
    store_channels_last(out, y)


def roi_group_average_backward(dy: np.ndarray, bins: Bins, dx: np.ndarray) -> None:
    """dx = the sum of dy / area over the bins that contain a position."""
    out = empty_channels_last(dx, "pool.in")
    _average_backward(load_channels_last(dy, "pool.out"), *bins, out, channel_blocks(len(dx), dy.shape[1]))
    store_channels_last(out, dx)


@njit(inline="always")
def _take_larger(value: Array, best: Array) -> None:
    for c in range(len(best)):
        best[c] = value[c] if (value[c] > best[c]) | (value[c] != value[c]) else best[c]


@njit(parallel=True, cache=True, nogil=True)
def _max(x: Array, image: Array, rows: Array, columns: Array, y: Array, argmax: Array) -> None:
    """`argmax` may be None."""
    width, channels, bins = x.shape[2], x.shape[3], rows.shape[1]
    for task in prange(len(image) * bins):
        r, p = task // bins, task % bins
        plane = x[image[r]]
        top, bottom = rows[r, p]
        for q in range(columns.shape[1]):
            left, right = columns[r, q]
            empty, best = top >= bottom or left >= right, y[r, p, q]
            if argmax is not None:
                where = argmax[r, p, q]
                where[:] = np.int32(-1) if empty else np.int32(top * width + left)
            if empty:
                best[:] = 0
                continue
            best[:] = plane[top, left]
            for i in range(top, bottom):
                for j in range(left, right):
                    if argmax is None:
                        _take_larger(plane[i, j], best)
                    else:
                        value, position = plane[i, j], np.int32(i * width + j)
                        for c in range(channels):
                            wins = (value[c] > best[c]) | (value[c] != value[c])
                            best[c] = value[c] if wins else best[c]
                            where[c] = position if wins else where[c]


@njit(parallel=True, cache=True, nogil=True)
def _max_pyramid(x: Array, image: Array, rows: Array, columns: Array, levels: Array, buffer: Array, y: Array,
                 channels_first: bool) -> None:
    """`buffer`: threads x bins x channels; y: regions x bins x channels, or x channels x bins if `channels_first`."""
    threads = len(buffer)
    for thread in prange(threads):
        bins = buffer[thread]
        for r in range(thread * len(image) // threads, (thread + 1) * len(image) // threads):
            _pyramid(x[image[r]], rows[r], columns[r], levels, bins)
            if channels_first:
                for c in range(bins.shape[1]):
                    for b in range(bins.shape[0]):
                        y[r, c, b] = bins[b, c]
            else:
                y[r] = bins


@njit(cache=True, nogil=True)
def _pyramid(plane: Array, rows: Array, columns: Array, levels: Array, bins: Array) -> None:
    """Compute all levels of one region: bins x channels."""
    first = begin = 0       # where the level's bins begin, and its rows and columns of bins
    for level in range(len(levels)):
        n = levels[level]
        source = start = 0      # n and first bin of the coarsest level it can be computed from
        passed = 0
        for earlier in range(level):
            if levels[earlier] % n == 0:
                source, start = levels[earlier], passed
            passed += levels[earlier] ** 2
        for p in range(n):
            for q in range(n):
                best = bins[first + p * n + q]
                if source:
                    side = source // n
                    best[:] = bins[start + p * side * source + q * side]
                    for i in range(p * side, (p + 1) * side):
                        for j in range(q * side, (q + 1) * side):
                            _take_larger(bins[start + i * source + j], best)
                    continue
                top, bottom = rows[begin + p]
                left, right = columns[begin + q]
                best[:] = plane[top, left]
                for i in range(top, bottom):
                    for j in range(left, right):
                        _take_larger(plane[i, j], best)
        first += n * n
        begin += n


@njit(parallel=True, cache=True, nogil=True)
def _max_backward(dy: Array, argmax: Array, image: Array, dx: Array, blocks: int) -> None:
    width, channels = dx.shape[2], dx.shape[3]
    for task in prange(len(dx) * blocks):
        n, block = task // blocks, task % blocks
        first, last = block * channels // blocks, (block + 1) * channels // blocks
        dx[n, :, :, first:last] = 0
        for r in range(len(image)):
            if image[r] != n:
                continue
            for p in range(dy.shape[1]):
                for q in range(dy.shape[2]):
                    for c in range(first, last):
                        position = argmax[r, p, q, c]
                        if position >= 0:
                            dx[n, position // width, position % width, c] += dy[r, p, q, c]


@njit(parallel=True, cache=True, nogil=True)
def _average(x: Array, image: Array, rows: Array, columns: Array, y: Array) -> None:
    bins = rows.shape[1]
    for task in prange(len(image) * bins):
        r, p = task // bins, task % bins
        top, bottom = rows[r, p]
        for q in range(bins):
            left, right = columns[r, q]
            total = y[r, p, q]
            total[:] = 0
            if top >= bottom or left >= right:
                continue
            for i in range(top, bottom):
                for j in range(left, right):
                    for c in range(len(total)):
                        total[c] += x[image[r], i, j, (c * bins + p) * bins + q]
            total /= y.dtype.type((bottom - top) * (right - left))


@njit(parallel=True, cache=True, nogil=True)
def _average_backward(dy: Array, image: Array, rows: Array, columns: Array, dx: Array, blocks: int) -> None:
    bins, channels = dy.shape[1], dy.shape[3]
    for task in prange(len(dx) * blocks):
        n, block = task // blocks, task % blocks
        first, last = block * channels // blocks, (block + 1) * channels // blocks
        dx[n, :, :, first * bins * bins:last * bins * bins] = 0
        for r in range(len(image)):
            if image[r] != n:
                continue
            for p in range(bins):
                top, bottom = rows[r, p]
                for q in range(bins):
                    left, right = columns[r, q]
                    area = dx.dtype.type((bottom - top) * (right - left))
                    for i in range(top, bottom):
                        for j in range(left, right):
                            for c in range(first, last):
                                dx[n, i, j, (c * bins + p) * bins + q] += dy[r, p, q, c] / area
