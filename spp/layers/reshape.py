"""Layers that compute nothing: Flatten, Reshape, Split, Silence."""
import math
from typing import Sequence

from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, canonical_axis, format_shape
from spp.layers.registry import register


class _SameValues(Layer):
    """Base of layers whose only top has the bottom's values in another shape.

    The top shares the bottom's memory if that is in Caffe's order; a channels-last bottom is copied into that order.
    """

    shares_memory: bool     # whether the top shares the bottom's memory

    def set_shape(self, bottom: Blob, top: Blob, shape: Sequence[int]) -> None:
        """Give the top its shape, and its memory: the bottom's, or its own in Caffe's order."""
        top.reshape(shape)
        self.shares_memory = bottom.caffe_order
        if self.shares_memory:
            top.share_data(bottom)
            top.share_diff(bottom)
        else:
            top.own_in_caffe_order()

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if not self.shares_memory:
            x = bottom[0].data
            top[0].data.reshape(x.shape)[...] = x

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0] and not self.shares_memory:
            dx = bottom[0].diff
            dx[...] = top[0].diff.reshape(dx.shape)


@register("Flatten")
class Flatten(_SameValues):
    """The axes axis .. end_axis as one (Caffe: Flatten). Raises NetError if end_axis comes before axis."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, shape = self.param.flatten_param, bottom[0].shape
        axis = canonical_axis(p.axis, len(shape))
        end = canonical_axis(p.end_axis, len(shape), "end_axis") + 1
        if end <= axis:
            raise NetError(f"flatten_param's end_axis {p.end_axis} comes before its axis {p.axis}")
        self.set_shape(bottom[0], top[0], shape[:axis] + (math.prod(shape[axis:end]),) + shape[end:])


@register("Reshape")
class Reshape(_SameValues):
    """Other axes for the same values (Caffe: Reshape).

    reshape_param's `shape` replaces num_axes (-1: all) axes from `axis` on; a negative axis counts from after the
    last one, so that -1 appends. In `shape`, 0 copies the bottom's size, and one -1 stands for the remaining size.
    Raises NetError unless the number of elements stays the same.
    """

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        sizes = list(self.param.reshape_param.shape.dim)
        if sizes.count(-1) > 1 or min(sizes, default=0) < -1:
            raise NetError(f"reshape_param's shape takes sizes, 0 to copy a size, and at most one -1; found "
                           f"{' '.join(map(str, sizes))}")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, shape = self.param.reshape_param, bottom[0].shape
        axis = p.axis if p.axis >= 0 else len(shape) + p.axis + 1
        if not 0 <= axis <= len(shape):
            raise NetError(f"axis {p.axis} is out of range for a blob of {len(shape)} axes: Reshape takes "
                           f"{-len(shape) - 1} to {len(shape)}")
        end = len(shape) if p.num_axes == -1 else axis + p.num_axes
        if not axis <= end <= len(shape):
            raise NetError(f"num_axes must be -1, for all axes from axis {axis} on, or 0 to {len(shape) - axis}; "
                           f"found {p.num_axes}")
        sizes = list(p.shape.dim)
        for i, size in enumerate(sizes):
            if size == 0:
                if axis + i >= len(shape):
                    raise NetError(f"reshape_param's shape has a 0, for a copied size, as number {i}, but the bottom "
                                   f"{format_shape(shape)} has no axis {axis + i}")
                sizes[i] = shape[axis + i]
        reshaped = shape[:axis] + tuple(sizes) + shape[end:]
        if -1 in sizes:
            # sizes of 0 (a Filter that selected no row) count as 1, so that the remaining size is defined
            known = math.prod(size or 1 for size in reshaped if size != -1)
            missing = math.prod(size or 1 for size in shape) // known
            reshaped = tuple(missing if size == -1 else size for size in reshaped)
        if math.prod(reshaped) != bottom[0].count:
            raise NetError(f"cannot reshape {format_shape(shape)} ({bottom[0].count} elements) to "
                           f"{format_shape(reshaped)} ({math.prod(reshaped)} elements)")
        self.set_shape(bottom[0], top[0], reshaped)


@register("Split")
class Split(Layer):
    """Passes one blob to several readers (Caffe: Split). The tops share its values; its gradient is their sum."""

    tops = (1, None)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob in top:
            blob.reshape(bottom[0].shape)
            blob.share_data(bottom[0])

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            total = bottom[0].diff
            total[...] = top[0].diff
            for blob in top[1:]:
                total += blob.diff


@register("Silence")
class Silence(Layer):
    """Reads blobs so that they are no outputs of the net (Caffe: Silence); their gradient is 0."""

    bottoms = (1, None)
    tops = (0, 0)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        for blob, propagate in zip(bottom, propagate_down):
            if propagate:
                blob.diff[...] = 0
