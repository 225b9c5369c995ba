"""Statistics and affine maps of channels: of every position along the axes first .. last - 1 of an array.

Axis 1 for a bias or a batch normalisation, axes 0 and 1 for the maps of single images. The kernels take arrays
whose channels lie last in memory (N x C, and 4-D channels-last); NumPy does all others, in any order of memory.
Sums are in double precision, and the same for any number of threads.
"""
import functools
import math

import numpy as np
from numba import njit, prange

from spp.backend.host.scratch import scratch_like
from spp.backend.host.threads import by_one_if_short

BLOCKS = 16     # parts of the rows that are summed each by itself


@njit(parallel=True, cache=True, nogil=True)
def _moments(x, mean, variance):
    groups, rows, channels = x.shape
    blocks = min(BLOCKS, rows)
    sums = np.zeros((groups * blocks, 2, channels))
    for task in prange(groups * blocks):
        group, block = task // blocks, task % blocks
        total, squares = sums[task, 0], sums[task, 1]
        for row in range(block * rows // blocks, (block + 1) * rows // blocks):
            for c in range(channels):
                # from the first row, not from 0: else the squares of values far from 0 would cancel
                step = np.float64(x[group, row, c]) - np.float64(x[group, 0, c])
                total[c] += step
                squares[c] += step * step
    for group in range(groups):
        for c in range(channels):
            total_step = square = 0.0
            for block in range(blocks):
                total_step += sums[group * blocks + block, 0, c]
                square += sums[group * blocks + block, 1, c]
            step = total_step / rows
            mean[group, c] = x[group, 0, c] + step
            found = square / rows - step * step
            variance[group, c] = 0.0 if found < 0 else found


@njit(parallel=True, cache=True, nogil=True)
def _sums(x, out):
    groups, rows, channels = x.shape
    blocks = min(BLOCKS, rows)
    sums = np.zeros((groups * blocks, channels))
    for task in prange(groups * blocks):
        group, block = task // blocks, task % blocks
        total = sums[task]
        for row in range(block * rows // blocks, (block + 1) * rows // blocks):
            for c in range(channels):
                total[c] += x[group, row, c]
    out[...] = sums.reshape(groups, blocks, channels).sum(1)


@njit(parallel=True, cache=True, nogil=True)
def _dots(x, z, out):
    groups, rows, channels = x.shape
    blocks = min(BLOCKS, rows)
    sums = np.zeros((groups * blocks, channels))
    for task in prange(groups * blocks):
        group, block = task // blocks, task % blocks
        total = sums[task]
        for row in range(block * rows // blocks, (block + 1) * rows // blocks):
            for c in range(channels):
                total[c] += np.float64(x[group, row, c]) * np.float64(z[group, row, c])
    out[...] = sums.reshape(groups, blocks, channels).sum(1)


@njit(parallel=True, cache=True, nogil=True)
def _affine(x, shift, scale, bias, floor, y):
    groups, rows, channels = x.shape
    for i in prange(groups * rows):
        group, row = i // rows, i % rows
        for c in range(channels):
            value = (x[group, row, c] - shift[group, c]) * scale[group, c] + bias[group, c]
            y[group, row, c] = floor if value <= floor else value       # NaN stays NaN


@njit(parallel=True, cache=True, nogil=True)
def _combine(x, a, z, shift, b, c, y):
    groups, rows, channels = x.shape
    for i in prange(groups * rows):
        group, row = i // rows, i % rows
        for k in range(channels):
            y[group, row, k] = (a[group, k] * x[group, row, k] + b[group, k] * (z[group, row, k] - shift[group, k])
                                + c[group, k])


def _rows(first, last, *arrays):
    """The arrays as views groups x rows x channels, C-contiguous; None unless all lie so."""
    shape = arrays[0].shape
    channels = math.prod(shape[first:last])
    if channels == 0 or math.prod(shape) == 0:
        return None
    if math.prod(shape[last:]) == 1 and all(array.flags.c_contiguous for array in arrays):
        return [array.reshape(1, math.prod(shape[:first]), channels) for array in arrays]
    if len(shape) != 4 or last != 2 or first > 1:
        return None
    laid = [array.transpose(0, 2, 3, 1) for array in arrays]
    if not all(array.flags.c_contiguous for array in laid):
        return None
    groups = 1 if first == 1 else shape[0]
    return [array.reshape(groups, shape[0] * shape[2] * shape[3] // groups, shape[1]) for array in laid]


def _one_pass(x, *_):
    return x.size / 5_000


def _others(ndim, first, last):
    return tuple(axis for axis in range(ndim) if not first <= axis < last)


def _along(values, x, first, last):
    """A number, or one value a channel, as an array of x's dtype that broadcasts against x."""
    shape = x.shape[first:last]
    values = np.broadcast_to(np.asarray(values, x.dtype), shape)
    return values.reshape((1,) * first + shape + (1,) * (x.ndim - last))


def _by_group(values, rows):
    """A number, or one value a channel, as a contiguous array of the rows' dtype, groups x channels."""
    groups, _, channels = rows.shape
    if not isinstance(values, np.ndarray):
        return _constant(float(values), (groups, channels), rows.dtype)
    if values.size == 1:
        return np.full((groups, channels), values.item(), rows.dtype)
    return np.ascontiguousarray(values, rows.dtype).reshape(groups, channels)


@functools.lru_cache(64)
def _constant(value, shape, dtype):
    return np.full(shape, value, dtype)


@by_one_if_short(_one_pass)
def channel_moments(x: np.ndarray, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of each channel, float64 of shape x.shape[first:last]. x must not be empty."""
    laid = _rows(first, last, x)
    if laid is None:
        others = _others(x.ndim, first, last)
        mean = x.mean(others, dtype=np.float64, keepdims=True)
        steps = scratch_like("channels.steps", x, np.float64)
        np.subtract(x, mean, out=steps)
        np.multiply(steps, steps, out=steps)
        return mean.reshape(x.shape[first:last]), steps.mean(others)
    rows = laid[0]
    mean, variance = np.empty((2, len(rows), rows.shape[2]))
    _moments(rows, mean, variance)
    return mean.reshape(x.shape[first:last]), variance.reshape(x.shape[first:last])


@by_one_if_short(_one_pass)
def channel_sums(x: np.ndarray, first: int, last: int) -> np.ndarray:
    """The sum of each channel, float64 of shape x.shape[first:last]."""
    laid = _rows(first, last, x)
    if laid is None:
        return x.sum(_others(x.ndim, first, last), dtype=np.float64)
    out = np.empty((len(laid[0]), laid[0].shape[2]))
    _sums(laid[0], out)
    return out.reshape(x.shape[first:last])


@by_one_if_short(_one_pass)
def channel_dots(x: np.ndarray, z: np.ndarray, first: int, last: int) -> np.ndarray:
    """The sum of x * z over each channel, float64 of shape x.shape[first:last]."""
    laid = _rows(first, last, x, z)
    if laid is None:
        product = scratch_like("channels.product", x)
        np.multiply(x, z, out=product)
        return product.sum(_others(x.ndim, first, last), dtype=np.float64)
    out = np.empty((len(laid[0]), laid[0].shape[2]))
    _dots(laid[0], laid[1], out)
    return out.reshape(x.shape[first:last])


@by_one_if_short(_one_pass)
def channel_affine(x: np.ndarray, shift: np.ndarray | float, scale: np.ndarray | float, bias: np.ndarray | float,
                   y: np.ndarray, first: int, last: int, relu: bool = False) -> None:
    """y = (x - shift) * scale + bias, each a number or one value a channel; y may be x.

    relu: then max(y, 0), where NaN stays NaN.
    """
    laid = _rows(first, last, x, y)
    if laid is not None:
        source, out = laid
        shifts, scales, biases = _by_group(shift, source), _by_group(scale, source), _by_group(bias, source)
        _affine(source, shifts, scales, biases, x.dtype.type(0 if relu else -np.inf), out)
        return
    np.subtract(x, _along(shift, x, first, last), out=y)
    y *= _along(scale, x, first, last)
    y += _along(bias, x, first, last)
    if relu:
        np.maximum(y, 0, out=y)


@by_one_if_short(_one_pass)
def channel_combine(x: np.ndarray, a: np.ndarray, z: np.ndarray, shift: np.ndarray, b: np.ndarray, c: np.ndarray,
                    y: np.ndarray, first: int, last: int) -> None:
    """y = a * x + b * (z - shift) + c, with one a, shift, b, c a channel; y may be x."""
    laid = _rows(first, last, x, z, y)
    if laid is not None:
        by_a, shifts, by_b, by_c = (_by_group(values, laid[0]) for values in (a, shift, b, c))
        _combine(laid[0], by_a, laid[1], shifts, by_b, by_c, laid[2])
        return
    rest = scratch_like("channels.rest", x)
    np.subtract(z, _along(shift, x, first, last), out=rest)
    rest *= _along(b, x, first, last)
    rest += _along(c, x, first, last)
    np.multiply(x, _along(a, x, first, last), out=y)
    y += rest
