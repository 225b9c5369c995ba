"""Gradients of Caffe's Scale and Bias, whose parameters have the shape of adjacent axes of x, from `axis` on."""
from spp import backend
from spp.backend.types import Array


def scale_gradient(dy: Array, x: Array, scale: Array, axis: int) -> Array:
    """The gradient of the scale, float64 in its shape: the sum of dy * x over all other axes."""
    return backend.of(x).channel_dots(dy, x, axis, scale.ndim)


def bias_gradient(dy: Array, bias: Array, axis: int) -> Array:
    """The gradient of the bias, float64 in its shape: the sum of dy over all other axes."""
    return backend.of(dy).channel_sums(dy, axis, bias.ndim)
