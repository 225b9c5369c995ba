"""Local response normalisation, y = x * scale^-beta.

The scale is computed again in the backward pass: that costs less than writing and reading it would.
"""
import math

import cupy

from spp.backend.cuda.kernels import BLOCK, CHANNELS, NEAR, TILE, in_c_order, launch, launch_blocks, room_for
from spp.backend.cuda.layout import store


def lrn_across(x: cupy.ndarray, y: cupy.ndarray, size: int, alpha: float, beta: float, k: float) -> None:
    """scale = k + alpha / size * sum of x^2 over `size` (odd) channels around each.

    x, y: N x C x (any axes). Zeros lie beyond the first and the last channel.
    """
    out = room_for(y)
    count, sizes = _across(x, size)
    launch("lrn_across", count, x.dtype, in_c_order(x), out, *sizes, alpha / size, float(beta), float(k))
    store(out, y)


def lrn_across_backward(dy: cupy.ndarray, x: cupy.ndarray, dx: cupy.ndarray,
                        size: int, alpha: float, beta: float, k: float) -> None:
    """dx = dy * scale^-beta - 2 alpha beta / size * x * sum of dy * y / scale over the same channels."""
    out, values = room_for(dx), in_c_order(x)
    count, sizes = _across(x, size)
    if size // 2 <= NEAR:
        across, down = -(-sizes[2] // TILE), -(-x.shape[1] // TILE)
        launch_blocks("lrn_across_backward_by_tile", len(x) * down * across, x.dtype, in_c_order(dy), values, out,
                      x.shape[1], sizes[2], across, down, sizes[3], alpha / size, float(beta), float(k))
        store(out, dx)
        return
    ratio = cupy.empty(x.shape, x.dtype)
    launch("lrn_across_ratio", count, x.dtype, in_c_order(dy), values, ratio, out, *sizes, alpha / size, float(beta),
           float(k))
    launch("lrn_across_backward", count, x.dtype, ratio, values, out, *sizes, alpha / size, float(beta))
    store(out, dx)


def lrn_within(x: cupy.ndarray, y: cupy.ndarray, size: int, alpha: float, beta: float) -> None:
    """scale = 1 + alpha / size^2 * sum of x^2 over the size x size (odd) positions around each, same channel.

    x, y: N x C x H x W. Zeros lie beyond the border.
    """
    out = room_for(y)
    launch("lrn_within", x.size, x.dtype, in_c_order(x), out, *_within(x, size), alpha / size ** 2, float(beta))
    store(out, y)


def lrn_within_backward(dy: cupy.ndarray, x: cupy.ndarray, dx: cupy.ndarray,
                        size: int, alpha: float, beta: float) -> None:
    """dx = dy * scale^-beta - 2 alpha beta / size^2 * x * sum of dy * y / scale over the same positions."""
    out, values = room_for(dx), in_c_order(x)
    rest = *_within(x, size), alpha / size ** 2, float(beta)
    if size // 2 <= NEAR:
        across, down = -(-x.shape[3] // TILE), -(-x.shape[2] // (BLOCK // TILE))
        launch_blocks("lrn_within_backward_by_tile", x.shape[0] * x.shape[1] * down * across, x.dtype, in_c_order(dy),
                      values, out, *x.shape[2:], across, down, *rest[2:])
        store(out, dx)
        return
    ratio = cupy.empty(x.shape, x.dtype)
    launch("lrn_within_ratio", x.size, x.dtype, in_c_order(dy), values, ratio, out, *rest)
    launch("lrn_within_backward", x.size, x.dtype, ratio, values, out, *rest)
    store(out, dx)


def _across(x, size):
    """How many threads there are; channels, groups of them, size of a map and half of the region."""
    channels, positions = x.shape[1], math.prod(x.shape[2:])
    groups = -(-channels // CHANNELS)
    return x.shape[0] * groups * positions, (channels, groups, positions, min(size // 2, channels))


def _within(x, size):
    return *x.shape[2:], min(size // 2, max(x.shape[2:]))
