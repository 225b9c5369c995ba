"""Softmax over an axis, and its multinomial logistic loss."""
import numpy as np
from numba import njit

from spp.backend.host.layout import empty_matrix, load_matrix, store
from spp.backend.host.scratch import scratch, scratch_like
from spp.backend.host.selection import take_columns
from spp.backend.types import Array


def softmax(x: np.ndarray, y: np.ndarray, axis: int) -> None:
    """y = exp(x - max) / sum over `axis`; y may be x."""
    reduced = _reduced(x, axis)
    np.maximum.reduce(x, axis, out=reduced, keepdims=True)      # x.max takes twice the time for few values
    np.subtract(x, reduced, out=y)
    np.exp(y, out=y)
    np.add.reduce(y, axis, out=reduced, keepdims=True)
    y /= reduced


def softmax_backward(dy: np.ndarray, y: np.ndarray, dx: np.ndarray, axis: int) -> None:
    """dx = (dy - sum(dy * y)) * y; dx may be dy."""
    products = scratch_like("softmax.products", y)
    np.multiply(dy, y, out=products)
    reduced = np.add.reduce(products, axis, out=_reduced(y, axis), keepdims=True)
    np.subtract(dy, reduced, out=dx)
    dx *= y


def _reduced(x: np.ndarray, axis: int) -> np.ndarray:
    """A buffer for a sum over the axis, which is kept with size 1."""
    return scratch("softmax.reduced", x.shape[:axis] + (1,) + x.shape[axis + 1:], x.dtype)


def softmax_loss(prob: np.ndarray, labels: np.ndarray, axis: int, counted: np.ndarray, minimum: float) -> np.floating:
    """-sum of log(max(prob of the label, minimum)) over the samples `counted`, a NumPy scalar.

    prob: probabilities, class axis `axis`; labels: int64 of shape outer + inner; counted: booleans of that shape.
    """
    rows = load_matrix(np.moveaxis(prob, axis, -1), labels.ndim, "softmax.prob")
    label_values = scratch("softmax.label_values", labels.shape, prob.dtype)
    take_columns(rows, labels.reshape(-1), label_values.reshape(-1))
    np.maximum(label_values, minimum, out=label_values)
    np.log(label_values, out=label_values)
    label_values *= counted
    return -label_values.sum()


def softmax_loss_backward(prob: np.ndarray, labels: np.ndarray, axis: int, counted: np.ndarray, scale: float,
                          dx: np.ndarray) -> None:
    """dx = scale * (prob - one-hot label) where `counted`, else 0. Shapes as in `softmax_loss`; scale: a number."""
    by_class = np.moveaxis(dx, axis, -1)
    out = empty_matrix(by_class, labels.ndim, "softmax.dx")
    rows = load_matrix(np.moveaxis(prob, axis, -1), labels.ndim, "softmax.prob")
    _loss_backward(rows, labels.reshape(-1), counted.reshape(-1), dx.dtype.type(scale), out)
    store(out.reshape(by_class.shape), by_class)


@njit(cache=True, nogil=True)
def _loss_backward(prob: Array, labels: Array, counted: Array, scale: float, dx: Array) -> None:
    one = dx.dtype.type(1)
    for row in range(len(prob)):
        factor = scale if counted[row] else dx.dtype.type(0)
        for c in range(prob.shape[1]):
            dx[row, c] = prob[row, c] * factor
        dx[row, labels[row]] = (prob[row, labels[row]] - one) * factor
