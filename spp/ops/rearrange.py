"""The same values in other places: Reorg's and ShuffleChannel's orders, as functions of N x C x H x W arrays."""
from typing import Any


def space_to_channels(x: Any, stride: int) -> Any:
    """YOLO v2's Reorg: N x C x H x W to N x C s^2 x H/s x W/s.

    As in Darknet, x is first read as C / s^2 channels of H s x W s. Its pixel (s j + a, s i + b) goes to
    (j, i) of block a s + b; the result, again C x H x W in memory, is read as C s^2 x H / s x W / s.
    """
    n, c, h, w = x.shape
    deep = x.reshape(n, c // stride ** 2, h, stride, w, stride).transpose(0, 3, 5, 1, 2, 4)
    return deep.reshape(n, c * stride ** 2, h // stride, w // stride)


def channels_to_space(x: Any, stride: int) -> Any:
    """The inverse: N x C x H x W to N x C / s^2 x H s x W s."""
    n, c, h, w = x.shape
    wide = x.reshape(n, stride, stride, c // stride ** 2, h, w).transpose(0, 3, 4, 1, 5, 2)
    return wide.reshape(n, c // stride ** 2, h * stride, w * stride)


def undo_space_to_channels(dy: Any, stride: int) -> Any:
    """The gradient of `space_to_channels`: N x C s^2 x H/s x W/s back to N x C x H x W."""
    n, c, h, w = dy.shape
    wide = channels_to_space(dy.reshape(n, c // stride ** 2, h * stride, w * stride), stride)
    return wide.reshape(n, c // stride ** 2, h * stride, w * stride)


def undo_channels_to_space(dy: Any, stride: int) -> Any:
    """The gradient of `channels_to_space`."""
    n, c, h, w = dy.shape
    narrow = dy.reshape(n, c, h // stride, stride, w // stride, stride).transpose(0, 3, 5, 1, 2, 4)
    return narrow.reshape(n, c * stride ** 2, h // stride, w // stride)


def shuffled(x: Any, group: int) -> Any:
    """Channel k of each of the groups in turn, for k = 0, 1, ...: channel k * group + g is channel k of group g."""
    n, c = x.shape[:2]
    return x.reshape(n, group, c // group, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)
