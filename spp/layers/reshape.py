"""Layers that give a blob other axes: Flatten, Reshape."""
import math

from spp.errors import NetError
from spp.layers.base import Layer, canonical_axis, format_shape
from spp.layers.registry import register


class _SameValues(Layer):
    """Base of layers whose only top has the bottom's values in another shape.

    Memory is shared where the bottom lies in Caffe's order; a channels-last bottom is copied into that order.
    """

    def take_shape(self, bottom, top, shape):
        top.reshape(shape)
        self.shares = bottom.caffe_order
        if self.shares:
            top.share_data(bottom)
            top.share_diff(bottom)
        else:
            top.own_in_caffe_order()

    def forward(self, bottom, top):
        if not self.shares:
            x = bottom[0].data
            top[0].data.reshape(x.shape)[...] = x

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0] and not self.shares:
            dx = bottom[0].diff
            dx[...] = top[0].diff.reshape(dx.shape)


@register("Flatten")
class Flatten(_SameValues):
    """Axes axis .. end_axis become one (Caffe: Flatten)."""

    def reshape(self, bottom, top):
        p, shape = self.param.flatten_param, bottom[0].shape
        first = canonical_axis(p.axis, len(shape))
        last = canonical_axis(p.end_axis, len(shape), "end_axis")
        if last < first:
            raise NetError(f"flatten_param's end_axis {p.end_axis} lies before its axis {p.axis}")
        flat = math.prod(shape[first:last + 1])
        self.take_shape(bottom[0], top[0], shape[:first] + (flat,) + shape[last + 1:])


@register("Reshape")
class Reshape(_SameValues):
    """Other axes for the same values (Caffe: Reshape).

    reshape_param's `shape` takes the place of num_axes (-1: all) axes from `axis` on; a negative axis counts from
    behind the last, so that -1 appends. In it 0 means as in the bottom, and one -1 what is left over.
    """

    def setup(self, bottom, top):
        sizes = list(self.param.reshape_param.shape.dim)
        if sizes.count(-1) > 1 or min(sizes, default=0) < -1:
            raise NetError(f"reshape_param's shape takes sizes, 0 to copy a size, and at most one -1; found "
                           f"{' '.join(map(str, sizes))}")

    def reshape(self, bottom, top):
        p, shape = self.param.reshape_param, bottom[0].shape
        first = p.axis if p.axis >= 0 else len(shape) + p.axis + 1
        if not 0 <= first <= len(shape):
            raise NetError(f"axis {p.axis} is out of range for a blob of {len(shape)} axes: Reshape takes "
                           f"{-len(shape) - 1} to {len(shape)}")
        last = len(shape) if p.num_axes == -1 else first + p.num_axes
        if not first <= last <= len(shape):
            raise NetError(f"num_axes must be -1, for all axes from axis {first} on, or 0 to {len(shape) - first}; "
                           f"found {p.num_axes}")
        sizes = list(p.shape.dim)
        for i, size in enumerate(sizes):
            if size == 0:
                if first + i >= len(shape):
                    raise NetError(f"reshape_param's shape has a 0, for a copied size, as number {i}, but the bottom "
                                   f"{format_shape(shape)} has no axis {first + i}")
                sizes[i] = shape[first + i]
        reshaped = shape[:first] + tuple(sizes) + shape[last:]
        if -1 in sizes:
            # sizes of 0 (a Filter let nothing through) count as 1, so that the rest can be told
            known = math.prod(size or 1 for size in reshaped if size != -1)
            missing = math.prod(size or 1 for size in shape) // known
            reshaped = tuple(missing if size == -1 else size for size in reshaped)
        if math.prod(reshaped) != bottom[0].count:
            raise NetError(f"cannot reshape {format_shape(shape)} ({bottom[0].count} elements) to "
                           f"{format_shape(reshaped)} ({math.prod(reshaped)} elements)")
        self.take_shape(bottom[0], top[0], reshaped)
