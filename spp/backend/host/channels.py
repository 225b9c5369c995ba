"""Statistics and affine maps of channels: a channel is one index of the `num_axes` axes from `axis` on.

Axis 1 alone for a bias or a batch normalization, axes 0 and 1 for the maps of single images. The kernels take arrays
whose channels are last in memory (N x C, and 4-D channels-last); NumPy computes all others, in any order of memory.
Sums are in double precision, and the same for any number of threads.
"""
import functools
import math
from typing import Any

import numpy as np
from numba import njit, prange

from spp.backend.host.scratch import scratch_like
from spp.backend.host.threads import by_one_if_short
from spp.backend.types import Array, Combination, Numbers

BLOCKS = 16     # into which the rows are divided; each is summed by itself


@njit(parallel=True, cache=True, nogil=True)
def _moments(x: Array, mean: Array, variance: Array) -> None:
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
            difference = square / rows - step * step
            variance[group, c] = 0.0 if difference < 0 else difference


@njit(parallel=True, cache=True, nogil=True)
def _sums(x: Array, z: Array, out: Array) -> None:
    """Sums of x * z, or of x if z is None."""
    groups, rows, channels = x.shape
    blocks = min(BLOCKS, rows)
    sums = np.zeros((groups * blocks, channels))
    for task in prange(groups * blocks):
        group, block = task // blocks, task % blocks
        total = sums[task]
        for row in range(block * rows // blocks, (block + 1) * rows // blocks):
            for c in range(channels):
                if z is None:
                    total[c] += x[group, row, c]
                else:
                    total[c] += np.float64(x[group, row, c]) * np.float64(z[group, row, c])
    out[...] = sums.reshape(groups, blocks, channels).sum(1)


@njit(parallel=True, cache=True, nogil=True)
def _affine(x: Array, shift: Array, scale: Array, bias: Array, floor: float, y: Array) -> None:
    groups, rows, channels = x.shape
    for i in prange(groups * rows):
        group, row = i // rows, i % rows
        for c in range(channels):
            value = (x[group, row, c] - shift[group, c]) * scale[group, c] + bias[group, c]
            y[group, row, c] = floor if value <= floor else value       # NaN stays NaN


@njit(parallel=True, cache=True, nogil=True)
def _combine(x: Array, a: Array, z: Array, shift: Array, b: Array, c: Array, y: Array) -> None:
    groups, rows, channels = x.shape
    for i in prange(groups * rows):
        group, row = i // rows, i % rows
        for k in range(channels):
            y[group, row, k] = (a[group, k] * x[group, row, k] + b[group, k] * (z[group, row, k] - shift[group, k])
                                + c[group, k])


def _as_rows(axis: int, num_axes: int, *arrays: np.ndarray) -> list[np.ndarray] | None:
    """Views groups x rows x channels of equally shaped arrays, C-contiguous; None if any array would need a copy."""
    shape, end = arrays[0].shape, axis + num_axes
    channels = math.prod(shape[axis:end])
    if channels == 0 or math.prod(shape) == 0:
        return None
    if math.prod(shape[end:]) == 1 and all(array.flags.c_contiguous for array in arrays):
        return [array.reshape(1, math.prod(shape[:axis]), channels) for array in arrays]
    if len(shape) != 4 or end != 2 or axis > 1:
        return None
    channels_last = [array.transpose(0, 2, 3, 1) for array in arrays]
    if not all(array.flags.c_contiguous for array in channels_last):
        return None
    groups = 1 if axis == 1 else shape[0]
    rows = shape[0] * shape[2] * shape[3] // groups
    return [array.reshape(groups, rows, shape[1]) for array in channels_last]


def _microseconds(x: np.ndarray, *_: Any) -> float:
    return x.size / 5_000


def _others(ndim: int, axis: int, num_axes: int) -> Numbers:
    return tuple(i for i in range(ndim) if not axis <= i < axis + num_axes)


def _broadcast(values: Array | float, x: np.ndarray, axis: int, num_axes: int) -> np.ndarray:
    """A number, or one value per channel, as an array of x's dtype that broadcasts against x."""
    shape = x.shape[axis:axis + num_axes]
    values = np.broadcast_to(np.asarray(values, x.dtype), shape)
    return values.reshape((1,) * axis + shape + (1,) * (x.ndim - axis - num_axes))


def _by_group(values: Array | float, rows: np.ndarray) -> np.ndarray:
    """A number, or one value per channel, as a contiguous array of the rows' dtype, groups x channels."""
    groups, _, channels = rows.shape
    if not isinstance(values, np.ndarray):
        return _constant(float(values), (groups, channels), rows.dtype)
    if values.size == 1:
        return np.full((groups, channels), values.item(), rows.dtype)
    return np.ascontiguousarray(values, rows.dtype).reshape(groups, channels)


@functools.lru_cache(64)
def _constant(value: float, shape: Numbers, dtype: np.dtype) -> np.ndarray:
    return np.full(shape, value, dtype)


@by_one_if_short(_microseconds)
def channel_moments(x: np.ndarray, axis: int, num_axes: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of each channel, float64 in the shape of the channels' axes. x must not be empty."""
    shape, views = x.shape[axis:axis + num_axes], _as_rows(axis, num_axes, x)
    if views is None:
        others = _others(x.ndim, axis, num_axes)
        mean = x.mean(others, dtype=np.float64, keepdims=True)
        steps = scratch_like("channels.steps", x, np.float64)
        np.subtract(x, mean, out=steps)
        np.multiply(steps, steps, out=steps)
        return mean.reshape(shape), steps.mean(others)
    mean, variance = np.empty((2, len(views[0]), views[0].shape[2]))
    _moments(views[0], mean, variance)
    return mean.reshape(shape), variance.reshape(shape)


def channel_sums(x: np.ndarray, axis: int, num_axes: int) -> np.ndarray:
    """The sum over each channel, float64 in the shape of the channels' axes."""
    return _channel_sums(x, None, axis, num_axes)


def channel_dots(x: np.ndarray, z: np.ndarray, axis: int, num_axes: int) -> np.ndarray:
    """The sum of x * z over each channel, float64 in the shape of the channels' axes."""
    return _channel_sums(x, z, axis, num_axes)


@by_one_if_short(_microseconds)
def _channel_sums(x: np.ndarray, z: np.ndarray | None, axis: int, num_axes: int) -> np.ndarray:
    views = _as_rows(axis, num_axes, x) if z is None else _as_rows(axis, num_axes, x, z)
    if views is None:
        product = x if z is None else np.multiply(x, z, out=scratch_like("channels.product", x))
        return product.sum(_others(x.ndim, axis, num_axes), dtype=np.float64)
    out = np.empty((len(views[0]), views[0].shape[2]))
    _sums(views[0], None if z is None else views[1], out)
    return out.reshape(x.shape[axis:axis + num_axes])


@by_one_if_short(_microseconds)
def channel_affine(x: np.ndarray, shift: np.ndarray | float, scale: np.ndarray | float, bias: np.ndarray | float,
                   y: np.ndarray, axis: int, num_axes: int, *, relu: bool = False) -> None:
    """y = (x - shift) * scale + bias, then max(y, 0) if `relu`, where NaN stays NaN; y may be x.

    shift, scale, bias: a number, or an array with one value per channel.
    """
    views = _as_rows(axis, num_axes, x, y)
    if views is not None:
        source, out = views
        shifts, scales, biases = _by_group(shift, source), _by_group(scale, source), _by_group(bias, source)
        _affine(source, shifts, scales, biases, x.dtype.type(0 if relu else -np.inf), out)
        return
    np.subtract(x, _broadcast(shift, x, axis, num_axes), out=y)
    y *= _broadcast(scale, x, axis, num_axes)
    y += _broadcast(bias, x, axis, num_axes)
    if relu:
        np.maximum(y, 0, out=y)


@by_one_if_short(_microseconds)
def channel_combine(x: np.ndarray, z: np.ndarray, terms: Combination, y: np.ndarray, axis: int, num_axes: int) -> None:
    """y = a * x + b * (z - shift) + c, with one a, shift, b and c per channel; y may be x."""
    views = _as_rows(axis, num_axes, x, z, y)
    if views is not None:
        source, other, out = views
        a, shift, b, c = (_by_group(values, source) for values in terms)
        _combine(source, a, other, shift, b, c, out)
        return
    a, shift, b, c = (_broadcast(values, x, axis, num_axes) for values in terms)
    rest = scratch_like("channels.rest", x)
    np.subtract(z, shift, out=rest)
    rest *= b
    rest += c
    np.multiply(x, a, out=y)
    y += rest
