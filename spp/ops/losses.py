"""Losses summed over a batch, each followed by its gradient (Caffe's layers of the same names).

A forward function returns the sum as an array without axes or a NumPy scalar. `scale` is the loss weight divided by
the divisor of the sum. Labels are int64; all other arrays have one floating dtype.
"""
from typing import Any

from spp import backend
from spp.backend.types import Array
from spp.ops import neuron

TINY = 1e-20            # Caffe's lower bound of a probability before its logarithm
NEAR = 1e-4             # Caffe adds it to a distance before it divides by it


def by_item(x: Array, name: str) -> Array:
    """An array as a matrix with one row per item (axis 0): a view, or a copy in the scratch buffer `name`."""
    return backend.of(x).load_matrix(x, 1, name)


def in_shape(x: Array, shape: tuple[int, ...], name: str) -> Array:
    """An array in another shape, elements in Caffe's order: a view, or a copy in the scratch buffer `name`."""
    return x if x.shape == shape else by_item(x, name).reshape(shape)


def euclidean_forward(a: Array, b: Array, difference: Array) -> Array:
    """Half the sum of (a - b)^2; writes a - b to `difference`. All arrays have one shape."""
    device = backend.of(a)
    device.xp.subtract(a, b, out=difference)
    squares = device.scratch_like("losses.squares", difference)
    device.xp.multiply(difference, difference, out=squares)
    return squares.sum() / 2


def euclidean_backward(difference: Array, scale: Array | float, dx: Array) -> None:
    """dx = scale * difference: the gradient of a; for that of b, negate `scale`."""
    backend.of(dx).xp.multiply(in_shape(difference, dx.shape, "losses.difference"), scale, out=dx)


def hinge_forward(x: Array, labels: Array, squared: bool) -> Array:
    """The sum of all margins max(0, 1 - sign * x), or of their squares. x: items x classes; labels: one per item.

    The sign is 1 for the class of the label, else -1: one class against all others.
    """
    margins = _margins(x, labels)
    if squared:
        margins *= margins
    return margins.sum()


def hinge_backward(x: Array, labels: Array, squared: bool, scale: Array | float, dx: Array) -> None:
    """dx = the gradient, 0 where a margin is 0. `dx`: items x any shape, with as many elements as x."""
    device, margins = backend.of(x), _margins(x, labels)
    slopes = device.empty_matrix(dx, 1, "losses.dx")
    if squared:
        device.xp.multiply(margins, 2, out=slopes)
    else:
        device.xp.greater(margins, 0, out=slopes)
    slopes *= scale
    label_values = device.xp.take_along_axis(slopes, labels[:, None], 1)
    device.xp.put_along_axis(slopes, labels[:, None], -label_values, 1)
    device.store(slopes.reshape(dx.shape), dx)


def _margins(x: Array, labels: Array) -> Array:
    """max(0, 1 - sign * x), in a scratch buffer."""
    device = backend.of(x)
    margins = device.scratch_like("losses.margins", x)
    device.xp.add(x, 1, out=margins)
    label_values = device.xp.take_along_axis(x, labels[:, None], 1)
    device.xp.put_along_axis(margins, labels[:, None], 1 - label_values, 1)
    device.xp.maximum(margins, 0, out=margins)
    return margins


def contrastive_forward(a: Array, b: Array, similar: Array, margin: float, legacy: bool, difference: Array) -> Array:
    """Half the sum over pairs of d^2 if `similar`, else max(margin - d, 0)^2; d is the Euclidean distance.

    legacy: max(margin - d^2, 0) instead. a, b: pairs x features; writes a - b to `difference`; similar: booleans.
    Source: Hadsell et al., Dimensionality Reduction by Learning an Invariant Mapping, 2006.
    """
    xp = backend.of(a).xp
    xp.subtract(a, b, out=difference)
    squares = _square_distances(difference)
    if legacy:
        dissimilar = xp.maximum(margin - squares, 0)
    else:
        dissimilar = xp.maximum(margin - xp.sqrt(squares), 0) ** 2
    return xp.where(similar, squares, dissimilar).sum() / 2


def contrastive_backward(difference: Array, similar: Array, margin: float, legacy: bool, scale: Array | float,
                         dx: Array) -> None:
    """dx = the gradient of a; for that of b, negate `scale`. `dx` has as many elements as a."""
    device = backend.of(difference)
    xp, squares = device.xp, _square_distances(difference)
    if legacy:
        slopes = -(squares < margin).astype(difference.dtype)
    else:
        distances = xp.sqrt(squares)
        slopes = -xp.maximum(margin - distances, 0) / (distances + NEAR)
    factors = scale * xp.where(similar, difference.dtype.type(1), slopes)
    gradient = device.empty_matrix(dx, 1, "losses.dx")
    xp.multiply(factors[:, None], difference, out=gradient)
    device.store(gradient.reshape(dx.shape), dx)


def _square_distances(difference: Array) -> Array:
    """The sum of the squares of each row."""
    device = backend.of(difference)
    squares = device.scratch_like("losses.squares", difference)
    device.xp.multiply(difference, difference, out=squares)
    return squares.sum(1)


def multinomial_forward(prob: Array, labels: Array) -> Array:
    """-sum of log(max(probability of the label, 1e-20)). prob: items x classes; labels: one per item."""
    return -backend.of(prob).xp.log(_label_values(prob, labels)).sum()


def multinomial_backward(prob: Array, labels: Array, scale: Array | float, dx: Array) -> None:
    """dx = -scale / probability at the label, 0 elsewhere. `dx`: items x any shape, with as many elements as prob."""
    device = backend.of(prob)
    gradient = device.empty_matrix(dx, 1, "losses.dx")
    gradient[...] = 0
    device.xp.put_along_axis(gradient, labels[:, None], -scale / _label_values(prob, labels), 1)
    device.store(gradient.reshape(dx.shape), dx)


def _label_values(prob: Array, labels: Array) -> Array:
    xp = backend.of(prob).xp
    return xp.maximum(xp.take_along_axis(prob, labels[:, None], 1), TINY)


def sigmoid_cross_entropy_forward(x: Array, target: Array, counted: Array | None) -> Array:
    """-sum of t log(p) + (1 - t) log(1 - p), p = sigmoid(x), over the elements `counted` (booleans; None: all)."""
    device = backend.of(x)
    xp = device.xp
    each, term = (device.scratch_like(f"losses.{name}", x) for name in ("each", "term"))
    xp.maximum(x, 0, out=each)
    xp.multiply(x, target, out=term)
    each -= term
    each += neuron.bnll_rest(x)
    _clear_others(each, counted)
    return each.sum()


def sigmoid_cross_entropy_backward(x: Array, target: Array, counted: Array | None, scale: Array | float,
                                   dx: Array) -> None:
    """dx = scale * (sigmoid(x) - target) where `counted`, else 0."""
    neuron.sigmoid_forward(x, dx)
    dx -= target
    dx *= scale
    _clear_others(dx, counted)


def _clear_others(x: Array, counted: Array | None) -> None:
    """x = 0 where it is not `counted`; None counts everything."""
    if counted is not None:
        device = backend.of(x)
        others = device.scratch_like("losses.others", counted)
        device.xp.logical_not(counted, out=others)
        device.xp.copyto(x, 0, where=others)


def infogain_forward(prob: Array, labels: Array, matrix: Array, counted: Array) -> Array:
    """-sum over items and classes of matrix[label, class] * log(max(prob, 1e-20)), over the items `counted`.

    prob: outer x inner x classes; labels, counted (booleans): outer x inner; matrix: classes x classes.
    """
    device = backend.of(prob)
    logs, sums = device.scratch_like("losses.logs", prob), device.scratch("losses.sums", labels.shape, prob.dtype)
    device.xp.maximum(prob, TINY, out=logs)
    device.xp.log(logs, out=logs)
    logs *= _rows(matrix, labels)
    logs.sum(-1, out=sums)
    sums *= counted
    return -sums.sum()


def infogain_backward(prob: Array, labels: Array, matrix: Array, counted: Array, scale: Array | float,
                      dx: Array) -> None:
    """dx = the gradient of the scores, of which `prob` is the softmax, in the same axes; 0 unless `counted`."""
    device, rows = backend.of(prob), _rows(matrix, labels)
    sums = device.scratch("losses.sums", labels.shape, prob.dtype)
    rows.sum(-1, out=sums)
    device.xp.multiply(prob, sums[..., None], out=dx)
    dx -= rows
    sums[...] = counted
    sums *= scale
    dx *= sums[..., None]


def _rows(matrix: Array, labels: Array) -> Array:
    """The rows of the infogain matrix at the labels, labels.shape + (classes,), in a scratch buffer."""
    device = backend.of(matrix)
    rows = device.scratch("losses.rows", (*labels.shape, matrix.shape[1]), matrix.dtype)
    device.take_rows(matrix, labels.reshape(-1), rows.reshape(-1, matrix.shape[1]))
    return rows


def count(counted: Array, dtype: Any) -> Any:
    """How many of the booleans are true: an int on the host, on a GPU an array, at least 1, that nobody waits for."""
    device = backend.of(counted)
    return device.xp.maximum(counted.sum(dtype=dtype), 1) if device.asynchronous else int(counted.sum())


def other_labels(target: Array, label: int) -> Array:
    """Where the targets, cut to integers, are not `label`: booleans in a scratch buffer."""
    device = backend.of(target)
    whole, others = (device.scratch_like("losses.counted", target, dtype) for dtype in ("int64", bool))
    whole[...] = target
    device.xp.not_equal(whole, label, out=others)
    return others


def smooth_l1_forward(d: Array, sigma: float, weight: Array | None = None) -> Array:
    """The sum of weight * f(d); f(d) = (sigma d)^2 / 2 where |d| < 1 / sigma^2, else |d| - 1 / (2 sigma^2).

    weight: of d's shape, or None for 1. Source: Fast R-CNN, Sec. 2.3.
    """
    device = backend.of(d)
    loss, square, near = _smooth_l1_buffers(d)
    device.xp.absolute(d, out=loss)
    device.xp.less(loss, 1 / sigma ** 2, out=near)
    loss -= 0.5 / sigma ** 2
    device.xp.multiply(d, 0.5 * sigma ** 2, out=square)
    square *= d
    device.xp.copyto(loss, square, where=near)
    if weight is not None:
        loss *= weight
    return loss.sum()


def smooth_l1_backward(d: Array, sigma: float) -> Array:
    """f'(d), in a scratch buffer: sigma^2 d where |d| < 1 / sigma^2, else the sign of d."""
    device = backend.of(d)
    slope, linear, near = _smooth_l1_buffers(d)
    device.xp.absolute(d, out=linear)
    device.xp.less(linear, 1 / sigma ** 2, out=near)
    device.xp.multiply(d, sigma ** 2, out=linear)
    device.xp.sign(d, out=slope)
    device.xp.copyto(slope, linear, where=near)
    return slope


def _smooth_l1_buffers(d: Array) -> list[Array]:
    """Two scratch buffers of d's shape and dtype, and one of booleans."""
    return [backend.of(d).scratch_like(f"losses.{name}", d, dtype)
            for name, dtype in (("first", d.dtype), ("second", d.dtype), ("near", bool))]


def weighted_difference(a: Array, b: Array, weight: Array, out: Array) -> None:
    """out = weight * (a - b); weight may be None for 1. All have one shape."""
    backend.of(a).xp.subtract(a, b, out=out)
    if weight is not None:
        out *= weight
