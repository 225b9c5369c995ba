"""Normalisation of channels: of every position along the axes first .. last - 1, by its mean and variance."""
from typing import Any

from spp import backend


def moments(x: Any, first: int, last: int) -> tuple[Any, Any]:
    """Mean and biased variance of each channel, float64 of shape x.shape[first:last]. x must not be empty."""
    return backend.of(x).channel_moments(x, first, last)


def forward(x: Any, mean: Any, factor: Any, y: Any, first: int, last: int) -> None:
    """y = (x - mean) * factor; y may be x."""
    backend.of(x).channel_affine(x, mean, factor, 0, y, first, last)


def backward(dy: Any, x: Any, mean: Any, factor: Any, dx: Any, first: int, last: int) -> None:
    """dx = (dy - mean(dy) - mean(dy * y) * y) * factor, where mean and factor come from x itself; dx may be dy.

    That holds for factor = 1 / sqrt(variance + eps); Caffe's MVN takes it for 1 / (sqrt(variance) + eps) too.
    """
    device = backend.of(x)
    count = x.size // max(1, mean.size)
    dy_sum = device.channel_sums(dy, first, last)
    dy_y = (device.channel_dots(dy, x, first, last) - mean * dy_sum) * factor / count
    device.channel_combine(dy, factor, x, mean, -dy_y * factor * factor, -dy_sum / count * factor, dx, first, last)


def backward_of_constants(dy: Any, factor: Any, dx: Any, first: int, last: int) -> None:
    """dx = dy * factor, where mean and factor do not depend on x; dx may be dy."""
    backend.of(dy).channel_affine(dy, 0, factor, 0, dx, first, last)


def mean_backward(dy: Any, dx: Any, first: int, last: int) -> None:
    """dx = dy - mean(dy): for y = x - mean(x); dx may be dy."""
    device = backend.of(dy)
    dy_sum = device.channel_sums(dy, first, last)
    device.channel_affine(dy, dy_sum / max(1, dy.size // max(1, dy_sum.size)), 1, 0, dx, first, last)
