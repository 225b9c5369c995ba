"""Several arrays of one shape combined element by element."""
from typing import Any, Sequence

from spp import backend


def sum_forward(xs: Sequence[Any], coeffs: Sequence[float], y: Any) -> None:
    """y = sum of coeff * x."""
    backend.of(y).xp.multiply(xs[0], coeffs[0], out=y)
    for x, coeff in zip(xs[1:], coeffs[1:]):
        y += x if coeff == 1 else coeff * x


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


def max_forward(xs: Sequence[Any], y: Any, winner: Any) -> None:
    """y = the largest x, winner = its index. Of the first two a tie goes to the second; later ones must be larger."""
    xp = backend.of(y).xp
    winner[...] = ~(xs[0] > xs[1])
    y[...] = xp.where(xs[0] > xs[1], xs[0], xs[1])
    for i, x in enumerate(xs[2:], 2):
        larger = x > y
        winner[larger] = i
        xp.copyto(y, x, where=larger)
