"""What SoftmaxWithLoss and Accuracy share: labels as class indices, with one to ignore."""
from typing import Any

import numpy as np

from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, format_shape


class ClassIndices:
    """A layer's labels as class indices, in memory that grows with the batch."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._indices, self._counted = (Blob((), dtype, layer.context.backend, channels_last=False)
                                        for dtype in (np.int64, bool))

    def read(self, labels: Any, shape: tuple[int, ...], classes: int, ignore_label: int | None) -> tuple[Any, Any]:
        """Labels (floats) as int64 of `shape` = outer + inner, and booleans: which are not the ignored label.

        Both stay until the next call. Ignored ones become class 0, so that they can be looked up.
        `layer.check_values` a label that is no class.
        """
        for blob in (self._indices, self._counted):
            blob.reshape(shape)
        indices, counted, device = self._indices.data, self._counted.data, self._layer.context.backend
        indices[...] = labels.reshape(shape)
        if ignore_label is None:
            counted[...] = True
        else:
            device.xp.not_equal(indices, ignore_label, out=counted)
        outside, other = (device.scratch_like(f"labels.{name}", counted) for name in ("outside", "other"))
        device.xp.less(indices, 0, out=outside)
        device.xp.greater_equal(indices, classes, out=other)
        outside |= other
        outside &= counted
        self._layer.check_values(outside, indices, lambda found: (
            f"label {found} is no class of the {classes} that the scores have (0 to {classes - 1}); check num_output "
            "of the last layer against the labels of the data"))
        device.xp.logical_not(counted, out=other)
        outside |= other
        device.xp.copyto(indices, 0, where=outside)
        return indices, counted


def check_shapes(scores: tuple[int, ...], labels: tuple[int, ...], label_count: int, axis: int) -> tuple[int, ...]:
    """The shape outer + inner of one label a prediction; raises NetError if `label_count` does not fit."""
    shape = scores[:axis] + scores[axis + 1:]
    if not scores[axis]:
        raise NetError(f"the scores {format_shape(scores)} have no classes on axis {axis}")
    wanted = 1
    for size in shape:
        wanted *= size
    if wanted != label_count:
        raise NetError(f"needs one label for each prediction: scores {format_shape(scores)} with class axis "
                       f"{axis} want {wanted} labels, the label blob is {format_shape(labels)}")
    return shape
