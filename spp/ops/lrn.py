"""Local response normalisation (Caffe's LRN): y = x * scale^-beta; alpha is divided by the window's size."""
from typing import Any

from spp import backend


def across_forward(x: Any, y: Any, size: int, alpha: float, beta: float, k: float) -> None:
    """scale = k + alpha / size * sum of x^2 over the `size` (odd) channels around each.

    x, y: N x C x (any axes).
    """
    backend.of(x).lrn_across(x, y, size, alpha, beta, k)


def across_backward(dy: Any, x: Any, dx: Any, size: int, alpha: float, beta: float, k: float) -> None:
    """dx = dy * scale^-beta - 2 alpha beta / size * x * sum of dy * y / scale over the same channels."""
    backend.of(x).lrn_across_backward(dy, x, dx, size, alpha, beta, k)


def within_forward(x: Any, y: Any, size: int, alpha: float, beta: float) -> None:
    """scale = 1 + alpha / size^2 * sum of x^2 over the size x size (odd) window around each position.

    x, y: N x C x H x W. The divisor is size^2 at the border too, as in Caffe.
    """
    backend.of(x).lrn_within(x, y, size, alpha, beta)


def within_backward(dy: Any, x: Any, dx: Any, size: int, alpha: float, beta: float) -> None:
    """dx = dy * scale^-beta - 2 alpha beta / size^2 * x * sum of dy * y / scale over the same window."""
    backend.of(x).lrn_within_backward(dy, x, dx, size, alpha, beta)
