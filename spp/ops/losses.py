"""Losses summed over a batch, each beside its gradient. `scale` is the loss weight by the divisor of the sum."""
from typing import Any

from spp import backend
from spp.ops import neuron

TINY = 1e-20            # Caffe's floor under a probability before its logarithm
NEAR = 1e-4             # what Caffe adds to a distance that it divides by


def by_item(x: Any, name: str) -> Any:
    """An array as a matrix with a row an item (axis 0), in Caffe's order: a view, or the scratch buffer `name`."""
    return backend.of(x).load_matrix(x, 1, name)


def in_shape(x: Any, shape: tuple[int, ...], name: str) -> Any:
    """An array's elements, in Caffe's order, in another shape: a view, or the scratch buffer `name`."""
    return x if x.shape == shape else by_item(x, name).reshape(shape)


def euclidean_forward(a: Any, b: Any, difference: Any) -> Any:
    """Half the sum of (a - b)^2; a - b goes to `difference`. All have one shape."""
    device = backend.of(a)
    device.xp.subtract(a, b, out=difference)
    squares = device.scratch_like("losses.squares", difference)
    device.xp.multiply(difference, difference, out=squares)
    return squares.sum() / 2


def euclidean_backward(difference: Any, scale: float, dx: Any) -> None:
    """dx = scale * difference: the gradient of a (that of b has the other sign: a negative scale)."""
    backend.of(dx).xp.multiply(in_shape(difference, dx.shape, "losses.difference"), scale, out=dx)


def hinge_forward(x: Any, labels: Any, squared: bool) -> Any:
    """The sum of all margins, or of their squares. x: items x classes; labels: integers, one an item."""
    margins = _margins(x, labels)
    if squared:
        margins *= margins
    return margins.sum()


def hinge_backward(x: Any, labels: Any, squared: bool, scale: float, dx: Any) -> None:
    """The gradient, 0 where a margin is 0; `dx` has the items first and x's number of elements."""
    device, margins = backend.of(x), _margins(x, labels)
    slopes = device.matrix(dx, 1, "losses.dx")
    if squared:
        device.xp.multiply(margins, 2, out=slopes)
    else:
        device.xp.greater(margins, 0, out=slopes)
    slopes *= scale
    of_label = device.xp.take_along_axis(slopes, labels[:, None], 1)
    device.xp.put_along_axis(slopes, labels[:, None], -of_label, 1)
    device.store(slopes.reshape(dx.shape), dx)


def _margins(x: Any, labels: Any) -> Any:
    """max(0, 1 - sign * x), one class against all others: the sign is 1 for the label's class, else -1."""
    device = backend.of(x)
    margins = device.scratch_like("losses.margins", x)
    device.xp.add(x, 1, out=margins)
    of_label = device.xp.take_along_axis(x, labels[:, None], 1)
    device.xp.put_along_axis(margins, labels[:, None], 1 - of_label, 1)
    device.xp.maximum(margins, 0, out=margins)
    return margins


def contrastive_forward(a: Any, b: Any, similar: Any, margin: float, legacy: bool, difference: Any) -> Any:
    """Half the sum over pairs of d^2 where `similar`, else of max(margin - d, 0)^2: d is the Euclidean distance.

    legacy: max(margin - d^2, 0) instead. a, b: pairs x features; a - b goes to `difference`; similar: booleans.
    """
    xp = backend.of(a).xp
    xp.subtract(a, b, out=difference)
    squares = _square_distances(difference)
    if legacy:
        apart = xp.maximum(margin - squares, 0)
    else:
        apart = xp.maximum(margin - xp.sqrt(squares), 0) ** 2
    return xp.where(similar, squares, apart).sum() / 2


def contrastive_backward(difference: Any, similar: Any, margin: float, legacy: bool, scale: float, dx: Any) -> None:
    """The gradient of a (that of b has the other sign: a negative scale); `dx` has a's number of elements."""
    device = backend.of(difference)
    xp, squares = device.xp, _square_distances(difference)
    if legacy:
        slopes = -(squares < margin).astype(difference.dtype)
    else:
        distances = xp.sqrt(squares)
        slopes = -xp.maximum(margin - distances, 0) / (distances + NEAR)
    factors = scale * xp.where(similar, difference.dtype.type(1), slopes)
    gradient = device.matrix(dx, 1, "losses.dx")
    xp.multiply(factors[:, None], difference, out=gradient)
    device.store(gradient.reshape(dx.shape), dx)


def _square_distances(difference: Any) -> Any:
    """The sum of the squares of each row."""
    device = backend.of(difference)
    squares = device.scratch_like("losses.squares", difference)
    device.xp.multiply(difference, difference, out=squares)
    return squares.sum(1)


def multinomial_forward(prob: Any, labels: Any) -> Any:
    """-sum of log(max(probability of the label, 1e-20)). prob: items x classes; labels: integers, one an item."""
    return -backend.of(prob).xp.log(_of_label(prob, labels)).sum()


def multinomial_backward(prob: Any, labels: Any, scale: float, dx: Any) -> None:
    """-scale / probability at the label, 0 elsewhere; `dx` has the items first and prob's number of elements."""
    device = backend.of(prob)
    gradient = device.matrix(dx, 1, "losses.dx")
    gradient[...] = 0
    device.xp.put_along_axis(gradient, labels[:, None], -scale / _of_label(prob, labels), 1)
    device.store(gradient.reshape(dx.shape), dx)


def _of_label(prob: Any, labels: Any) -> Any:
    xp = backend.of(prob).xp
    return xp.maximum(xp.take_along_axis(prob, labels[:, None], 1), TINY)


def sigmoid_cross_entropy_forward(x: Any, target: Any, counted: Any) -> Any:
    """-sum of t log(p) + (1 - t) log(1 - p), p = sigmoid(x), over the elements `counted`: booleans; None for all."""
    device = backend.of(x)
    xp = device.xp
    each, term = (device.scratch_like(f"losses.{name}", x) for name in ("each", "term"))
    xp.maximum(x, 0, out=each)
    xp.multiply(x, target, out=term)
    each -= term
    xp.absolute(x, out=term)
    xp.negative(term, out=term)
    xp.exp(term, out=term)
    xp.log1p(term, out=term)
    each += term
    _clear_others(each, counted)
    return each.sum()


def sigmoid_cross_entropy_backward(x: Any, target: Any, counted: Any, scale: float, dx: Any) -> None:
    """dx = scale * (sigmoid(x) - target) where `counted`, else 0."""
    neuron.sigmoid_forward(x, dx)
    dx -= target
    dx *= scale
    _clear_others(dx, counted)


def _clear_others(x: Any, counted: Any) -> None:
    """x = 0 where it is not `counted`."""
    if counted is not None:
        device = backend.of(x)
        others = device.scratch_like("losses.others", counted)
        device.xp.logical_not(counted, out=others)
        device.xp.copyto(x, 0, where=others)


def infogain_forward(prob: Any, labels: Any, matrix: Any, counted: Any) -> Any:
    """-sum over items and classes of matrix[label, class] * log(max(prob, 1e-20)), over the items `counted`.

    prob: outer x inner x classes; labels: integers outer x inner; matrix: classes x classes.
    """
    device = backend.of(prob)
    logs, sums = device.scratch_like("losses.logs", prob), device.scratch("losses.sums", labels.shape, prob.dtype)
    device.xp.maximum(prob, TINY, out=logs)
    device.xp.log(logs, out=logs)
    logs *= _rows(matrix, labels)
    logs.sum(-1, out=sums)
    sums *= counted
    return -sums.sum()


def infogain_backward(prob: Any, labels: Any, matrix: Any, counted: Any, scale: float, dx: Any) -> None:
    """The gradient of the scores whose softmax `prob` is, in the same axes; 0 where not `counted`."""
    device, rows = backend.of(prob), _rows(matrix, labels)
    sums = device.scratch("losses.sums", labels.shape, prob.dtype)
    rows.sum(-1, out=sums)
    device.xp.multiply(prob, sums[..., None], out=dx)
    dx -= rows
    sums[...] = counted
    sums *= scale
    dx *= sums[..., None]


def _rows(matrix: Any, labels: Any) -> Any:
    """The labels' rows of the infogain matrix, labels' shape x classes, in a scratch buffer."""
    device = backend.of(matrix)
    rows = device.scratch("losses.rows", (*labels.shape, matrix.shape[1]), matrix.dtype)
    device.take_rows(matrix, labels.reshape(-1), rows.reshape(-1, matrix.shape[1]))
    return rows


def count(counted: Any, dtype: Any) -> Any:
    """How many of the booleans are true: an int on the host, on a GPU an array, at least 1, that nobody waits for."""
    device = backend.of(counted)
    return device.xp.maximum(counted.sum(dtype=dtype), 1) if device.asynchronous else int(counted.sum())


def other_labels(target: Any, label: int) -> Any:
    """Where the targets, cut to integers, are not `label`: booleans in a scratch buffer."""
    device = backend.of(target)
    whole, others = (device.scratch_like("losses.counted", target, dtype) for dtype in ("int64", bool))
    whole[...] = target
    device.xp.not_equal(whole, label, out=others)
    return others
