"""Pooling over regions of a map: sliding windows, pyramid bins and detection windows are tables of regions.

A table is int32 (B, 6), a row a region: z0, z1, y0, y1, x0, x1, half-open, inside the map and not empty;
axes that the map lacks have 0, 1. Maps are N x C x (1 to 3 spatial axes); pooled arrays are N x C x (any
axes, B elements in the table's order). The kernels work on C-contiguous N x D x H x W x C, along channels.
"""
import math

import numba
import numpy as np
from numba import njit, prange

from spp.backend.host.scratch import scratch
from spp.backend.host.threads import by_one_if_short


def lay(array: np.ndarray, name: str) -> np.ndarray:
    """An N x C x ... array as C-contiguous N x ... x C: a view where it lies so, else the scratch `name`."""
    last = _channels_last(array)
    return last if last.flags.c_contiguous else scratch(name, last.shape, array.dtype)


def load(array: np.ndarray, name: str) -> np.ndarray:
    """As `lay`, with the array's values."""
    last, laid = _channels_last(array), lay(array, name)
    if not last.flags.c_contiguous:
        laid[...] = last
    return laid


def unload(laid: np.ndarray, array: np.ndarray) -> None:
    """Bring what was computed in `laid`, got from `lay(array)`, to the array if it is not there already."""
    last = _channels_last(array)
    if not last.flags.c_contiguous:
        last[...] = laid


def _channels_last(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, *range(2, array.ndim), 1)


def _max_time(x, regions, y, argmax):
    return (x.size + 3 * y.size) / (12_000 if argmax is None else 8_000)


@by_one_if_short(_max_time)
def max_pool(x: np.ndarray, regions: np.ndarray, y: np.ndarray, argmax: np.ndarray | None) -> None:
    """y = the largest x of each region; argmax (int32), if given: its position in the map, (z * H + y) * W + x.

    The first of equal values wins; a NaN wins its region, so that it is seen.
    """
    out = lay(y, "pool.out")
    laid = _map(load(x, "pool.in"))
    if argmax is None:
        _max(laid, regions, _flat(out))
    else:
        where = lay(argmax, "pool.where")
        _max_and_positions(laid, regions, _flat(out), _flat(where))
        unload(where, argmax)
    unload(out, y)


@by_one_if_short(lambda *arrays: arrays[-1].size / 400)
def max_pool_backward(dy: np.ndarray, argmax: np.ndarray, regions: np.ndarray, dx: np.ndarray) -> None:
    """dx = the sum of the dy whose maximum came from there."""
    out = lay(dx, "pool.in")
    gradient, where = load(dy, "pool.out"), load(argmax, "pool.where")
    _max_backward(_flat(gradient), _flat(where), regions, _map(out), _blocks(dx))
    unload(out, dx)


@by_one_if_short(lambda x, regions, divisors, y: (x.size + 5 * y.size) / 15_000)
def average_pool(x: np.ndarray, regions: np.ndarray, divisors: np.ndarray, y: np.ndarray) -> None:
    """y = the sum of x over each region, divided by the region's divisor (int32, B)."""
    out = lay(y, "pool.out")
    _average(_map(load(x, "pool.in")), regions, divisors, _flat(out))
    unload(out, y)


@by_one_if_short(lambda *arrays: arrays[-1].size / 400)
def average_pool_backward(dy: np.ndarray, regions: np.ndarray, divisors: np.ndarray, dx: np.ndarray) -> None:
    """dx = the sum of dy / divisor over the regions that a position is in."""
    out = lay(dx, "pool.in")
    _average_backward(_flat(load(dy, "pool.out")), regions, divisors, _map(out), _blocks(dx))
    unload(out, dx)


def sample_pool(x: np.ndarray, regions: np.ndarray, uniform: np.ndarray, y: np.ndarray,
                argmax: np.ndarray) -> None:
    """y = one x of each region, chosen with probability x / sum x; argmax = its position, as in `max_pool`.

    uniform (y's shape and dtype, 0 <= u < 1) makes the choice. x must not be negative. A region of zeros
    gives its first position; a NaN in a region gives NaN.
    """
    out, where = lay(y, "pool.out"), lay(argmax, "pool.where")
    _sample(_map(load(x, "pool.in")), regions, _flat(load(uniform, "pool.uniform")), _flat(out), _flat(where))
    unload(out, y)
    unload(where, argmax)


def _map(laid: np.ndarray) -> np.ndarray:
    """N x (1 to 3 spatial axes) x C as N x D x H x W x C."""
    missing = 5 - laid.ndim
    return laid.reshape(laid.shape[:1] + (1,) * missing + laid.shape[1:])


def _flat(laid: np.ndarray) -> np.ndarray:
    """N x ... x C as N x B x C."""
    return laid.reshape(laid.shape[0], math.prod(laid.shape[1:-1]), laid.shape[-1])


def _blocks(dx: np.ndarray) -> int:
    """How many channel blocks an image is cut into, so that a small batch keeps all threads busy."""
    n, c = dx.shape[:2]
    return max(1, min(c // 16, 2 * numba.get_num_threads() // max(n, 1)))


@njit(inline="always")
def _band(regions, b):
    """The band of regions b .. end - 1, which have the same rows: end, and from where to where their columns go.

    end is b where b is not the first of its band.
    """
    end, left, right = b, regions[b, 4], regions[b, 5]
    if b == 0 or not _same_rows(regions, b - 1, b):
        end += 1
        while end < len(regions) and _same_rows(regions, b, end):
            left, right = min(left, regions[end, 4]), max(right, regions[end, 5])
            end += 1
    return end, left, right


@njit(inline="always")
def _same_rows(regions, a, b):
    return ((regions[a, 0] == regions[b, 0]) & (regions[a, 1] == regions[b, 1])
            & (regions[a, 2] == regions[b, 2]) & (regions[a, 3] == regions[b, 3]))


@njit(inline="always")
def _row(z0, y0, y1, height, k):
    """Where the k-th of a region's rows is among the map's."""
    return (z0 + k // (y1 - y0)) * height + y0 + k % (y1 - y0)


@njit(inline="always")
def _take_largest(first, second, third, best):
    """best = the largest of three; a NaN before all."""
    for c in range(len(best)):
        a, b, d = first[c], second[c], third[c]
        is_nan = (a != a) | (b != b) | (d != d)
        a = b if b > a else a
        a = d if d > a else a
        best[c] = best.dtype.type(np.nan) if is_nan else a


@njit(parallel=True, cache=True, nogil=True)
def _max(x, regions, y):
    """The largest of each of a band's columns, of all columns and channels at once; then of each region's columns."""
    n_regions = len(regions)
    _, depth, height, width, channels = x.shape
    rows = x.reshape(len(x), depth * height, width * channels)
    for task in prange(len(x) * n_regions):
        n, first = task // n_regions, task % n_regions
        end, left, right = _band(regions, first)
        if end == first:
            continue
        columns = np.empty((right - left, channels), x.dtype)
        of_columns, begin, stop = columns.reshape(-1), left * channels, right * channels
        z0, z1, y0, y1 = regions[first, :4]
        last = (z1 - z0) * (y1 - y0) - 1
        for k in range(0, max(last, 1), 2):
            second = rows[n, _row(z0, y0, y1, height, min(k + 1, last)), begin:stop]
            third = rows[n, _row(z0, y0, y1, height, min(k + 2, last)), begin:stop]
            if k == 0:
                _take_largest(rows[n, z0 * height + y0, begin:stop], second, third, of_columns)
            else:
                _take_largest(of_columns, second, third, of_columns)
        for b in range(first, end):
            best, x0, x1 = y[n, b], regions[b, 4] - left, regions[b, 5] - left
            _take_largest(columns[x0], columns[min(x0 + 1, x1 - 1)], columns[min(x0 + 2, x1 - 1)], best)
            for j in range(x0 + 3, x1, 2):
                _take_largest(best, columns[j], columns[min(j + 1, x1 - 1)], best)


@njit(inline="always")
def _take_larger(value, position, best, where):
    """The larger of a value and the best so far, and its position; the earlier of equals, and a NaN before all."""
    wins = (value > best) | (value != value)
    return value if wins else best, position if wins else where


@njit(parallel=True, cache=True, nogil=True)
def _max_and_positions(x, regions, y, argmax):
    n_regions = len(regions)
    _, _, height, width, channels = x.shape
    for task in prange(len(x) * n_regions):
        n, b = task // n_regions, task % n_regions
        z0, z1, y0, y1, x0, x1 = regions[b]
        best, where = y[n, b], argmax[n, b]
        value, position = x[n, z0, y0, x0], np.int32((z0 * height + y0) * width + x0)
        for c in range(channels):
            best[c] = value[c]
            where[c] = position
        for z in range(z0, z1):
            for i in range(y0, y1):
                for j in range(x0, x1, 3):      # by threes, so that best and where are less often read and written
                    j1, j2, row = min(j + 1, x1 - 1), min(j + 2, x1 - 1), (z * height + i) * width
                    first, second, third = x[n, z, i, j], x[n, z, i, j1], x[n, z, i, j2]
                    at, at1, at2 = np.int32(row + j), np.int32(row + j1), np.int32(row + j2)
                    for c in range(channels):
                        largest, position = _take_larger(first[c], at, best[c], where[c])
                        largest, position = _take_larger(second[c], at1, largest, position)
                        largest, position = _take_larger(third[c], at2, largest, position)
                        best[c] = largest
                        where[c] = position


@njit(parallel=True, cache=True, nogil=True)
def _max_backward(dy, argmax, regions, dx, blocks):
    _, _, height, width, channels = dx.shape
    zero = dx.dtype.type(0)
    for task in prange(len(dx) * blocks):
        n, block = task // blocks, task % blocks
        first, last = block * channels // blocks, (block + 1) * channels // blocks
        dx[n, :, :, :, first:last] = 0
        for b in range(len(regions)):
            z0, z1, y0, y1, x0, x1 = regions[b]
            # comparing at every position of the region runs along the channels, which adding at argmax cannot
            gradient, where = dy[n, b, first:last], argmax[n, b, first:last]
            for z in range(z0, z1):
                for i in range(y0, y1):
                    for j in range(x0, x1):
                        total, position = dx[n, z, i, j, first:last], np.int32((z * height + i) * width + j)
                        for c in range(last - first):
                            total[c] += gradient[c] if where[c] == position else zero


@njit(inline="always")
def _add(value, total):
    for c in range(len(total)):
        total[c] += value[c]


@njit(parallel=True, cache=True, nogil=True)
def _average(x, regions, divisors, y):
    """In the order of `_max`."""
    n_regions = len(regions)
    _, depth, height, width, channels = x.shape
    rows = x.reshape(len(x), depth * height, width * channels)
    for task in prange(len(x) * n_regions):
        n, first = task // n_regions, task % n_regions
        end, left, right = _band(regions, first)
        if end == first:
            continue
        z0, z1, y0, y1 = regions[first, :4]
        columns = np.zeros((right - left, channels), x.dtype)
        of_columns = columns.reshape(-1)
        for z in range(z0, z1):
            for i in range(y0, y1):
                _add(rows[n, z * height + i, left * channels:right * channels], of_columns)
        for b in range(first, end):
            total, divisor = y[n, b], x.dtype.type(divisors[b])
            for c in range(channels):
                total[c] = 0
            for j in range(regions[b, 4] - left, regions[b, 5] - left):
                _add(columns[j], total)
            for c in range(channels):
                total[c] /= divisor


@njit(parallel=True, cache=True, nogil=True)
def _average_backward(dy, regions, divisors, dx, blocks):
    channels, one = dx.shape[4], dx.dtype.type(1)
    for task in prange(len(dx) * blocks):
        n, block = task // blocks, task % blocks
        first, last = block * channels // blocks, (block + 1) * channels // blocks
        dx[n, :, :, :, first:last] = 0
        for b in range(len(regions)):
            z0, z1, y0, y1, x0, x1 = regions[b]
            gradient, share = dy[n, b, first:last], one / dx.dtype.type(divisors[b])
            for z in range(z0, z1):
                for i in range(y0, y1):
                    for j in range(x0, x1):
                        total = dx[n, z, i, j, first:last]
                        for c in range(last - first):
                            total[c] += gradient[c] * share


@njit(parallel=True, cache=True, nogil=True)
def _sample(x, regions, uniform, y, argmax):
    n_regions = len(regions)
    _, _, height, width, channels = x.shape
    for task in prange(len(x) * n_regions):
        n, b = task // n_regions, task % n_regions
        z0, z1, y0, y1, x0, x1 = regions[b]
        for c in range(channels):
            total = x.dtype.type(0)
            for z in range(z0, z1):
                for i in range(y0, y1):
                    for j in range(x0, x1):
                        total += x[n, z, i, j, c]
            chosen, position = x[n, z0, y0, x0, c], (z0 * height + y0) * width + x0
            target, passed = total * uniform[n, b, c], x.dtype.type(0)
            for z in range(z0, z1):
                for i in range(y0, y1):
                    for j in range(x0, x1):
                        value = x[n, z, i, j, c]
                        if value > 0 and passed <= target:
                            chosen, position = value, (z * height + i) * width + j
                            passed += value
            y[n, b, c] = total if total != total else chosen
            argmax[n, b, c] = position
