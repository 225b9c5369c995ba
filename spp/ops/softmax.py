"""Softmax over an axis, and its multinomial logistic loss (Caffe's Softmax and SoftmaxWithLoss)."""

import numpy as np

from spp import backend
from spp.backend.types import Array

TINY = float(np.finfo(np.float32).tiny)     # Caffe's lower bound of a probability before its logarithm


def softmax_forward(x: Array, y: Array, axis: int) -> None:
    """y = exp(x - max) / sum over `axis`; y may be x."""
    backend.of(x).softmax(x, y, axis)


def softmax_backward(dy: Array, y: Array, dx: Array, axis: int) -> None:
    """dx = (dy - sum(dy * y)) * y; dx may be dy."""
    backend.of(y).softmax_backward(dy, y, dx, axis)


def class_last(x: Array, axis: int) -> Array:
    """A view of scores with the class axis last: shape outer + inner + (C,)."""
    return backend.of(x).xp.moveaxis(x, axis, -1)


def loss_forward(prob: Array, labels: Array, axis: int, counted: Array) -> Array:
    """-sum of log(max(prob of the label, FLT_MIN)) over the samples `counted`, without axes.

    prob: probabilities, class axis `axis`; labels: int64 of shape outer + inner; counted: booleans of that shape.
    """
    return backend.of(prob).softmax_loss(prob, labels, axis, counted, TINY)


def loss_backward(prob: Array, labels: Array, axis: int, counted: Array, scale: Array | float, dx: Array) -> None:
    """dx = scale * (prob - one-hot label) where `counted`, else 0. scale: a number, or an array without axes."""
    backend.of(prob).softmax_loss_backward(prob, labels, axis, counted, scale, dx)
