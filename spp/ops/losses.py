"""Losses summed over a batch, each beside its gradient. `scale` is the loss weight by the divisor of the sum."""
import math
from typing import Any

from spp import backend
from spp.ops import neuron

TINY = 1e-20            # Caffe's floor under a probability before its logarithm
NEAR = 1e-4             # what Caffe adds to a distance that it divides by


def by_item(x: Any) -> Any:
    """An array as a matrix with a row an item (axis 0), in Caffe's order: a view where its memory allows it."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def euclidean_forward(a: Any, b: Any, difference: Any) -> Any:
    """Half the sum of (a - b)^2; a - b goes to `difference`. All have one shape."""
    device = backend.of(a)
    device.xp.subtract(a, b, out=difference)
    squares = device.scratch_like("losses.squares", difference)
    device.xp.multiply(difference, difference, out=squares)
    return squares.sum() / 2


def euclidean_backward(difference: Any, scale: float, dx: Any) -> None:
    """dx = scale * difference: the gradient of a (that of b has the other sign: a negative scale)."""
    backend.of(dx).xp.multiply(difference.reshape(dx.shape), scale, out=dx)


def hinge_forward(x: Any, labels: Any, squared: bool) -> Any:
    """The sum of all margins, or of their squares. x: items x classes; labels: integers, one an item."""
    margins = _margins(x, labels)[0]
    return (margins * margins).sum() if squared else margins.sum()


def hinge_backward(x: Any, labels: Any, squared: bool, scale: float, dx: Any) -> None:
    """The gradient, 0 where a margin is 0; `dx` has the items first and x's number of elements."""
    margins, signs = _margins(x, labels)
    slopes = 2 * margins if squared else margins > 0
    dx[...] = (slopes * signs * -scale).reshape(dx.shape)


def _margins(x: Any, labels: Any) -> tuple[Any, Any]:
    """max(0, 1 - sign * x), one class against all others: and the signs, 1 for the label's class, else -1."""
    xp = backend.of(x).xp
    signs = xp.full(x.shape, -1, x.dtype)
    xp.put_along_axis(signs, labels[:, None], x.dtype.type(1), 1)
    return xp.maximum(1 - signs * x, 0), signs


def contrastive_forward(a: Any, b: Any, similar: Any, margin: float, legacy: bool, difference: Any) -> Any:
    """Half the sum over pairs of d^2 where `similar`, else of max(margin - d, 0)^2: d is the Euclidean distance.

    legacy: max(margin - d^2, 0) instead. a, b: pairs x features; a - b goes to `difference`; similar: booleans.
    """
    xp = backend.of(a).xp
    xp.subtract(a, b, out=difference)
    squares = (difference * difference).sum(1)
    if legacy:
        apart = xp.maximum(margin - squares, 0)
    else:
        apart = xp.maximum(margin - xp.sqrt(squares), 0) ** 2
    return xp.where(similar, squares, apart).sum() / 2


def contrastive_backward(difference: Any, similar: Any, margin: float, legacy: bool, scale: float, dx: Any) -> None:
    """The gradient of a (that of b has the other sign: a negative scale); `dx` has a's number of elements."""
    xp = backend.of(difference).xp
    squares = (difference * difference).sum(1)
    if legacy:
        slopes = -(squares < margin).astype(difference.dtype)
    else:
        distances = xp.sqrt(squares)
        slopes = -xp.maximum(margin - distances, 0) / (distances + NEAR)
    factors = scale * xp.where(similar, difference.dtype.type(1), slopes)
    dx[...] = (factors[:, None] * difference).reshape(dx.shape)


def multinomial_forward(prob: Any, labels: Any) -> Any:
    """-sum of log(max(probability of the label, 1e-20)). prob: items x classes; labels: integers, one an item."""
    return -backend.of(prob).xp.log(_of_label(prob, labels)).sum()


def multinomial_backward(prob: Any, labels: Any, scale: float, dx: Any) -> None:
    """-scale / probability at the label, 0 elsewhere; `dx` has the items first and prob's number of elements."""
    xp = backend.of(prob).xp
    gradient = xp.zeros_like(prob)
    xp.put_along_axis(gradient, labels[:, None], -scale / _of_label(prob, labels), 1)
    dx[...] = gradient.reshape(dx.shape)


def _of_label(prob: Any, labels: Any) -> Any:
    xp = backend.of(prob).xp
    return xp.maximum(xp.take_along_axis(prob, labels[:, None], 1), TINY)


def sigmoid_cross_entropy_forward(x: Any, target: Any, counted: Any) -> Any:
    """-sum of t log(p) + (1 - t) log(1 - p), p = sigmoid(x), over the elements `counted` (booleans)."""
    xp = backend.of(x).xp
    each = xp.maximum(x, 0) - x * target + xp.log1p(xp.exp(-abs(x)))
    return xp.where(counted, each, 0).sum()


def sigmoid_cross_entropy_backward(x: Any, target: Any, counted: Any, scale: float, dx: Any) -> None:
    """dx = scale * (sigmoid(x) - target) where `counted`, else 0."""
    neuron.sigmoid_forward(x, dx)
    dx -= target
    dx *= scale
    backend.of(dx).xp.copyto(dx, 0, where=~counted)


def infogain_forward(prob: Any, labels: Any, matrix: Any, counted: Any) -> Any:
    """-sum over items and classes of matrix[label, class] * log(max(prob, 1e-20)), over the items `counted`.

    prob: outer x inner x classes; labels: integers outer x inner; matrix: classes x classes.
    """
    xp = backend.of(prob).xp
    logs = xp.log(xp.maximum(prob, TINY))
    return -((matrix[labels] * logs).sum(-1) * counted).sum()


def infogain_backward(prob: Any, labels: Any, matrix: Any, counted: Any, scale: float, dx: Any) -> None:
    """The gradient of the scores whose softmax `prob` is, in the same axes; 0 where not `counted`."""
    rows = matrix[labels]
    dx[...] = prob * rows.sum(-1, keepdims=True) - rows
    dx *= (counted * scale).astype(dx.dtype)[..., None]
