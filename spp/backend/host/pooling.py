"""Pooling over regions of a map: sliding windows, pyramid bins and detection windows are tables of regions.

A table is int32 (B, 6), a row a region: z0, z1, y0, y1, x0, x1, half-open, inside the map and not empty;
axes that the map lacks have 0, 1. Maps are N x C x (1 to 3 spatial axes); pooled arrays are N x C x (any
axes, B elements in the table's order). The kernels work on C-contiguous N x D x H x W x C, along channels.
"""
import math

import numba
import numpy as np
from numba import njit, prange

from spp.backend.host.layout import store
from spp.backend.host.scratch import scratch
from spp.backend.host.threads import by_one_if_short


def lay(array: np.ndarray, name: str) -> np.ndarray:
    """An N x C x ... array as C-contiguous N x ... x C: a view where it lies so, else the scratch `name`."""
    last = np.moveaxis(array, 1, -1)
    return last if last.flags.c_contiguous else scratch(name, last.shape, array.dtype)


def load(array: np.ndarray, name: str) -> np.ndarray:
    """As `lay`, with the array's values."""
    laid = lay(array, name)
    store(np.moveaxis(array, 1, -1), laid)
    return laid


def unload(laid: np.ndarray, array: np.ndarray) -> None:
    """Bring what was computed in `laid`, got from `lay(array)`, to the array if it is not there already."""
    store(laid, np.moveaxis(array, 1, -1))


@by_one_if_short(lambda x, *_: x.size / 800)
def max_pool(x: np.ndarray, regions: np.ndarray, y: np.ndarray, argmax: np.ndarray) -> None:
    """y = the largest x of each region; argmax (int32) = its position in the map, (z * H + y) * W + x.

    The first of equal values wins; a NaN wins its region, so that it is seen.
    """
    out, where = lay(y, "pool.out"), lay(argmax, "pool.where")
    _max(_map(load(x, "pool.in")), regions, _flat(out), _flat(where))
    unload(out, y)
    unload(where, argmax)


@by_one_if_short(lambda *arrays: arrays[-1].size / 400)
def max_pool_backward(dy: np.ndarray, argmax: np.ndarray, regions: np.ndarray, dx: np.ndarray) -> None:
    """dx = the sum of the dy whose maximum came from there."""
    out = lay(dx, "pool.in")
    gradient, where = load(dy, "pool.out"), load(argmax, "pool.where")
    _max_backward(_flat(gradient), _flat(where), regions, _map(out), _blocks(dx))
    unload(out, dx)


@by_one_if_short(lambda x, *_: x.size / 800)
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


@njit(parallel=True, cache=True, nogil=True)
def _max(x, regions, y, argmax):
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
                for j in range(x0, x1):
                    value, position = x[n, z, i, j], np.int32((z * height + i) * width + j)
                    for c in range(channels):
                        wins = (value[c] > best[c]) | (value[c] != value[c])
                        best[c] = value[c] if wins else best[c]
                        where[c] = position if wins else where[c]


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


@njit(parallel=True, cache=True, nogil=True)
def _average(x, regions, divisors, y):
    n_regions = len(regions)
    channels = x.shape[4]
    for task in prange(len(x) * n_regions):
        n, b = task // n_regions, task % n_regions
        z0, z1, y0, y1, x0, x1 = regions[b]
        total, divisor = y[n, b], x.dtype.type(divisors[b])
        for c in range(channels):
            total[c] = 0
        for z in range(z0, z1):
            for i in range(y0, y1):
                for j in range(x0, x1):
                    value = x[n, z, i, j]
                    for c in range(channels):
                        total[c] += value[c]
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
