"""Elementwise functions of one array; y may be x itself. dx may be dy itself."""
from typing import Any

from spp import backend


def relu_forward(x: Any, y: Any, negative_slope: float) -> None:
    """y = max(x, 0) + negative_slope * min(x, 0)."""
    xp = backend.of(x).xp
    if negative_slope:
        xp.multiply(x, xp.where(x > 0, x.dtype.type(1), x.dtype.type(negative_slope)), out=y)
    else:
        xp.maximum(x, 0, out=y)


def relu_backward(dy: Any, x: Any, dx: Any, negative_slope: float) -> None:
    """dx = dy where x > 0, else negative_slope * dy. `x` may be the output, in place, if the slope is not negative."""
    xp = backend.of(x).xp
    if negative_slope:
        xp.multiply(dy, xp.where(x > 0, dy.dtype.type(1), dy.dtype.type(negative_slope)), out=dx)
    else:
        xp.multiply(dy, x > 0, out=dx)


def tanh_forward(x: Any, y: Any) -> None:
    """y = tanh(x)."""
    backend.of(x).xp.tanh(x, out=y)


def tanh_backward(dy: Any, y: Any, dx: Any) -> None:
    """dx = dy * (1 - y^2)."""
    backend.of(y).xp.multiply(dy, 1 - y * y, out=dx)


def power_forward(x: Any, y: Any, power: float, scale: float, shift: float) -> None:
    """y = (shift + scale * x) ^ power; where power * scale is 0 the constant shift ^ power (1 if power is 0)."""
    if power * scale == 0:
        y[...] = 1.0 if power == 0 else shift ** power
        return
    xp = backend.of(x).xp
    xp.multiply(x, scale, out=y)
    y += shift
    if power != 1:
        xp.power(y, power, out=y)


def power_backward(dy: Any, x: Any, dx: Any, power: float, scale: float, shift: float) -> None:
    """dx = dy * power * scale * (shift + scale * x) ^ (power - 1); 0 for a constant."""
    if power * scale == 0:
        dx[...] = 0
    elif power == 1:
        backend.of(x).xp.multiply(dy, scale, out=dx)
    else:
        slope = backend.of(x).xp.power(shift + scale * x, power - 1)
        backend.of(x).xp.multiply(dy, (power * scale) * slope, out=dx)


def scale_by_mask(x: Any, mask: Any, y: Any) -> None:
    """y = x * mask: dropout forward, and backward with (dy, mask, dx)."""
    backend.of(x).xp.multiply(x, mask, out=y)
