"""Which samples a classifier gets right."""
from typing import Any

from spp import backend
from spp.ops.softmax import class_last


def correct(scores: Any, labels: Any, axis: int, top_k: int) -> Any:
    """Booleans of shape outer + inner: is the label among the top_k scores? A tie counts against it, as in Caffe.

    A label whose score is NaN is wrong (Caffe would count it right).
    """
    device = backend.of(scores)
    by_class = class_last(scores, axis)
    of_label = device.xp.take_along_axis(by_class, labels[..., None], -1)
    better = device.scratch_like("accuracy.better", by_class, bool)
    device.xp.greater_equal(by_class, of_label, out=better)
    at_least = better.sum(-1)
    return (at_least >= 1) & (at_least <= top_k)
