"""Softmax over an axis, and its multinomial logistic loss."""
from typing import Any

import numpy as np

from spp import backend

TINY = float(np.finfo(np.float32).tiny)     # Caffe's floor under a probability before its logarithm


def softmax_forward(x: Any, y: Any, axis: int) -> None:
    """y = exp(x - max) / sum over `axis`; y may be x."""
    xp = backend.of(x).xp
    xp.subtract(x, x.max(axis, keepdims=True), out=y)
    xp.exp(y, out=y)
    y /= y.sum(axis, keepdims=True)


def softmax_backward(dy: Any, y: Any, dx: Any, axis: int) -> None:
    """dx = (dy - sum(dy * y)) * y; dx may be dy."""
    xp = backend.of(y).xp
    xp.subtract(dy, (dy * y).sum(axis, keepdims=True), out=dx)
    dx *= y


def class_last(x: Any, axis: int) -> Any:
    """A view of scores with the class axis last: shape outer + inner + (C,)."""
    return backend.of(x).xp.moveaxis(x, axis, -1)


def loss_forward(prob: Any, labels: Any, axis: int, counted: Any) -> Any:
    """-sum of log(max(prob of the label, FLT_MIN)) over the samples where `counted`.

    prob: probabilities, class axis `axis`; labels: integers of shape outer + inner; counted: booleans of that shape.
    """
    xp = backend.of(prob).xp
    of_label = xp.take_along_axis(class_last(prob, axis), labels[..., None], -1)[..., 0]
    return -(xp.log(xp.maximum(of_label, TINY)) * counted).sum()


def loss_backward(prob: Any, labels: Any, axis: int, counted: Any, scale: float, dx: Any) -> None:
    """dx = scale * (prob - one-hot label) where `counted`, else 0."""
    xp = backend.of(prob).xp
    dx[...] = prob
    by_class = class_last(dx, axis)
    of_label = xp.take_along_axis(by_class, labels[..., None], -1) - 1
    xp.put_along_axis(by_class, labels[..., None], of_label, -1)
    by_class *= (counted * scale).astype(dx.dtype)[..., None]
