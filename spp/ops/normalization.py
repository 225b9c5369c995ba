"""Normalization of channels by their mean and variance (Caffe's BatchNorm and MVN; Ioffe and Szegedy, 2015).

A channel is one index of the `num_axes` axes from `axis` on; the statistics are over all other axes. Statistics and
gradients of scale and bias have the shape of these axes.
"""
from typing import NamedTuple

from spp import backend
from spp.backend.types import Array, Combination


class Statistics(NamedTuple):
    """What normalizes a channel: y = (x - mean) * factor; factor is usually 1 / sqrt(variance + eps). float64."""

    mean: Array
    factor: Array


class Gradients(NamedTuple):
    """The sums of dy * y and of dy over each channel: the gradients of a scale and a bias after the normalization."""

    scale: Array
    bias: Array


def moments(x: Array, axis: int, num_axes: int) -> tuple[Array, Array]:
    """Mean and biased variance of each channel, float64. x must not be empty."""
    return backend.of(x).channel_moments(x, axis, num_axes)


def bias_gradient(dy: Array, axis: int, num_axes: int) -> Array:
    """The gradient of a bias: the sum of dy over each channel, float64."""
    return backend.of(dy).channel_sums(dy, axis, num_axes)


def dots(dy: Array, x: Array, axis: int, num_axes: int) -> Array:
    """The gradient of a scale of x itself: the sum of dy * x over each channel, float64."""
    return backend.of(x).channel_dots(dy, x, axis, num_axes)


def scale_gradient(dy: Array, x: Array, statistics: Statistics, dy_sum: Array, axis: int, num_axes: int) -> Array:
    """The gradient of a scale after the normalization: the sum of dy * (x - mean) * factor over each channel, float64.

    dy_sum: the result of `bias_gradient`.
    """
    return (dots(dy, x, axis, num_axes) - statistics.mean * dy_sum) * statistics.factor


def backward(dy: Array, x: Array, statistics: Statistics, gradients: Gradients, dx: Array, axis: int, num_axes: int,
             *, scale: Array | float = 1) -> None:
    """dx = (dy - mean(dy) - mean(dy * y) * y) * factor * scale; dx may be dy.

    `statistics` are those of x. y = (x - mean) * factor was then multiplied by `scale`, one value per channel. This is
    the gradient for factor = 1 / sqrt(variance + eps); MVN uses it for 1 / (sqrt(variance) + eps) too, as Caffe does.
    """
    mean, factor = statistics
    whole, count = factor * scale, x.size // max(1, mean.size)
    backend.of(x).channel_combine(dy, x, Combination(whole, mean, -gradients.scale / count * factor * whole,
                                                     -gradients.bias / count * whole), dx, axis, num_axes)


def mean_backward(dy: Array, dx: Array, axis: int, num_axes: int) -> None:
    """dx = dy - mean(dy): the gradient of y = x - mean(x); dx may be dy."""
    device = backend.of(dy)
    dy_sum = device.channel_sums(dy, axis, num_axes)
    device.channel_affine(dy, dy_sum / max(1, dy.size // max(1, dy_sum.size)), 1, 0, dx, axis, num_axes)
