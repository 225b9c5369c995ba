"""Batches, which the host prepares ahead of time, copied to the arrays of a net, and uint8 images transformed."""
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


def transform(images: np.ndarray, mirrored: np.ndarray, shift: np.ndarray, place: np.ndarray, mean: np.ndarray,
              scale: float, y: np.ndarray) -> None:
    """y = (images + shift - mean) * scale, computed in float32, and flipped left to right where `mirrored`.

    images: uint8, N x H x W x C; mirrored: bool, N; shift: float32, N x C; mean: float32, (C,), or rows x columns x
    C, of which each image uses H x W pixels from its row and column `place` (int32, N x 2) on; y: N x C x H x W.
    """
    height, width = y.shape[2:]
    for image, mirror, color, (row, column), out in zip(images, mirrored, shift, place, y.transpose(0, 2, 3, 1)):
        crop = mean[row:row + height, column:column + width] if mean.ndim == 3 else mean
        values = (image + color - crop) * np.float32(scale)
        out[...] = values[:, ::-1] if mirror else values
