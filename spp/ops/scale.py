"""Gradients of a scale and a bias along neighbouring axes: of x from axis `first` on, as many as they have."""
from typing import Any

from spp import backend


def scale_gradient(dy: Any, x: Any, scale: Any, first: int) -> Any:
    """The gradient of the scale, float64 in its shape."""
    return backend.of(x).channel_dots(dy, x, first, first + scale.ndim)


def bias_gradient(dy: Any, bias: Any, first: int) -> Any:
    """The gradient of the bias, float64 in its shape."""
    return backend.of(dy).channel_sums(dy, first, first + bias.ndim)
