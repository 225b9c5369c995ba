"""Scale and bias along neighbouring axes: of x from axis `first` on, as many as the scale or bias has."""
from typing import Any

from spp import backend


def forward(x: Any, scale: Any, bias: Any, y: Any, first: int) -> None:
    """y = x * scale + bias; bias may be None; y may be x."""
    backend.of(x).channel_affine(x, 0, scale, 0 if bias is None else bias, y, first, first + scale.ndim)


def bias_forward(x: Any, bias: Any, y: Any, first: int) -> None:
    """y = x + bias; y may be x."""
    backend.of(x).channel_affine(x, 0, 1, bias, y, first, first + bias.ndim)


def scale_gradient(dy: Any, x: Any, scale: Any, first: int) -> Any:
    """The gradient of the scale, float64 in its shape."""
    return backend.of(x).channel_dots(dy, x, first, first + scale.ndim)


def bias_gradient(dy: Any, bias: Any, first: int) -> Any:
    """The gradient of the bias, float64 in its shape."""
    return backend.of(dy).channel_sums(dy, first, first + bias.ndim)
