"""Which samples a classifier gets right."""
from typing import Any

from spp import backend
from spp.ops.softmax import class_last


def correct(scores: Any, labels: Any, axis: int, top_k: int) -> Any:
    """Booleans of shape outer + inner: is the label among the top_k scores? A tie counts against it, as in Caffe.

    They lie in a scratch buffer. A label whose score is NaN is wrong (Caffe would count it right).
    """
    device = backend.of(scores)
    rows = device.load_matrix(class_last(scores, axis), labels.ndim, "accuracy.rows")
    of_label = device.scratch("accuracy.of_label", (len(rows), 1), rows.dtype)
    device.take_columns(rows, labels.reshape(-1), of_label[:, 0])
    better = device.scratch_like("accuracy.better", rows, bool)
    device.xp.greater_equal(rows, of_label, out=better)
    at_least = device.scratch("accuracy.at_least", labels.shape, labels.dtype)
    better.sum(1, out=at_least.reshape(-1))
    right, some = (device.scratch_like(f"accuracy.{name}", at_least, bool) for name in ("right", "some"))
    device.xp.less_equal(at_least, top_k, out=right)
    device.xp.greater_equal(at_least, 1, out=some)
    right &= some
    return right


def share(right: Any, counted: Any) -> Any:
    """The share of the `counted` samples that are `right`, booleans of one shape; `right` ones are counted."""
    return right.sum() / backend.of(right).xp.maximum(counted.sum(), 1)


def share_by_class(right: Any, counted: Any, labels: Any, classes: int) -> Any:
    """The same for the samples of each class: an array of `classes` shares, 0 for a class without samples."""
    xp = backend.of(right).xp
    samples = xp.bincount(labels[counted], minlength=classes)
    return xp.bincount(labels[right], minlength=classes) / xp.maximum(samples, 1)
