"""Elementwise functions whose speed matters: one pass over memory, by all threads; and the random masks of dropout."""
import numba
import numpy as np

from spp.backend.host.layout import flat_views
from spp.backend.host.scratch import scratch, scratch_like
from spp.backend.host.threads import by_one_if_short
from spp.backend.types import Array


@numba.njit(parallel=True, cache=True, nogil=True)
def _relu(x: Array, y: Array, slope: float) -> None:
    zero = x.dtype.type(0)
    for i in numba.prange(x.size):
        value = x[i]
        below = zero if slope == 0 else slope * value       # 0 for minus infinity too
        y[i] = below if value <= 0 else value               # NaN stays NaN


@numba.njit(parallel=True, cache=True, nogil=True)
def _relu_backward(dy: Array, x: Array, dx: Array, slope: float) -> None:
    for i in numba.prange(x.size):
        gradient = dy[i]
        dx[i] = gradient if x[i] > 0 else slope * gradient


@numba.njit(parallel=True, cache=True, nogil=True)
def _weighted_sum(x: Array, a: float, z: Array, b: float, floor: float, y: Array) -> None:
    for i in numba.prange(x.size):
        value = a * x[i] + b * z[i]
        y[i] = floor if value <= floor else value       # NaN stays NaN


@by_one_if_short(lambda x, *_: x.size / 10_000)
def relu(x: np.ndarray, y: np.ndarray, negative_slope: float) -> None:
    """y = max(x, 0) + negative_slope * min(x, 0); y may be x."""
    views = flat_views(x, y)
    if views is None:
        copy = scratch("elementwise.x", x.shape, x.dtype)
        copy[...] = x
        relu(copy, copy, negative_slope)
        y[...] = copy
    else:
        source, out = views
        _relu(source, out, x.dtype.type(negative_slope))


@by_one_if_short(lambda dy, *_: dy.size / 7_000)
def relu_backward(dy: np.ndarray, x: np.ndarray, dx: np.ndarray, negative_slope: float) -> None:
    """dx = dy where x > 0, else negative_slope * dy; dx may be dy."""
    views = flat_views(dy, x, dx)
    if views is None:
        gradient, values = (scratch(f"elementwise.{name}", x.shape, x.dtype) for name in ("dy", "x"))
        gradient[...], values[...] = dy, x
        relu_backward(gradient, values, gradient, negative_slope)
        dx[...] = gradient
    else:
        gradient, values, out = views
        _relu_backward(gradient, values, out, x.dtype.type(negative_slope))


@by_one_if_short(lambda x, *_: x.size / 7_000)
def weighted_sum(x: np.ndarray, a: float, z: np.ndarray, b: float, y: np.ndarray, relu: bool = False) -> None:
    """y = a * x + b * z, then max(y, 0) if `relu`, where NaN stays NaN; y may be x or z."""
    views = flat_views(x, z, y)
    if views is None:
        share = np.multiply(z, b, out=scratch_like("elementwise.share", z))
        np.multiply(x, a, out=y)
        y += share
        if relu:
            np.maximum(y, 0, out=y)
    else:
        first, second, out = views
        real = x.dtype.type
        _weighted_sum(first, real(a), second, real(b), real(0 if relu else -np.inf), out)


def draw_mask(stream: np.random.Generator, ratio: float, value: float, mask: np.ndarray) -> None:
    """Each element of mask = 0 with probability `ratio`, else `value`. mask: any shape, a floating dtype."""
    uniform = scratch("dropout.uniform", mask.shape, np.float32)
    stream.random(dtype=np.float32, out=uniform)
    np.greater_equal(uniform, ratio, out=mask)
    if value != 1:
        mask *= value
