"""Statistics and affine maps of channels: of every position along the axes first .. last - 1 of an array.

Axis 1 for a bias or a batch normalisation, axes 0 and 1 for the maps of single images. Sums are in double
precision, and the same in every run.
"""
import math
from typing import Any

import cupy
import numpy as np

from spp.backend.cuda.kernels import BLOCK, in_c_order, launch, launch_blocks, on_device, room_for
from spp.backend.cuda.layout import store

MOST_PARTS = 64     # parts of a channel that are summed each by a block of its own


def channel_moments(x: cupy.ndarray, first: int, last: int) -> tuple[cupy.ndarray, cupy.ndarray]:
    """Mean and biased variance of each channel, float64 of shape x.shape[first:last]. x must not be empty."""
    values, sizes, parts = in_c_order(x), _sizes(x, first, last), _parts(x, first, last)
    outer, channels, inner = sizes
    sums, squares = cupy.empty((2, channels * parts), np.float64)
    launch_blocks("channel_squares", channels * parts, x.dtype, values, sums, squares, *sizes, parts)
    mean, variance = (cupy.empty(x.shape[first:last], np.float64) for _ in range(2))
    launch("moments_of_parts", channels, x.dtype, values, sums, squares, mean, variance, inner, parts,
           np.float64(outer * inner))
    return mean, variance


def channel_sums(x: cupy.ndarray, first: int, last: int) -> cupy.ndarray:
    """The sum of each channel, float64 of shape x.shape[first:last]."""
    values = in_c_order(x)
    return _sums(values, values, False, first, last)


def channel_dots(x: cupy.ndarray, z: cupy.ndarray, first: int, last: int) -> cupy.ndarray:
    """The sum of x * z over each channel, float64 of shape x.shape[first:last]."""
    return _sums(in_c_order(x), in_c_order(z), True, first, last)


def _sums(x, z, dots, first, last):
    sizes, parts = _sizes(x, first, last), _parts(x, first, last)
    sums, out = cupy.empty(sizes[1] * parts, np.float64), cupy.empty(x.shape[first:last], np.float64)
    launch_blocks("channel_sums", sums.size, x.dtype, x, z, dots, sums, *sizes, parts)
    launch("sum_of_parts", out.size, x.dtype, sums, out, parts)
    return out


def channel_affine(x: cupy.ndarray, shift: Any, scale: Any, bias: Any, y: cupy.ndarray, first: int, last: int,
                   relu: bool = False) -> None:
    """y = (x - shift) * scale + bias, each a number or one value a channel; y may be x.

    relu: then max(y, 0), where NaN stays NaN.
    """
    out = room_for(y)
    values, steps = _by_channel((shift, scale, bias), x, first, last)
    launch("channel_affine", x.size, x.dtype, in_c_order(x), *values, out, *_sizes(x, first, last)[1:], *steps, relu)
    store(out, y)


def channel_combine(x: cupy.ndarray, a: Any, z: cupy.ndarray, shift: Any, b: Any, c: Any, y: cupy.ndarray,
                    first: int, last: int) -> None:
    """y = a * x + b * (z - shift) + c, with one a, shift, b, c a channel; y may be x."""
    out = room_for(y)
    (a, shift, b, c), steps = _by_channel((a, shift, b, c), x, first, last)
    launch("channel_combine", x.size, x.dtype, in_c_order(x), a, in_c_order(z), shift, b, c, out,
           *_sizes(x, first, last)[1:], *steps)
    store(out, y)


def _sizes(x, first, last):
    """The array as outer x channels x inner."""
    return math.prod(x.shape[:first]), math.prod(x.shape[first:last]), math.prod(x.shape[last:])


def _parts(x, first, last):
    """How many parts a channel is cut into, so that few long channels keep the whole GPU busy."""
    outer, _, inner = _sizes(x, first, last)
    return min(MOST_PARTS, max(1, outer * inner // (16 * BLOCK)))


def _by_channel(given, x, first, last):
    """Numbers, or arrays of one value a channel, in x's dtype; and how far apart their values lie: 0 or 1."""
    values, steps = [], []
    for value in given:
        one = not isinstance(value, cupy.ndarray) or value.size == 1
        if not one:
            value = cupy.ascontiguousarray(cupy.broadcast_to(value, x.shape[first:last]).astype(x.dtype, copy=False))
        values.append(on_device(value, x.dtype) if one else value)
        steps.append(int(not one))
    return values, steps
