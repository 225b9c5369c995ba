"""Pooling over regions of a map: sliding windows, pyramid bins and detection windows are tables of regions.

A table is int32 (B, 6), one row per region: z0, z1, y0, y1, x0, x1, half-open, inside the map and not empty; 0, 1 for
axes that the map lacks. Maps are N x C x (1 to 3 spatial axes), pooled arrays N x C x (any axes, B elements in the
order of the table), of one floating dtype. The kernels work on C-contiguous N x D x H x W x C arrays, along channels.
"""
import math

import numpy as np
from numba import njit, prange

from spp.backend.host.layout import empty_channels_last, load_channels_last, store_channels_last
from spp.backend.host.threads import by_one_if_short, channel_blocks
from spp.backend.types import Array


def _max_time(x: np.ndarray, regions: np.ndarray, y: np.ndarray, argmax: np.ndarray | None) -> float:
    return (x.size + 3 * y.size) / (12_000 if argmax is None else 8_000)


@by_one_if_short(_max_time)
def max_pool(x: np.ndarray, regions: np.ndarray, y: np.ndarray, argmax: np.ndarray | None) -> None:
    """y = the largest x of each region; argmax (int32, or None) = its position in the map, (z * H + y) * W + x.

    The first of equal values wins; a NaN wins its region, so that it shows.
    """
    source, out = _map(load_channels_last(x, "pool.in")), empty_channels_last(y, "pool.out")
    if argmax is None:
        _max(source, regions, _flat(out))
    else:
        positions = empty_channels_last(argmax, "pool.where")
        _max_and_positions(source, regions, _flat(out), _flat(positions))
        store_channels_last(positions, argmax)
    store_channels_last(out, y)


@by_one_if_short(lambda *arrays: arrays[-1].size / 400)
def max_pool_backward(dy: np.ndarray, argmax: np.ndarray, regions: np.ndarray, dx: np.ndarray) -> None:
    """dx = the sum of dy over the regions whose argmax is this position."""
    out = empty_channels_last(dx, "pool.in")
    gradient, where = load_channels_last(dy, "pool.out"), load_channels_last(argmax, "pool.where")
    _backward(_flat(gradient), _flat(where), regions, None, _map(out), channel_blocks(*dx.shape[:2]))
    store_channels_last(out, dx)


@by_one_if_short(lambda x, regions, divisors, y: (x.size + 5 * y.size) / 15_000)
def average_pool(x: np.ndarray, regions: np.ndarray, divisors: np.ndarray, y: np.ndarray) -> None:
    """y = the sum of x over each region, divided by the region's divisor (int32, B)."""
    out = empty_channels_last(y, "pool.out")
    _average(_map(load_channels_last(x, "pool.in")), regions, divisors, _flat(out))
    store_channels_last(out, y)


@by_one_if_short(lambda *arrays: arrays[-1].size / 400)
def average_pool_backward(dy: np.ndarray, regions: np.ndarray, divisors: np.ndarray, dx: np.ndarray) -> None:
    """dx = the sum of dy / divisor over the regions that contain a position."""
    out = empty_channels_last(dx, "pool.in")
    gradient = load_channels_last(dy, "pool.out")
    _backward(_flat(gradient), None, regions, divisors, _map(out), channel_blocks(*dx.shape[:2]))
    store_channels_last(out, dx)


def sample_pool(x: np.ndarray, regions: np.ndarray, uniform: np.ndarray, y: np.ndarray,
                argmax: np.ndarray) -> None:
    """y = one x of each region, chosen with probability x / sum x; argmax = its position, as in `max_pool`.

    uniform: random numbers 0 <= u < 1 with the shape and dtype of y. x must not be negative. A region of zeros gives
    its first position; a NaN in a region gives NaN.
    """
    out, where = empty_channels_last(y, "pool.out"), empty_channels_last(argmax, "pool.where")
    _sample(_map(load_channels_last(x, "pool.in")), regions, _flat(load_channels_last(uniform, "pool.uniform")),
            _flat(out), _flat(where))
    store_channels_last(out, y)
    store_channels_last(where, argmax)


def _map(array: np.ndarray) -> np.ndarray:
    """N x (1 to 3 spatial axes) x C as N x D x H x W x C."""
    missing = 5 - array.ndim
    return array.reshape(array.shape[:1] + (1,) * missing + array.shape[1:])


def _flat(array: np.ndarray) -> np.ndarray:
    """N x ... x C as N x B x C."""
    return array.reshape(array.shape[0], math.prod(array.shape[1:-1]), array.shape[-1])


@njit(inline="always")
def _band(regions: Array, b: int) -> tuple[int, int, int]:
    """end, left, right of the band of regions b .. end - 1, which have the same rows; their columns are left .. right.

    end is b if b is not the first region of its band.
    """
    end, left, right = b, regions[b, 4], regions[b, 5]
    if b == 0 or not _same_rows(regions, b - 1, b):
        end += 1
        while end < len(regions) and _same_rows(regions, b, end):
            left, right = min(left, regions[end, 4]), max(right, regions[end, 5])
            end += 1
    return end, left, right


@njit(inline="always")
def _same_rows(regions: Array, a: int, b: int) -> bool:
    return ((regions[a, 0] == regions[b, 0]) & (regions[a, 1] == regions[b, 1])
            & (regions[a, 2] == regions[b, 2]) & (regions[a, 3] == regions[b, 3]))


@njit(inline="always")
def _row(z0: int, y0: int, y1: int, height: int, k: int) -> int:
    """The index, among the rows of the map, of the k-th row of a region."""
    return (z0 + k // (y1 - y0)) * height + y0 + k % (y1 - y0)


@njit(inline="always")
def _take_largest(first: Array, second: Array, third: Array, best: Array) -> None:
    """best = the largest of three; NaN wins."""
    for c in range(len(best)):
        a, b, d = first[c], second[c], third[c]
        is_nan = (a != a) | (b != b) | (d != d)
        a = b if b > a else a
        a = d if d > a else a
        best[c] = best.dtype.type(np.nan) if is_nan else a


@njit(parallel=True, cache=True, nogil=True)
def _max(x: Array, regions: Array, y: Array) -> None:
    """First the largest of each column of a band, for all columns at once; then of the columns of each region."""
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
def _take_larger(value: float, position: np.int32, best: float, where: np.int32) -> tuple[float, np.int32]:
    """The larger of a value and the best so far, and its position: the first of equal values; NaN wins."""
    wins = (value > best) | (value != value)
    return value if wins else best, position if wins else where


@njit(parallel=True, cache=True, nogil=True)
def _max_and_positions(x: Array, regions: Array, y: Array, argmax: Array) -> None:
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
                for j in range(x0, x1, 3):      # three at a time: fewer reads and writes of best and where
                    j1, j2, row = min(j + 1, x1 - 1), min(j + 2, x1 - 1), (z * height + i) * width
                    first, second, third = x[n, z, i, j], x[n, z, i, j1], x[n, z, i, j2]
                    at, at1, at2 = np.int32(row + j), np.int32(row + j1), np.int32(row + j2)
                    for c in range(channels):
                        largest, position = _take_larger(first[c], at, best[c], where[c])
                        largest, position = _take_larger(second[c], at1, largest, position)
                        largest, position = _take_larger(third[c], at2, largest, position)
                        best[c] = largest
                        where[c] = position


@njit(inline="always")
def _add(value: Array, total: Array) -> None:
    for c in range(len(total)):
        total[c] += value[c]


@njit(parallel=True, cache=True, nogil=True)
def _average(x: Array, regions: Array, divisors: Array, y: Array) -> None:
    """In the order of `_max`: first the columns of a band, then each region."""
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
def _backward(dy: Array, argmax: Array, regions: Array, divisors: Array, dx: Array, blocks: int) -> None:
    """The gradient of max pooling, or of average pooling if `argmax` is None; `divisors` is None in the other case."""
    _, _, height, width, channels = dx.shape
    zero, one = dx.dtype.type(0), dx.dtype.type(1)
    for task in prange(len(dx) * blocks):
        n, block = task // blocks, task % blocks
        first, last = block * channels // blocks, (block + 1) * channels // blocks
        dx[n, :, :, :, first:last] = 0
        for b in range(len(regions)):
            z0, z1, y0, y1, x0, x1 = regions[b]
            gradient = dy[n, b, first:last]
            if argmax is not None:
                where = argmax[n, b, first:last]
            if divisors is not None:
                share = one / dx.dtype.type(divisors[b])
            for z in range(z0, z1):
                for i in range(y0, y1):
                    for j in range(x0, x1):
                        total, position = dx[n, z, i, j, first:last], np.int32((z * height + i) * width + j)
                        if argmax is not None:
                            # a comparison at every position vectorizes over channels; additions at argmax do not
                            for c in range(last - first):
                                total[c] += gradient[c] if where[c] == position else zero
                        if divisors is not None:
                            for c in range(last - first):
                                total[c] += gradient[c] * share


@njit(parallel=True, cache=True, nogil=True)
def _sample(x: Array, regions: Array, uniform: Array, y: Array, argmax: Array) -> None:
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
