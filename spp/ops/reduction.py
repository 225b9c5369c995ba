"""Sums over the last axes, and the largest elements along an axis."""
from typing import Any

from spp import backend


def reduce_forward(x: Any, y: Any, operation: str, coeff: float) -> None:
    """y = coeff * the SUM, MEAN, sum of absolute values (ASUM) or of squares (SUMSQ) of x over the axes y lacks."""
    device, terms = backend.of(x), x
    if operation == "ASUM":
        terms = device.scratch_like("reduction.terms", x)
        device.xp.absolute(x, out=terms)
    elif operation == "SUMSQ":
        terms = device.scratch_like("reduction.terms", x)
        device.xp.multiply(x, x, out=terms)
    terms.sum(tuple(range(y.ndim, x.ndim)), out=y)
    y *= _scaled(x, y, operation, coeff)


def reduce_backward(dy: Any, x: Any, dx: Any, operation: str, coeff: float) -> None:
    """The gradient of `reduce_forward`'s x."""
    xp = backend.of(x).xp
    slope = dy.reshape(dy.shape + (1,) * (x.ndim - dy.ndim)) * _scaled(x, dy, operation, coeff)
    if operation == "ASUM":
        xp.sign(x, out=dx)
        dx *= slope
    elif operation == "SUMSQ":
        xp.multiply(x, 2 * slope, out=dx)
    else:
        dx[...] = slope


def _scaled(x: Any, y: Any, operation: str, coeff: float) -> float:
    """The factor of the sum: of no elements at all the MEAN is 0."""
    return coeff / max(1, x.size // max(1, y.size)) if operation == "MEAN" else coeff


def largest(x: Any, axis: int, count: int) -> tuple[Any, Any]:
    """Indices (integers) and values of the `count` largest elements along an axis, the largest first.

    Of equal ones the last comes first. NaN counts as largest.
    """
    xp = backend.of(x).xp
    if count == 1:
        indices = x.shape[axis] - 1 - xp.expand_dims(xp.flip(x, axis).argmax(axis), axis)
    else:
        from_last = xp.flip(xp.argsort(x, axis, kind="stable"), axis)
        indices = from_last[(slice(None),) * axis + (slice(count),)]
    return indices, xp.take_along_axis(x, indices, axis)
