"""Several arrays of one dtype, combined element by element: Caffe's Eltwise, and SENet's Axpy."""
from typing import Sequence

from spp import backend
from spp.backend.types import Array


def sum_forward(xs: Sequence[Array], coeffs: Sequence[float], y: Array, relu: bool = False) -> None:
    """y = sum of coeff * x over two or more xs, then max(y, 0) if `relu`. y may be the first or the second x."""
    device = backend.of(y)
    total, weight = xs[0], coeffs[0]
    for i in range(1, len(xs)):
        device.weighted_sum(total, weight, xs[i], coeffs[i], y, relu and i == len(xs) - 1)
        total, weight = y, 1.0


def prod_forward(xs: Sequence[Array], y: Array) -> None:
    """y = product of two or more xs."""
    xp = backend.of(y).xp
    xp.multiply(xs[0], xs[1], out=y)
    for x in xs[2:]:
        y *= x


def prod_backward(dy: Array, xs: Sequence[Array], y: Array, index: int, stable: bool, dx: Array) -> None:
    """dx = dy * product of all xs but xs[index]; unless `stable` dy * y / xs[index]: NaN if that is 0."""
    xp = backend.of(y).xp
    if stable:
        dx[...] = dy
        for i, x in enumerate(xs):
            if i != index:
                dx *= x
    else:
        xp.divide(y, xs[index], out=dx)
        dx *= dy


def max_backward(dy: Array, winner: Array, index: int, dx: Array) -> None:
    """dx = dy where `winner` is `index`, else 0; dx is not dy."""
    device = backend.of(dy)
    wins = device.scratch_like("eltwise.larger", winner, bool)
    device.xp.equal(winner, index, out=wins)
    dx[...] = 0
    device.xp.copyto(dx, dy, where=wins)


def max_forward(xs: Sequence[Array], y: Array, winner: Array) -> None:
    """y = the largest x, winner (int) = its index. The second wins ties with the first, later ones lose all ties."""
    device = backend.of(y)
    larger = device.scratch_like("eltwise.larger", y, bool)
    winner[...] = 1
    y[...] = xs[1]
    for i, x in ((0, xs[0]), *enumerate(xs[2:], 2)):
        device.xp.greater(x, y, out=larger)
        device.xp.copyto(winner, i, where=larger)
        device.xp.copyto(y, x, where=larger)


def axpy_forward(a: Array, x: Array, y: Array, out: Array) -> None:
    """out = a * x + y. x, y, out: N x C x ...; a: N * C values."""
    backend.of(x).xp.multiply(x, _by_channel(a, x), out=out)
    out += y


def axpy_backward_factor(dy: Array, x: Array, da: Array) -> None:
    """da = the sum of dy * x over each channel of each image."""
    device = backend.of(x)
    product = device.scratch_like("axpy.product", x)
    device.xp.multiply(dy, x, out=product)
    da[...] = product.sum(tuple(range(2, x.ndim))).reshape(da.shape)


def axpy_backward_data(dy: Array, a: Array, dx: Array) -> None:
    """dx = a * dy."""
    backend.of(dy).xp.multiply(dy, _by_channel(a, dy), out=dx)


def _by_channel(a: Array, x: Array) -> Array:
    """The factors with as many axes as x."""
    return a.reshape(*x.shape[:2], *[1] * (x.ndim - 2))
