"""Sums over the last axes (Caffe's Reduction), and the largest elements along an axis (ArgMax)."""
from spp import backend
from spp.backend.types import Array


def reduce_forward(x: Array, y: Array, operation: str, coeff: float) -> None:
    """y = coeff * the sum of x (SUM), of |x| (ASUM), of x^2 (SUMSQ), or the MEAN of x, over the axes that y lacks."""
    device, terms = backend.of(x), x
    if operation == "ASUM":
        terms = device.scratch_like("reduction.terms", x)
        device.xp.absolute(x, out=terms)
    elif operation == "SUMSQ":
        terms = device.scratch_like("reduction.terms", x)
        device.xp.multiply(x, x, out=terms)
    terms.sum(tuple(range(y.ndim, x.ndim)), out=y)
    y *= _scaled(x, y, operation, coeff)


def reduce_backward(dy: Array, x: Array, dx: Array, operation: str, coeff: float) -> None:
    """dx = the gradient of the input of `reduce_forward`, from dy, which has the axes of y."""
    xp = backend.of(x).xp
    slope = dy.reshape(dy.shape + (1,) * (x.ndim - dy.ndim)) * _scaled(x, dy, operation, coeff)
    if operation == "ASUM":
        xp.sign(x, out=dx)
        dx *= slope
    elif operation == "SUMSQ":
        xp.multiply(x, 2 * slope, out=dx)
    else:
        dx[...] = slope


def _scaled(x: Array, y: Array, operation: str, coeff: float) -> float:
    """The factor of the sum; the MEAN of no elements is 0."""
    return coeff / max(1, x.size // max(1, y.size)) if operation == "MEAN" else coeff


def largest(x: Array, axis: int, count: int) -> tuple[Array, Array]:
    """Indices (int64) and values of the `count` largest elements along an axis, in scratch buffers, the largest first.

    Of equal elements the last comes first. NaN counts as largest.
    """
    device = backend.of(x)
    last = device.xp.moveaxis(x, axis, -1)
    rows = device.load_matrix(last, last.ndim - 1, "reduction.rows")
    indices, values = (device.scratch(f"reduction.{name}", (len(rows), count), dtype)
                       for name, dtype in (("indices", "int64"), ("values", x.dtype)))
    device.largest(rows, indices, values)
    shape = *last.shape[:-1], count
    return device.xp.moveaxis(indices.reshape(shape), -1, axis), device.xp.moveaxis(values.reshape(shape), -1, axis)
