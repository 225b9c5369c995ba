"""Local response normalization, y = x * scale^-beta.

The backward pass computes the scale again, which costs less than writing and reading it.
"""
import math

import cupy

from spp.backend.cuda.kernels import BLOCK, CHANNELS, NEAR, OUT, TILE, launch, launch_into
from spp.backend.cuda.layout import empty, load, store
from spp.backend.types import LrnParameters, Numbers


def lrn_across(x: cupy.ndarray, y: cupy.ndarray, p: LrnParameters) -> None:
    """y = x * scale^-beta; scale = k + alpha / size * sum of x^2 over the `size` channels around each."""
    count, sizes = _across(x, p.size)
    launch_into(y, "lrn_across", count, x, OUT, *sizes, p.alpha / p.size, float(p.beta), float(p.k))


def lrn_across_backward(dy: cupy.ndarray, x: cupy.ndarray, dx: cupy.ndarray, p: LrnParameters) -> None:
    """dx = dy * scale^-beta - 2 alpha beta / size * x * sum of dy * y / scale over the same channels."""
    x, (count, sizes), numbers = load(x), _across(x, p.size), (p.alpha / p.size, float(p.beta), float(p.k))
    if p.size // 2 <= NEAR:
        across, down = -(-sizes[2] // TILE), -(-x.shape[1] // TILE)
        launch_into(dx, "lrn_across_backward_by_tile", len(x) * down * across, dy, x, OUT, x.shape[1], sizes[2],
                    across, down, sizes[3], *numbers, by_block=True)
    else:
        ratio, out = cupy.empty(x.shape, x.dtype), empty(dx)
        launch("lrn_across_ratio", count, x.dtype, load(dy), x, ratio, out, *sizes, *numbers)
        launch("lrn_across_backward", count, x.dtype, ratio, x, out, *sizes, *numbers[:2])
        store(out, dx)


def lrn_within(x: cupy.ndarray, y: cupy.ndarray, p: LrnParameters) -> None:
    """y = x * scale^-beta; scale = 1 + alpha / size^2 * sum of x^2 over the window around each position."""
    launch_into(y, "lrn_within", x.size, x, OUT, *_within(x, p.size), p.alpha / p.size ** 2, float(p.beta))


def lrn_within_backward(dy: cupy.ndarray, x: cupy.ndarray, dx: cupy.ndarray, p: LrnParameters) -> None:
    """dx = dy * scale^-beta - 2 alpha beta / size^2 * x * sum of dy * y / scale over the same window."""
    x, rest = load(x), (*_within(x, p.size), p.alpha / p.size ** 2, float(p.beta))
    if p.size // 2 <= NEAR:
        across, down = -(-x.shape[3] // TILE), -(-x.shape[2] // (BLOCK // TILE))
        launch_into(dx, "lrn_within_backward_by_tile", x.shape[0] * x.shape[1] * down * across, dy, x, OUT,
                    *x.shape[2:], across, down, *rest[2:], by_block=True)
    else:
        ratio, out = cupy.empty(x.shape, x.dtype), empty(dx)
        launch("lrn_within_ratio", x.size, x.dtype, load(dy), x, ratio, out, *rest)
        launch("lrn_within_backward", x.size, x.dtype, ratio, x, out, *rest)
        store(out, dx)


def _across(x: cupy.ndarray, size: int) -> tuple[int, Numbers]:
    """The number of threads; channels, groups of them, positions of a map and half of the window."""
    channels, positions = x.shape[1], math.prod(x.shape[2:])
    groups = -(-channels // CHANNELS)
    return x.shape[0] * groups * positions, (channels, groups, positions, min(size // 2, channels))


def _within(x: cupy.ndarray, size: int) -> Numbers:
    """Height, width and half of the window."""
    return *x.shape[2:], min(size // 2, max(x.shape[2:]))
