"""Statistics and affine maps of channels: a channel is one index of the `num_axes` axes from `axis` on.

Axis 1 alone for a bias or a batch normalization, axes 0 and 1 for the maps of single images. Sums are in double
precision, and the same in every run.
"""
import math
from typing import Iterable

import cupy
import numpy as np

from spp.backend.cuda.kernels import BLOCK, OUT, launch, launch_blocks, launch_into, on_device
from spp.backend.cuda.layout import load
from spp.backend.types import Array, Combination, Numbers

MOST_PARTS = 64     # into which a channel is divided; each part is summed by a block of its own


def channel_moments(x: cupy.ndarray, axis: int, num_axes: int) -> tuple[cupy.ndarray, cupy.ndarray]:
    """Mean and biased variance of each channel, float64 in the shape of the channels' axes. x must not be empty."""
    values, sizes = load(x), _sizes(x, axis, num_axes)
    (outer, channels, inner), parts = sizes, _parts(sizes)
    sums, squares = cupy.empty((2, channels * parts), np.float64)
    launch_blocks("channel_squares", channels * parts, x.dtype, values, sums, squares, *sizes, parts)
    mean, variance = (cupy.empty(x.shape[axis:axis + num_axes], np.float64) for _ in range(2))
    launch("moments_of_parts", channels, x.dtype, values, sums, squares, mean, variance, inner, parts,
           np.float64(outer * inner))
    return mean, variance


def channel_sums(x: cupy.ndarray, axis: int, num_axes: int) -> cupy.ndarray:
    """The sum over each channel, float64 in the shape of the channels' axes."""
    values = load(x)
    return _sums(values, values, False, axis, num_axes)


def channel_dots(x: cupy.ndarray, z: cupy.ndarray, axis: int, num_axes: int) -> cupy.ndarray:
    """The sum of x * z over each channel, float64 in the shape of the channels' axes."""
    return _sums(load(x), load(z), True, axis, num_axes)


def _sums(x: cupy.ndarray, z: cupy.ndarray, dots: bool, axis: int, num_axes: int) -> cupy.ndarray:
    sizes = _sizes(x, axis, num_axes)
    parts, out = _parts(sizes), cupy.empty(x.shape[axis:axis + num_axes], np.float64)
    sums = cupy.empty(sizes[1] * parts, np.float64)
    launch_blocks("channel_sums", sums.size, x.dtype, x, z, dots, sums, *sizes, parts)
    launch("sum_of_parts", out.size, x.dtype, sums, out, parts)
    return out


def channel_affine(x: cupy.ndarray, shift: Array | float, scale: Array | float, bias: Array | float, y: cupy.ndarray,
                   axis: int, num_axes: int, *, relu: bool = False) -> None:
    """y = (x - shift) * scale + bias, then max(y, 0) if `relu`, where NaN stays NaN; y may be x."""
    values, steps = _by_channel((shift, scale, bias), x, x.shape[axis:axis + num_axes])
    launch_into(y, "channel_affine", x.size, x, *values, OUT, *_sizes(x, axis, num_axes)[1:], *steps, relu)


def channel_combine(x: cupy.ndarray, z: cupy.ndarray, terms: Combination, y: cupy.ndarray, axis: int,
                    num_axes: int) -> None:
    """y = a * x + b * (z - shift) + c, with one a, shift, b and c per channel; y may be x."""
    (a, *others), steps = _by_channel(terms, x, x.shape[axis:axis + num_axes])
    launch_into(y, "channel_combine", x.size, x, a, z, *others, OUT, *_sizes(x, axis, num_axes)[1:], *steps)


def _sizes(x: cupy.ndarray, axis: int, num_axes: int) -> tuple[int, int, int]:
    """The array as outer x channels x inner."""
    end = axis + num_axes
    return math.prod(x.shape[:axis]), math.prod(x.shape[axis:end]), math.prod(x.shape[end:])


def _parts(sizes: tuple[int, int, int]) -> int:
    """The number of parts into which a channel is divided, so that few long channels keep the whole GPU busy."""
    outer, _, inner = sizes
    return min(MOST_PARTS, max(1, outer * inner // (16 * BLOCK)))


def _by_channel(numbers: Iterable[Array | float], x: cupy.ndarray, shape: Numbers) -> tuple[list, list[int]]:
    """Numbers, or arrays with one value per channel, in x's dtype; and the distance of their values: 0 or 1."""
    values, steps = [], []
    for value in numbers:
        single = not isinstance(value, cupy.ndarray) or value.size == 1
        if not single:
            value = cupy.ascontiguousarray(cupy.broadcast_to(value, shape).astype(x.dtype, copy=False))
        values.append(on_device(value, x.dtype) if single else value)
        steps.append(int(not single))
    return values, steps
