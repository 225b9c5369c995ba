"""Parts and repetitions of an array (Caffe's Crop and Tile)."""
from spp.backend.types import Array
from typing import Sequence


def crop(x: Array, offsets: Sequence[int], sizes: Sequence[int]) -> Array:
    """A view of x that begins at these offsets and has these sizes, one per axis."""
    return x[tuple(slice(start, start + size) for start, size in zip(offsets, sizes))]


def tile_forward(x: Array, y: Array, axis: int, tiles: int) -> None:
    """y = x, repeated `tiles` times along an axis."""
    _by_tile(y, axis, tiles)[...] = x[(slice(None),) * axis + (None,)]


def tile_backward(dy: Array, dx: Array, axis: int, tiles: int) -> None:
    """dx = the sum of the tiles of dy."""
    _by_tile(dy, axis, tiles).sum(axis, out=dx)


def _by_tile(array: Array, axis: int, tiles: int) -> Array:
    """A view with an axis of tiles before `axis`; dividing an axis in two needs no copy in any order of memory."""
    shape = array.shape
    return array.reshape(shape[:axis] + (tiles, shape[axis] // tiles) + shape[axis + 1:])
