"""What classification losses and Accuracy share: labels as class indices, and a label to ignore."""
import math
from typing import Any

import numpy as np

from spp.backend.types import Array, Numbers
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, format_shape
from spp.ops import labels as label_ops


class ClassIndices:
    """A layer's labels as class indices, in memory that grows with the batch."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._indices, self._counted = (Blob((), dtype, layer.context.backend, channels_last=False)
                                        for dtype in (np.int64, bool))

    def read(self, labels: Array, shape: Numbers, classes: int, ignore_label: int | None) -> tuple[Array, Array]:
        """Labels (floats) as int64 of `shape` = outer + inner, and booleans: which are not the ignored label.

        Both are valid until the next call. Ignored labels become class 0, so that they can be looked up. A label that
        is no class raises NetError, by `layer.check_values`.
        """
        for blob in (self._indices, self._counted):
            blob.reshape(shape)
        indices, counted = self._indices.data, self._counted.data
        outside = label_ops.read(labels, ignore_label, classes, indices, counted)
        self._layer.check_values(outside, indices, lambda label: (
            f"label {label} is no class of the {classes} that the scores have (0 to {classes - 1}); check num_output "
            "of the last layer against the labels of the data"))
        label_ops.clear_others(indices, counted, outside)
        return indices, counted


def check_shapes(scores: Numbers, labels: Numbers, label_count: int, axis: int) -> Numbers:
    """The shape outer + inner of one label per prediction; raises NetError if `label_count` does not fit."""
    shape = scores[:axis] + scores[axis + 1:]
    if not scores[axis]:
        raise NetError(f"the scores {format_shape(scores)} have no classes on axis {axis}")
    if math.prod(shape) != label_count:
        raise NetError(f"needs one label for each prediction: scores {format_shape(scores)} with class axis "
                       f"{axis} want {math.prod(shape)} labels, the label blob is {format_shape(labels)}")
    return shape


def ignored_label(p: Any) -> int | None:
    """The ignore_label of a LossParameter or AccuracyParameter, or None."""
    return p.ignore_label if p.HasField("ignore_label") else None
