"""Layers of forks that reorder values: Permute, Reorg, ShuffleChannel."""
from typing import Sequence

from spp.backend.types import Numbers
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, format_shape
from spp.layers.registry import register
from spp.ops import rearrange


@register("Permute")
class Permute(Layer):
    """The bottom with its axes in permute_param's order, then the axes that it does not name (SSD: Permute).

    Raises NetError for an axis that is named twice or does not exist, and if the number of axes changes.
    """

    order: Numbers
    inverse: Numbers

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        order, axes = list(self.param.permute_param.order), len(bottom[0].shape)
        if len(set(order)) < len(order):
            raise NetError(f"permute_param names an axis twice: {', '.join(map(str, order))}")
        if any(axis >= axes for axis in order):
            raise NetError(f"permute_param's order {', '.join(map(str, order))} names an axis that a bottom of {axes} "
                           f"axes lacks")
        self.order = tuple(order + [axis for axis in range(axes) if axis not in order])
        self.inverse = tuple(self.order.index(axis) for axis in range(axes))

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        if len(shape) != len(self.order):
            raise NetError(f"was set up for a bottom of {len(self.order)} axes, found shape {format_shape(shape)}")
        top[0].reshape([shape[axis] for axis in self.order])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].data[...] = bottom[0].data.transpose(self.order)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff.transpose(self.inverse)


@register("Reorg")
class Reorg(Layer):
    """Space to channels in Darknet's order, or with `reverse` channels to space (YOLO v2: Reorg).

    N x C x H x W becomes N x (C * stride^2) x H / stride x W / stride, or N x (C / stride^2) x (H * stride) x
    (W * stride). Raises NetError if these are not whole numbers.
    """

    stride: int
    reverse: bool

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.reorg_param
        self.stride, self.reverse = p.stride, p.reverse
        if self.stride < 1:
            raise NetError("reorg_param's stride must be at least 1, found 0")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape, s = bottom[0].shape, self.stride
        if len(shape) != 4:
            raise NetError(f"needs a bottom of N x C x H x W, found shape {format_shape(shape)}")
        n, c, h, w = shape
        if c % s ** 2:
            raise NetError(f"the number of channels must be a multiple of stride^2 = {s ** 2}, found {c}")
        if not self.reverse and (h % s or w % s):
            raise NetError(f"height and width must be multiples of stride {s}, found {h} x {w}")
        top[0].reshape((n, c // s ** 2, h * s, w * s) if self.reverse else (n, c * s ** 2, h // s, w // s))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        change = rearrange.channels_to_space if self.reverse else rearrange.space_to_channels
        change(bottom[0].data, top[0].data, bottom[0].shape, self.stride)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            undo = rearrange.space_to_channels if self.reverse else rearrange.channels_to_space
            undo(top[0].diff, bottom[0].diff, bottom[0].shape, self.stride)


@register("ShuffleChannel")
class ShuffleChannel(Layer):
    """The first channel of each group, then each second ... (ShuffleNet). Raises NetError unless group divides C."""

    group: int

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.group = self.param.shuffle_channel_param.group

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        if len(shape) < 2 or self.group < 1 or shape[1] % self.group:
            raise NetError(f"the number of channels (axis 1) must be a multiple of group {self.group}, found shape "
                           f"{format_shape(shape)}")
        top[0].reshape(shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        rearrange.shuffle(bottom[0].data, top[0].data, self.group)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            rearrange.shuffle(top[0].diff, bottom[0].diff, top[0].shape[1] // self.group)
