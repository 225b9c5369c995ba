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
