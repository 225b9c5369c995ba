"""How batches, made on the host ahead of time, come into a net's arrays."""
from typing import Any, Sequence

import numpy as np


class Feed:
    """Copies batches. On a GPU the next batch is on its way while the net still works on the last one.

    For each batch in turn: `finish`; ask for the batch; `put`; and `start` with the next one, if it is there.
    """

    transforms = False      # may the batch's first array be spp.data.pixels.Pixels, for the feed to transform?

    def empty(self, size: int) -> np.ndarray:
        """Memory of `size` bytes (uint8), from which batches are copied fastest. May be called on any thread."""
        return np.empty(size, np.uint8)

    def finish(self) -> None:
        """Return when nobody reads the memory of the batch that was last put, so that it can be written anew."""

    def put(self, arrays: Sequence[np.ndarray], targets: Sequence[Any]) -> None:
        """Write each of a batch's arrays to the equally shaped target, an array of the net."""
        for values, target in zip(arrays, targets):
            target[...] = values

    def start(self, arrays: Sequence[np.ndarray]) -> None:
        """Begin to copy the arrays that `put` will be given next; they must not change until it has `finish`ed."""
