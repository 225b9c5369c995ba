"""Parts and repetitions of an array."""
from typing import Any, Sequence


def crop(x: Any, offsets: Sequence[int], sizes: Sequence[int]) -> Any:
    """The view of x from these offsets on, of these sizes."""
    return x[tuple(slice(start, start + size) for start, size in zip(offsets, sizes))]


def tile_forward(x: Any, y: Any, axis: int, tiles: int) -> None:
    """y = x, `tiles` times one after the other along an axis."""
    _by_tile(y, axis, tiles)[...] = x[(slice(None),) * axis + (None,)]


def tile_backward(dy: Any, dx: Any, axis: int, tiles: int) -> None:
    """dx = the sum of the tiles of dy."""
    _by_tile(dy, axis, tiles).sum(axis, out=dx)


def _by_tile(array: Any, axis: int, tiles: int) -> Any:
    """A view with an axis of tiles before `axis`: to cut an axis in two needs no copy in any order of memory."""
    shape = array.shape
    return array.reshape(shape[:axis] + (tiles, shape[axis] // tiles) + shape[axis + 1:])
