"""Elements in other places: Reorg (YOLO v2), ShuffleChannel (ShuffleNet, Sec. 3.1), Caffe's Crop and Tile."""
from typing import Sequence

from spp import backend
from spp.backend.types import Array, Numbers


def space_to_channels(x: Array, y: Array, shape: Numbers, stride: int) -> None:
    """YOLO v2's Reorg of x, N x C x H x W, to y, N x C s^2 x H/s x W/s, where s is the stride; shape: N, C, H, W.

    As in Darknet, x is first reshaped to C / s^2 channels of H s x W s. Its pixel (s j + a, s i + b) becomes pixel
    (j, i) of block a s + b; the result, C x H x W in memory again, is reshaped to C s^2 x H / s x W / s. It is also
    the gradient of `channels_to_space`, from dy to dx.
    """
    (n, c, h, w), s, device = shape, stride, backend.of(x)
    wide, out = device.load_matrix(x, 1, "rearrange.x"), device.empty_matrix(y, 1, "rearrange.y")
    d = c // s ** 2
    out.reshape(n, s, s, d, h, w)[...] = wide.reshape(n, d, h, s, w, s).transpose(0, 3, 5, 1, 2, 4)
    device.store(out.reshape(y.shape), y)


def channels_to_space(x: Array, y: Array, shape: Numbers, stride: int) -> None:
    """The inverse: x, N x C x H x W, to y, N x C / s^2 x H s x W s; shape: N, C, H, W.

    It is also the gradient of `space_to_channels`, from dy to dx; `shape` is that of dx then, as it is above.
    """
    (n, c, h, w), s, device = shape, stride, backend.of(x)
    deep, out = device.load_matrix(x, 1, "rearrange.x"), device.empty_matrix(y, 1, "rearrange.y")
    d = c // s ** 2
    out.reshape(n, d, h, s, w, s)[...] = deep.reshape(n, s, s, d, h, w).transpose(0, 3, 4, 1, 5, 2)
    device.store(out.reshape(y.shape), y)


def shuffle(x: Array, y: Array, group: int) -> None:
    """y = x with channel k of group g moved to channel k * group + g. x, y: N x C x (any axes)."""
    n, c, *rest = x.shape
    y.reshape(n, c // group, group, *rest)[...] = x.reshape(n, group, c // group, *rest).swapaxes(1, 2)


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
