"""Permutations of the elements of N x C x H x W arrays: Reorg (YOLO v2) and ShuffleChannel (ShuffleNet, Sec. 3.1)."""
from spp import backend
from spp.backend.types import Array


def space_to_channels(x: Array, y: Array, stride: int) -> None:
    """YOLO v2's Reorg: x, N x C x H x W, to y, N x C s^2 x H/s x W/s, where s is the stride.

    As in Darknet, x is first reshaped to C / s^2 channels of H s x W s. Its pixel (s j + a, s i + b) becomes pixel
    (j, i) of block a s + b; the result, C x H x W in memory again, is reshaped to C s^2 x H / s x W / s.
    """
    n, c, h, w = x.shape
    _gather(x, y, (n, c // stride ** 2, h, w, stride))


def channels_to_space(x: Array, y: Array, stride: int) -> None:
    """The inverse: x, N x C x H x W, to y, N x C / s^2 x H s x W s."""
    n, c, h, w = x.shape
    _spread(x, y, (n, c // stride ** 2, h, w, stride))


def undo_space_to_channels(dy: Array, dx: Array, stride: int) -> None:
    """The gradient of `space_to_channels`: dy, N x C s^2 x H/s x W/s, to dx, N x C x H x W."""
    n, c, h, w = dx.shape
    _spread(dy, dx, (n, c // stride ** 2, h, w, stride))


def undo_channels_to_space(dy: Array, dx: Array, stride: int) -> None:
    """The gradient of `channels_to_space`."""
    n, c, h, w = dx.shape
    _gather(dy, dx, (n, c // stride ** 2, h, w, stride))


def _gather(x: Array, y: Array, sizes: tuple[int, ...]) -> None:
    """Write y, reshaped to N x s x s x D x H x W, from x, reshaped to N x D x H s x W s; sizes: N, D, H, W, s."""
    n, d, h, w, s = sizes
    device = backend.of(x)
    wide, out = device.load_matrix(x, 1, "rearrange.x"), device.empty_matrix(y, 1, "rearrange.y")
    out.reshape(n, s, s, d, h, w)[...] = wide.reshape(n, d, h, s, w, s).transpose(0, 3, 5, 1, 2, 4)
    device.store(out.reshape(y.shape), y)


def _spread(x: Array, y: Array, sizes: tuple[int, ...]) -> None:
    """The inverse: write y, reshaped to N x D x H s x W s, from x, reshaped to N x s x s x D x H x W."""
    n, d, h, w, s = sizes
    device = backend.of(x)
    deep, out = device.load_matrix(x, 1, "rearrange.x"), device.empty_matrix(y, 1, "rearrange.y")
    out.reshape(n, d, h, s, w, s)[...] = deep.reshape(n, s, s, d, h, w).transpose(0, 3, 4, 1, 5, 2)
    device.store(out.reshape(y.shape), y)


def shuffle(x: Array, y: Array, group: int) -> None:
    """y = x with channel k of group g moved to channel k * group + g. x, y: N x C x (any axes)."""
    n, c, *rest = x.shape
    y.reshape(n, c // group, group, *rest)[...] = x.reshape(n, group, c // group, *rest).swapaxes(1, 2)
