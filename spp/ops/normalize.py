"""Division by the L2 norm, with a learned scale (ParseNet; SSD's Normalize)."""
from typing import Any

from spp import backend


def norms(x: Any, across_spatial: bool, eps: float, norm: Any) -> None:
    """norm = sqrt(eps + sum x^2) of each image, or of each pixel over its channels.

    x: N x C x ...; norm: the same axes, those summed over of size 1.
    """
    device = backend.of(x)
    squares = device.scratch_like("normalize.product", x)
    device.xp.multiply(x, x, out=squares)
    squares.sum(_summed(x, across_spatial), keepdims=True, out=norm)
    norm += eps
    device.xp.sqrt(norm, out=norm)


def forward(x: Any, norm: Any, scale: Any, y: Any) -> None:
    """y = x / norm * scale; scale: one number, or one a channel."""
    backend.of(x).xp.divide(x, norm, out=y)
    y *= _by_channel(scale, x)


def backward_scale(dy: Any, x: Any, norm: Any, dscale: Any) -> None:
    """dscale += the sum of dy * x / norm that belongs to it."""
    device = backend.of(x)
    share = device.scratch_like("normalize.product", x)
    device.xp.multiply(dy, x, out=share)
    share /= norm
    dscale += share.sum() if dscale.size == 1 else share.sum((0, *range(2, x.ndim)))


def backward_data(dy: Any, x: Any, norm: Any, scale: Any, across_spatial: bool, dx: Any) -> None:
    """dx = (g - x * sum(g * x) / norm^2) / norm, with g = dy * scale."""
    device = backend.of(x)
    gradient, product = (device.scratch_like(f"normalize.{name}", x) for name in ("gradient", "product"))
    along, squared = (device.scratch_like(f"normalize.{name}", norm) for name in ("along", "squared"))
    device.xp.multiply(dy, _by_channel(scale, x), out=gradient)
    device.xp.multiply(gradient, x, out=product)
    product.sum(_summed(x, across_spatial), keepdims=True, out=along)
    device.xp.multiply(norm, norm, out=squared)
    along /= squared
    device.xp.multiply(x, along, out=product)
    device.xp.subtract(gradient, product, out=dx)
    dx /= norm


def _summed(x: Any, across_spatial: bool) -> tuple[int, ...]:
    """The axes that a norm is taken over."""
    return tuple(range(1, x.ndim)) if across_spatial else (1,)


def _by_channel(scale: Any, x: Any) -> Any:
    return scale.reshape(-1, *[1] * (x.ndim - 2))
