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
    """Indices (int64) and values of the `count` largest elements along an axis, the largest first, in scratch buffers.

    Of equal ones the last comes first. NaN counts as largest.
    """
    device = backend.of(x)
    last = device.xp.moveaxis(x, axis, -1)
    rows = device.load_matrix(last, last.ndim - 1, "reduction.rows")
    found = [device.scratch(f"reduction.{name}", (len(rows), count), dtype)
             for name, dtype in (("indices", "int64"), ("values", x.dtype))]
    device.largest(rows, *found)
    indices, values = (device.xp.moveaxis(array.reshape(*last.shape[:-1], count), -1, axis) for array in found)
    return indices, values
