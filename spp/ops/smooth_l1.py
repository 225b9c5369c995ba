"""The smooth L1 loss: quadratic for small differences d, linear for large ones (Fast R-CNN, Sec. 2.3)."""
from spp import backend
from spp.backend.types import Array


def forward(d: Array, sigma: float, weight: Array | None = None) -> Array:
    """The sum of weight * f(d); f(d) = (sigma d)^2 / 2 where |d| < 1 / sigma^2, else |d| - 1 / (2 sigma^2).

    weight: of d's shape, or None for 1.
    """
    device = backend.of(d)
    loss, square, near = _buffers(d)
    device.xp.absolute(d, out=loss)
    device.xp.less(loss, 1 / sigma ** 2, out=near)
    loss -= 0.5 / sigma ** 2
    device.xp.multiply(d, 0.5 * sigma ** 2, out=square)
    square *= d
    device.xp.copyto(loss, square, where=near)
    if weight is not None:
        loss *= weight
    return loss.sum()


def backward(d: Array, sigma: float) -> Array:
    """f'(d), in a scratch buffer: sigma^2 d where |d| < 1 / sigma^2, else the sign of d."""
    device = backend.of(d)
    slope, linear, near = _buffers(d)
    device.xp.absolute(d, out=linear)
    device.xp.less(linear, 1 / sigma ** 2, out=near)
    device.xp.multiply(d, sigma ** 2, out=linear)
    device.xp.sign(d, out=slope)
    device.xp.copyto(slope, linear, where=near)
    return slope


def _buffers(d: Array) -> list[Array]:
    """Two scratch buffers of d's shape and dtype, and one of booleans."""
    return [backend.of(d).scratch_like(f"smooth_l1.{name}", d, dtype)
            for name, dtype in (("first", d.dtype), ("second", d.dtype), ("near", bool))]


def difference(a: Array, b: Array, weight: Array, out: Array) -> None:
    """out = weight * (a - b); weight may be None for 1. All have one shape."""
    backend.of(a).xp.subtract(a, b, out=out)
    if weight is not None:
        out *= weight
