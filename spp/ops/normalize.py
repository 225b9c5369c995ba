"""Division by the L2 norm, with a learned scale (ParseNet; SSD's Normalize)."""
from typing import Any

from spp import backend


def norms(x: Any, across_spatial: bool, eps: float) -> Any:
    """sqrt(eps + sum x^2) of each image, or of each pixel over its channels; broadcasts over x (N x C x ...)."""
    axes = tuple(range(1, x.ndim)) if across_spatial else 1
    return backend.of(x).xp.sqrt((x * x).sum(axes, keepdims=True) + eps)


def forward(x: Any, norm: Any, scale: Any, y: Any) -> None:
    """y = x / norm * scale; scale: one number, or one a channel."""
    backend.of(x).xp.divide(x, norm, out=y)
    y *= _by_channel(scale, x)


def backward_scale(dy: Any, x: Any, norm: Any, dscale: Any) -> None:
    """dscale += the sum of dy * x / norm that belongs to it."""
    share = dy * x / norm
    dscale += share.sum() if dscale.size == 1 else share.sum((0, *range(2, x.ndim)))


def backward_data(dy: Any, x: Any, norm: Any, scale: Any, across_spatial: bool, dx: Any) -> None:
    """dx = (g - x * sum(g * x) / norm^2) / norm, with g = dy * scale."""
    axes = tuple(range(1, x.ndim)) if across_spatial else 1
    gradient = dy * _by_channel(scale, x)
    along = (gradient * x).sum(axes, keepdims=True) / (norm * norm)
    dx[...] = (gradient - x * along) / norm


def _by_channel(scale: Any, x: Any) -> Any:
    return scale.reshape(-1, *[1] * (x.ndim - 2))
