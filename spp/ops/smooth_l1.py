"""The smooth L1 loss: quadratic for small differences, linear for large ones (Fast R-CNN, Sec. 2.3)."""
from typing import Any

from spp import backend


def forward(d: Any, sigma: float, weight: Any = None) -> Any:
    """The sum of weight * f(d); f(d) = (sigma d)^2 / 2 where |d| < 1 / sigma^2, else |d| - 1 / (2 sigma^2)."""
    xp = backend.of(d).xp
    size = xp.abs(d)
    loss = xp.where(size < 1 / sigma ** 2, 0.5 * sigma ** 2 * d * d, size - 0.5 / sigma ** 2)
    return (loss if weight is None else loss * weight).sum()


def backward(d: Any, sigma: float) -> Any:
    """f'(d): sigma^2 d where |d| < 1 / sigma^2, else the sign of d."""
    xp = backend.of(d).xp
    return xp.where(xp.abs(d) < 1 / sigma ** 2, sigma ** 2 * d, xp.sign(d))
