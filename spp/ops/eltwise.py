"""Several arrays of one shape combined element by element."""
from typing import Any, Sequence

from spp import backend


def sum_forward(xs: Sequence[Any], coeffs: Sequence[float], y: Any, relu: bool = False) -> None:
    """y = sum of coeff * x, of two xs or more; with `relu` max(y, 0). y may be the first or the second x."""
    device = backend.of(y)
    total, weight = xs[0], coeffs[0]
    for i in range(1, len(xs)):
        device.weighted_sum(total, weight, xs[i], coeffs[i], y, relu and i == len(xs) - 1)
        total, weight = y, 1.0


def prod_forward(xs: Sequence[Any], y: Any) -> None:
    """y = product of the xs."""
    xp = backend.of(y).xp
    xp.multiply(xs[0], xs[1], out=y)
    for x in xs[2:]:
        y *= x


def prod_backward(dy: Any, xs: Sequence[Any], y: Any, index: int, stable: bool, dx: Any) -> None:
    """dx = dy * product of the other xs, or dy * y / x where not `stable` (NaN where x is 0, as in Caffe)."""
    xp = backend.of(y).xp
    if stable:
        dx[...] = dy
        for i, x in enumerate(xs):
            if i != index:
                dx *= x
    else:
        xp.divide(y, xs[index], out=dx)
        dx *= dy


def max_backward(dy: Any, winner: Any, index: int, dx: Any) -> None:
    """dx = dy where `winner` is `index`, else 0; dx is not dy."""
    device = backend.of(dy)
    wins = device.scratch_like("eltwise.larger", winner, bool)
    device.xp.equal(winner, index, out=wins)
    dx[...] = 0
    device.xp.copyto(dx, dy, where=wins)


def max_forward(xs: Sequence[Any], y: Any, winner: Any) -> None:
    """y = the largest x, winner = its index. Of the first two a tie goes to the second; later ones must be larger."""
    device = backend.of(y)
    larger = device.scratch_like("eltwise.larger", y, bool)
    winner[...] = 1
    y[...] = xs[1]
    for i, x in ((0, xs[0]), *enumerate(xs[2:], 2)):
        device.xp.greater(x, y, out=larger)
        device.xp.copyto(winner, i, where=larger)
        device.xp.copyto(y, x, where=larger)
