"""Normalisation of channels: of every position along the axes first .. last - 1, by its mean and variance."""
from typing import Any

from spp import backend


def moments(x: Any, first: int, last: int) -> tuple[Any, Any]:
    """Mean and biased variance of each channel, float64 of shape x.shape[first:last]. x must not be empty."""
    return backend.of(x).channel_moments(x, first, last)


def forward(x: Any, mean: Any, factor: Any, y: Any, first: int, last: int, bias: Any = 0) -> None:
    """y = (x - mean) * factor + bias; y may be x."""
    backend.of(x).channel_affine(x, mean, factor, bias, y, first, last)


def backward(dy: Any, x: Any, mean: Any, factor: Any, dx: Any, first: int, last: int, scale: Any = 1) -> None:
    """dx = (dy - mean(dy) - mean(dy * y) * y) * factor * scale, where mean and factor come from x; dx may be dy.

    y is (x - mean) * factor, and what was made of it y * scale. That holds for factor = 1 / sqrt(variance + eps);
    Caffe's MVN takes it for 1 / (sqrt(variance) + eps) too.
    """
    device = backend.of(x)
    count = x.size // max(1, mean.size)
    dy_sum = device.channel_sums(dy, first, last)
    dy_y = (device.channel_dots(dy, x, first, last) - mean * dy_sum) * factor / count
    device.channel_combine(dy, factor * scale, x, mean, -dy_y * factor * factor * scale,
                           -dy_sum / count * factor * scale, dx, first, last)


def scale_gradient(dy: Any, x: Any, mean: Any, factor: Any, first: int, last: int) -> Any:
    """The gradient of a scale behind the normalisation: the sum of dy * (x - mean) * factor over each channel."""
    device = backend.of(x)
    return (device.channel_dots(dy, x, first, last) - mean * device.channel_sums(dy, first, last)) * factor


def bias_gradient(dy: Any, first: int, last: int) -> Any:
    """The gradient of a bias behind the normalisation: the sum of dy over each channel."""
    return backend.of(dy).channel_sums(dy, first, last)


def backward_of_constants(dy: Any, factor: Any, dx: Any, first: int, last: int) -> None:
    """dx = dy * factor, where mean and factor do not depend on x; dx may be dy."""
    backend.of(dy).channel_affine(dy, 0, factor, 0, dx, first, last)


def mean_backward(dy: Any, dx: Any, first: int, last: int) -> None:
    """dx = dy - mean(dy): for y = x - mean(x); dx may be dy."""
    device = backend.of(dy)
    dy_sum = device.channel_sums(dy, first, last)
    device.channel_affine(dy, dy_sum / max(1, dy.size // max(1, dy_sum.size)), 1, 0, dx, first, last)
