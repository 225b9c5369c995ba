"""Local response normalization (Caffe's LRN; AlexNet, Sec. 3.3): y = x * scale^-beta.

Arrays have one floating dtype; y and dx must not share memory with the other arguments.
"""
from spp import backend
from spp.backend.types import Array, LrnParameters


def across_forward(x: Array, y: Array, parameters: LrnParameters) -> None:
    """scale = k + alpha / size * sum of x^2 over the `size` channels around each. x, y: N x C x (any axes)."""
    backend.of(x).lrn_across(x, y, parameters)


def across_backward(dy: Array, x: Array, dx: Array, parameters: LrnParameters) -> None:
    """dx = dy * scale^-beta - 2 alpha beta / size * x * sum of dy * y / scale over the same channels."""
    backend.of(x).lrn_across_backward(dy, x, dx, parameters)


def within_forward(x: Array, y: Array, parameters: LrnParameters) -> None:
    """scale = 1 + alpha / size^2 * sum of x^2 over the size x size window around each position.

    x, y: N x C x H x W. The divisor is size^2 at the border too, as in Caffe.
    """
    backend.of(x).lrn_within(x, y, parameters)


def within_backward(dy: Array, x: Array, dx: Array, parameters: LrnParameters) -> None:
    """dx = dy * scale^-beta - 2 alpha beta / size^2 * x * sum of dy * y / scale over the same window."""
    backend.of(x).lrn_within_backward(dy, x, dx, parameters)
