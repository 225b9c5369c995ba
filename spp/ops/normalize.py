"""Division by the L2 norm, with a learned scale (Liu et al., ParseNet, Sec. 3.3; SSD's Normalize).

x, y: N x C x (any axes), one floating dtype; scale: one value, or one per channel; norm: the axes of x, of which those
summed over have size 1.
"""
from spp import backend
from spp.backend.types import Array


def norms(x: Array, across_spatial: bool, eps: float, norm: Array) -> None:
    """norm = sqrt(eps + sum x^2), over each image if `across_spatial`, else over the channels of each pixel."""
    device = backend.of(x)
    squares = device.scratch_like("normalize.product", x)
    device.xp.multiply(x, x, out=squares)
    squares.sum(_summed(x, across_spatial), keepdims=True, out=norm)
    norm += eps
    device.xp.sqrt(norm, out=norm)


def forward(x: Array, norm: Array, scale: Array, y: Array) -> None:
    """y = x / norm * scale; y may be x."""
    backend.of(x).xp.divide(x, norm, out=y)
    y *= _by_channel(scale, x)


def backward_scale(dy: Array, x: Array, norm: Array, dscale: Array) -> None:
    """dscale += the sum of dy * x / norm over all elements that share a scale."""
    device = backend.of(x)
    share = device.scratch_like("normalize.product", x)
    device.xp.multiply(dy, x, out=share)
    share /= norm
    dscale += share.sum() if dscale.size == 1 else share.sum((0, *range(2, x.ndim)))


def backward_data(dy: Array, x: Array, norm: Array, scale: Array, across_spatial: bool, dx: Array) -> None:
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


def _summed(x: Array, across_spatial: bool) -> tuple[int, ...]:
    """The axes that a norm sums over."""
    return tuple(range(1, x.ndim)) if across_spatial else (1,)


def _by_channel(scale: Array, x: Array) -> Array:
    return scale.reshape(-1, *[1] * (x.ndim - 2))
