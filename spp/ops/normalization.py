"""Normalisation of channels: of every position along the axes first .. last - 1, by its mean and variance."""
from typing import Any

from spp import backend


def moments(x: Any, first: int, last: int) -> tuple[Any, Any]:
    """Mean and biased variance of each channel, float64 of shape x.shape[first:last]. x must not be empty."""
    return backend.of(x).channel_moments(x, first, last)


def bias_gradient(dy: Any, first: int, last: int) -> Any:
    """The gradient of a bias behind the normalisation: the sum of dy over each channel."""
    return backend.of(dy).channel_sums(dy, first, last)


def scale_gradient(dy: Any, x: Any, mean: Any, factor: Any, dy_sum: Any, first: int, last: int) -> Any:
    """The gradient of a scale behind the normalisation: the sum of dy * (x - mean) * factor over each channel.

    dy_sum is the bias's.
    """
    return (backend.of(x).channel_dots(dy, x, first, last) - mean * dy_sum) * factor


def backward(dy: Any, x: Any, mean: Any, factor: Any, dy_y: Any, dy_sum: Any, dx: Any, first: int, last: int,
             scale: Any = 1) -> None:
    """dx = (dy - mean(dy) - mean(dy * y) * y) * factor * scale, where mean and factor come from x; dx may be dy.

    y is (x - mean) * factor, and what was made of it y * scale; dy_y and dy_sum are the scale's and the bias's
    gradient. It holds for factor = 1 / sqrt(variance + eps); Caffe's MVN takes 1 / (sqrt(variance) + eps) for that.
    """
    whole, count = factor * scale, x.size // max(1, mean.size)
    backend.of(x).channel_combine(dy, whole, x, mean, -dy_y / count * factor * whole, -dy_sum / count * whole, dx,
                                  first, last)


def mean_backward(dy: Any, dx: Any, first: int, last: int) -> None:
    """dx = dy - mean(dy): for y = x - mean(x); dx may be dy."""
    device = backend.of(dy)
    dy_sum = device.channel_sums(dy, first, last)
    device.channel_affine(dy, dy_sum / max(1, dy.size // max(1, dy_sum.size)), 1, 0, dx, first, last)
