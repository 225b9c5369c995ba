"""Pooling of regions that each belong to one image of a batch: Fast R-CNN's and R-FCN's.

A region's bins are rows x columns: `rows` int32 (R, bins, 2) and `columns` int32 (R, bins, 2), half-open, inside
the map; `image` int32 (R). An empty bin gives 0. Maps are N x C x H x W, pooled arrays R x C x bins x bins.
"""
from typing import Sequence

import numba
import numpy as np
from numba import njit, prange

from spp.backend.host.pooling import lay, load, unload
from spp.backend.host.scratch import scratch


def roi_max_pool(x: np.ndarray, image: np.ndarray, rows: np.ndarray, columns: np.ndarray, y: np.ndarray,
                 argmax: np.ndarray | None) -> None:
    """y = the largest x of each bin; argmax (int32), if given: its position h * W + w, -1 for an empty bin.

    The first of equal values wins; a NaN wins its bin.
    """
    out = lay(y, "pool.out")
    laid = load(x, "pool.in")
    if argmax is None:
        _max(laid, image, rows, columns, out)
    else:
        where = lay(argmax, "pool.where")
        _max_and_positions(laid, image, rows, columns, out, where)
        unload(where, argmax)
    unload(out, y)


def roi_max_pool_backward(dy: np.ndarray, argmax: np.ndarray, image: np.ndarray, rows: np.ndarray,
                          columns: np.ndarray, dx: np.ndarray) -> None:
    """dx = the sum of the dy whose maximum came from there."""
    out = lay(dx, "pool.in")
    _max_backward(load(dy, "pool.out"), load(argmax, "pool.where"), image, out, _blocks(dx))
    unload(out, dx)


def roi_max_pyramid(x: np.ndarray, image: np.ndarray, rows: np.ndarray, columns: np.ndarray, levels: Sequence[int],
                    y: np.ndarray) -> None:
    """y (R x C x B) = the largest x of each bin of each region's levels, n x n bins a level, levels one by one.

    rows, columns: int32 (R, sum of levels, 2), none empty. A level whose n divides an earlier level's must have bins
    that join whole bins of that level: it is computed from these. A NaN wins its bin.
    """
    turned = y.flags.c_contiguous       # each region's result is turned while it is in the cache
    out = y if turned else lay(y, "pool.out")
    buffer = scratch("pool.bins", (numba.get_num_threads(), y.shape[2], y.shape[1]), y.dtype)
    _max_pyramid(load(x, "pool.in"), image, rows, columns, np.array(levels), buffer, out, turned)
    if not turned:
        unload(out, y)


def roi_group_average(x: np.ndarray, image: np.ndarray, rows: np.ndarray, columns: np.ndarray,
                      y: np.ndarray) -> None:
    """y[r, c, i, j] = the mean of x over bin (i, j) in channel (c * bins + i) * bins + j of the region's image."""
    out = lay(y, "pool.out")
    _average(load(x, "pool.in"), image, rows, columns, out)
    unload(out, y)


def roi_group_average_backward(dy: np.ndarray, image: np.ndarray, rows: np.ndarray, columns: np.ndarray,
                               dx: np.ndarray) -> None:
    """dx = the sum of dy / area over the bins that a position is in."""
    out = lay(dx, "pool.in")
    _average_backward(load(dy, "pool.out"), image, rows, columns, out, _blocks(dy, len(dx)))
    unload(out, dx)


def _blocks(array: np.ndarray, images: int = 0) -> int:
    """How many blocks the channels are cut into, so that a small batch keeps all threads busy."""
    n, c = images or array.shape[0], array.shape[1]
    return max(1, min(c // 16, 2 * numba.get_num_threads() // max(n, 1)))


@njit(inline="always")
def _take_larger(value, best):
    for c in range(len(best)):
        best[c] = value[c] if (value[c] > best[c]) | (value[c] != value[c]) else best[c]


@njit(parallel=True, cache=True, nogil=True)
def _max(x, image, rows, columns, y):
    bins = rows.shape[1]
    for task in prange(len(image) * bins):
        r, p = task // bins, task % bins
        plane = x[image[r]]
        top, bottom = rows[r, p]
        for q in range(columns.shape[1]):
            left, right = columns[r, q]
            best = y[r, p, q]
            if top >= bottom or left >= right:
                best[:] = 0
                continue
            best[:] = plane[top, left]
            for i in range(top, bottom):
                for j in range(left, right):
                    _take_larger(plane[i, j], best)


@njit(parallel=True, cache=True, nogil=True)
def _max_and_positions(x, image, rows, columns, y, argmax):
    width, channels = x.shape[2], x.shape[3]
    bins = rows.shape[1]
    for task in prange(len(image) * bins):
        r, p = task // bins, task % bins
        plane = x[image[r]]
        top, bottom = rows[r, p]
        for q in range(columns.shape[1]):
            left, right = columns[r, q]
            best, where = y[r, p, q], argmax[r, p, q]
            if top >= bottom or left >= right:
                best[:] = 0
                where[:] = -1
                continue
            best[:] = plane[top, left]
            where[:] = np.int32(top * width + left)
            for i in range(top, bottom):
                for j in range(left, right):
                    value, position = plane[i, j], np.int32(i * width + j)
                    for c in range(channels):
                        wins = (value[c] > best[c]) | (value[c] != value[c])
                        best[c] = value[c] if wins else best[c]
                        where[c] = position if wins else where[c]


@njit(parallel=True, cache=True, nogil=True)
def _max_pyramid(x, image, rows, columns, levels, buffer, y, turned):
    """`buffer`: threads x bins x channels; y: regions x bins x channels, or, `turned`, regions x channels x bins."""
    threads = len(buffer)
    for thread in prange(threads):
        bins = buffer[thread]
        for r in range(thread * len(image) // threads, (thread + 1) * len(image) // threads):
            _pyramid(x[image[r]], rows[r], columns[r], levels, bins)
            if turned:
                for c in range(bins.shape[1]):
                    for b in range(bins.shape[0]):
                        y[r, c, b] = bins[b, c]
            else:
                y[r] = bins


@njit(cache=True, nogil=True)
def _pyramid(plane, rows, columns, levels, bins):
    """All levels of one region to bins x channels."""
    first = begin = 0       # the level's bins, and its rows and columns of bins
    for level in range(len(levels)):
        n = levels[level]
        source = at = 0     # the level that it is computed from: the last, so the coarsest, that n divides
        passed = 0
        for earlier in range(level):
            if levels[earlier] % n == 0:
                source, at = levels[earlier], passed
            passed += levels[earlier] ** 2
        for p in range(n):
            for q in range(n):
                best = bins[first + p * n + q]
                if source:
                    side = source // n
                    best[:] = bins[at + p * side * source + q * side]
                    for i in range(p * side, (p + 1) * side):
                        for j in range(q * side, (q + 1) * side):
                            _take_larger(bins[at + i * source + j], best)
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
def _max_backward(dy, argmax, image, dx, blocks):
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
def _average(x, image, rows, columns, y):
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
def _average_backward(dy, image, rows, columns, dx, blocks):
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
