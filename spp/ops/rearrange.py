"""The same values in other places: Reorg's and ShuffleChannel's orders, of N x C x H x W arrays."""
from typing import Any

from spp import backend


def space_to_channels(x: Any, y: Any, stride: int) -> None:
    """YOLO v2's Reorg: x, N x C x H x W, to y, N x C s^2 x H/s x W/s.

    As in Darknet, x is first read as C / s^2 channels of H s x W s. Its pixel (s j + a, s i + b) goes to
    (j, i) of block a s + b; the result, again C x H x W in memory, is read as C s^2 x H / s x W / s.
    """
    n, c, h, w = x.shape
    _gather(x, y, (n, c // stride ** 2, h, w, stride))


def channels_to_space(x: Any, y: Any, stride: int) -> None:
    """The inverse: x, N x C x H x W, to y, N x C / s^2 x H s x W s."""
    n, c, h, w = x.shape
    _spread(x, y, (n, c // stride ** 2, h, w, stride))


def undo_space_to_channels(dy: Any, dx: Any, stride: int) -> None:
    """The gradient of `space_to_channels`: dy, N x C s^2 x H/s x W/s, back to dx, N x C x H x W."""
    n, c, h, w = dx.shape
    _spread(dy, dx, (n, c // stride ** 2, h, w, stride))


def undo_channels_to_space(dy: Any, dx: Any, stride: int) -> None:
    """The gradient of `channels_to_space`."""
    n, c, h, w = dx.shape
    _gather(dy, dx, (n, c // stride ** 2, h, w, stride))


def _gather(x: Any, y: Any, sizes: tuple[int, ...]) -> None:
    """y, read as N x s x s x D x H x W, from x, read as N x D x H s x W s; sizes: N, D, H, W, s."""
    n, d, h, w, s = sizes
    device = backend.of(x)
    wide, out = device.load_matrix(x, 1, "rearrange.x"), device.matrix(y, 1, "rearrange.y")
    out.reshape(n, s, s, d, h, w)[...] = wide.reshape(n, d, h, s, w, s).transpose(0, 3, 5, 1, 2, 4)
    device.store(out.reshape(y.shape), y)


def _spread(x: Any, y: Any, sizes: tuple[int, ...]) -> None:
    """The inverse: y, read as N x D x H s x W s, from x, read as N x s x s x D x H x W."""
    n, d, h, w, s = sizes
    device = backend.of(x)
    deep, out = device.load_matrix(x, 1, "rearrange.x"), device.matrix(y, 1, "rearrange.y")
    out.reshape(n, d, h, s, w, s)[...] = deep.reshape(n, s, s, d, h, w).transpose(0, 3, 4, 1, 5, 2)
    device.store(out.reshape(y.shape), y)


def shuffle(x: Any, y: Any, group: int) -> None:
    """Channel k of each of the groups in turn, for k = 0, 1, ...: channel k * group + g is channel k of group g."""
    n, c, *rest = x.shape
    y.reshape(n, c // group, group, *rest)[...] = x.reshape(n, group, c // group, *rest).swapaxes(1, 2)
