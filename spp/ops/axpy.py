"""a * x + y with one factor per image and channel (SENet's Axpy)."""
from spp import backend
from spp.backend.types import Array


def forward(a: Array, x: Array, y: Array, out: Array) -> None:
    """out = a * x + y. x, y, out: N x C x ...; a: N * C values."""
    backend.of(x).xp.multiply(x, _by_channel(a, x), out=out)
    out += y


def backward_factor(dy: Array, x: Array, da: Array) -> None:
    """da = the sum of dy * x over each channel of each image."""
    device = backend.of(x)
    product = device.scratch_like("axpy.product", x)
    device.xp.multiply(dy, x, out=product)
    da[...] = product.sum(tuple(range(2, x.ndim))).reshape(da.shape)


def backward_data(dy: Array, a: Array, dx: Array) -> None:
    """dx = a * dy."""
    backend.of(dy).xp.multiply(dy, _by_channel(a, dy), out=dx)


def _by_channel(a: Array, x: Array) -> Array:
    """The factors with as many axes as x."""
    return a.reshape(*x.shape[:2], *[1] * (x.ndim - 2))
