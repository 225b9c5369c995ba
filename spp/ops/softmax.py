"""Softmax over an axis, and its multinomial logistic loss."""
from typing import Any

import numpy as np

from spp import backend

TINY = float(np.finfo(np.float32).tiny)     # Caffe's floor under a probability before its logarithm


def softmax_forward(x: Any, y: Any, axis: int) -> None:
    """y = exp(x - max) / sum over `axis`; y may be x."""
    backend.of(x).softmax(x, y, axis)


def softmax_backward(dy: Any, y: Any, dx: Any, axis: int) -> None:
    """dx = (dy - sum(dy * y)) * y; dx may be dy."""
    backend.of(y).softmax_backward(dy, y, dx, axis)


def class_last(x: Any, axis: int) -> Any:
    """A view of scores with the class axis last: shape outer + inner + (C,)."""
    return backend.of(x).xp.moveaxis(x, axis, -1)


def loss_forward(prob: Any, labels: Any, axis: int, counted: Any) -> Any:
    """-sum of log(max(prob of the label, FLT_MIN)) over the samples where `counted`.

    prob: probabilities, class axis `axis`; labels: int64 of shape outer + inner; counted: booleans of that shape.
    """
    return backend.of(prob).softmax_loss(prob, labels, axis, counted, TINY)


def loss_backward(prob: Any, labels: Any, axis: int, counted: Any, scale: Any, dx: Any) -> None:
    """dx = scale * (prob - one-hot label) where `counted`, else 0. scale: a backend's number."""
    backend.of(prob).softmax_loss_backward(prob, labels, axis, counted, scale, dx)
