"""The samples that a classifier gets right (Caffe's Accuracy)."""
from spp import backend
from spp.backend.types import Array
from spp.ops.softmax import class_last


def correct(scores: Array, labels: Array, axis: int, top_k: int) -> Array:
    """Whether the label is among the top_k scores, booleans of shape outer + inner, in a scratch buffer.

    scores: outer + (classes) + inner, the classes at `axis`; labels: int64, outer + inner. As in Caffe, a tie counts
    against the label. A label whose score is NaN is wrong (Caffe would count it right).
    """
    device = backend.of(scores)
    rows = device.load_matrix(class_last(scores, axis), labels.ndim, "accuracy.rows")
    label_scores = device.scratch("accuracy.label_scores", (len(rows), 1), rows.dtype)
    device.take_columns(rows, labels.reshape(-1), label_scores[:, 0])
    better = device.scratch_like("accuracy.better", rows, bool)
    device.xp.greater_equal(rows, label_scores, out=better)
    at_least = device.scratch("accuracy.at_least", labels.shape, labels.dtype)
    better.sum(1, out=at_least.reshape(-1))
    right, some = (device.scratch_like(f"accuracy.{name}", at_least, bool) for name in ("right", "some"))
    device.xp.less_equal(at_least, top_k, out=right)
    device.xp.greater_equal(at_least, 1, out=some)
    right &= some
    return right


def share(right: Array, counted: Array) -> Array:
    """The share of the `counted` samples that are `right`, booleans of one shape; `right` ones are counted."""
    return right.sum() / backend.of(right).xp.maximum(counted.sum(), 1)


def share_by_class(right: Array, counted: Array, labels: Array, classes: int) -> Array:
    """The same for the samples of each class: an array of `classes` shares, 0 for a class without samples."""
    xp = backend.of(right).xp
    samples = xp.bincount(labels[counted], minlength=classes)
    return xp.bincount(labels[right], minlength=classes) / xp.maximum(samples, 1)
