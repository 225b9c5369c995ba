"""Crop."""
from typing import Sequence

from spp.backend.types import Numbers
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, canonical_axis, format_shape
from spp.layers.registry import register
from spp.ops import shape as shapes


@register("Crop")
class Crop(Layer):
    """Bottom 0 cut to bottom 1's sizes in the axes from `axis` on, beginning at the offsets (Caffe: Crop).

    offset: none for 0, one for all of these axes, or one per axis. Bottom 1's gradient is 0. Raises NetError if
    the bottoms have different numbers of axes, or if the crop does not fit.
    """

    bottoms = (2, 2)
    offsets: list[int]      # per axis
    sizes: Numbers          # per axis

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, shape, reference = self.param.crop_param, bottom[0].shape, bottom[1].shape
        if len(reference) != len(shape):
            raise NetError(f"bottoms must have equally many axes: bottom 0 is {format_shape(shape)}, bottom 1 "
                           f"{format_shape(reference)}")
        axis = canonical_axis(p.axis, len(shape))
        offsets = list(p.offset)
        if len(offsets) < 2:
            offsets = (offsets or [0]) * (len(shape) - axis)
        if len(offsets) != len(shape) - axis:
            raise NetError(f"crop_param needs no offset, one, or one for each of the {len(shape) - axis} axes from "
                           f"axis {axis} on; found {len(offsets)}")
        self.offsets = [0] * axis + offsets
        self.sizes = shape[:axis] + reference[axis:]
        for i, (size, offset, cut) in enumerate(zip(shape, self.offsets, self.sizes)):
            if offset + cut > size:
                raise NetError(f"the crop of axis {i} is out of bounds: {cut} elements from offset {offset} on do not "
                               f"fit into bottom 0's {size}")
        top[0].reshape(self.sizes)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].data[...] = shapes.crop(bottom[0].data, self.offsets, self.sizes)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            bottom[0].diff[...] = 0
            shapes.crop(bottom[0].diff, self.offsets, self.sizes)[...] = top[0].diff
        if propagate_down[1]:
            bottom[1].diff[...] = 0
