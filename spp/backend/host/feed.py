"""Copies of batches, which the host prepares ahead of time, to the arrays of a net."""
from typing import Any, Sequence

import numpy as np


class Feed:
    """Copies batches. On a GPU the next batch is copied while the net still works on the last one.

    For each batch in turn call `finish`; get the batch; call `put`; and `start` with the next batch, if it is ready.
    """

    transforms = False      # may the first array be spp.data.pixels.Pixels, which the feed then transforms?

    def empty(self, size: int) -> np.ndarray:
        """Memory of `size` bytes (uint8) from which batches are copied fastest. May be called on any thread."""
        return np.empty(size, np.uint8)

    def finish(self) -> None:
        """Wait until the memory of the batch that was last put is no longer read and can be overwritten."""

    def put(self, arrays: Sequence[np.ndarray], targets: Sequence[Any]) -> None:
        """Write each array of a batch to the equally shaped target, an array of the net."""
        for values, target in zip(arrays, targets):
            target[...] = values

    def start(self, arrays: Sequence[np.ndarray]) -> None:
        """Begin to copy the arrays of the next `put`; they must not change until `finish` after it returns."""
