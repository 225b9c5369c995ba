"""Softmax over an axis, and its multinomial logistic loss."""
import numpy as np

from spp.backend.host.scratch import scratch_like


def softmax(x: np.ndarray, y: np.ndarray, axis: int) -> None:
    """y = exp(x - max) / sum over `axis`; y may be x."""
    reduced = scratch_like("softmax.reduced", _first(x, axis))
    np.subtract(x, x.max(axis, keepdims=True, out=reduced), out=y)
    np.exp(y, out=y)
    y /= y.sum(axis, keepdims=True, out=reduced)


def softmax_backward(dy: np.ndarray, y: np.ndarray, dx: np.ndarray, axis: int) -> None:
    """dx = (dy - sum(dy * y)) * y; dx may be dy."""
    products = scratch_like("softmax.products", y)
    np.multiply(dy, y, out=products)
    reduced = scratch_like("softmax.reduced", _first(y, axis))
    np.subtract(dy, products.sum(axis, keepdims=True, out=reduced), out=dx)
    dx *= y


def _first(x: np.ndarray, axis: int) -> np.ndarray:
    """The first of an axis, which stays: what a sum over the axis looks like."""
    return x[(slice(None),) * axis + (slice(1),)]


def softmax_loss(prob: np.ndarray, labels: np.ndarray, axis: int, counted: np.ndarray, least: float) -> np.floating:
    """-sum of log(max(prob of the label, least)) over the samples where `counted`.

    prob: probabilities, class axis `axis`; labels: int64 of shape outer + inner; counted: booleans of that shape.
    """
    of_label = np.take_along_axis(np.moveaxis(prob, axis, -1), labels[..., None], -1)[..., 0]
    return -(np.log(np.maximum(of_label, least)) * counted).sum()


def softmax_loss_backward(prob: np.ndarray, labels: np.ndarray, axis: int, counted: np.ndarray, scale: float,
                          dx: np.ndarray) -> None:
    """dx = scale * (prob - one-hot label) where `counted`, else 0."""
    dx[...] = prob
    by_class = np.moveaxis(dx, axis, -1)
    of_label = np.take_along_axis(by_class, labels[..., None], -1) - 1
    np.put_along_axis(by_class, labels[..., None], of_label, -1)
    by_class *= (counted * scale).astype(dx.dtype)[..., None]
