"""What SoftmaxWithLoss and Accuracy share: labels as class indices, with one to ignore."""
from typing import Any

from spp.errors import NetError
from spp.layers.base import Layer, dims


def class_indices(layer: Layer, labels: Any, shape: tuple[int, ...], classes: int,
                  ignore_label: int | None) -> tuple[Any, Any]:
    """Labels (floats) as integers of `shape` = outer + inner, and booleans: which are not the ignored label.

    Ignored ones become class 0, so that they can be looked up. `layer.refuse` a label that is no class.
    """
    indices = labels.reshape(shape).astype("int64")
    counted = indices != ignore_label if ignore_label is not None else indices == indices
    outside = counted & ((indices < 0) | (indices >= classes))
    layer.refuse(outside, indices, lambda found: (
        f"label {found} is no class of the {classes} that the scores have (0 to {classes - 1}); check num_output of "
        "the last layer against the labels of the data"))
    return indices * (counted & ~outside), counted


def check_shapes(scores: tuple[int, ...], labels: tuple[int, ...], label_count: int, axis: int) -> tuple[int, ...]:
    """The shape outer + inner of one label a prediction; raises NetError if `label_count` does not fit."""
    shape = scores[:axis] + scores[axis + 1:]
    if not scores[axis]:
        raise NetError(f"the scores {dims(scores)} have no classes on axis {axis}")
    wanted = 1
    for size in shape:
        wanted *= size
    if wanted != label_count:
        raise NetError(f"needs one label for each prediction: scores {dims(scores)} with class axis "
                       f"{axis} want {wanted} labels, the label blob is {dims(labels)}")
    return shape
