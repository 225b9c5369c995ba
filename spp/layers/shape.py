"""Layers that hand values on without changing them: Split, Flatten, Reshape, Concat, Slice, Silence."""
import math

from spp.errors import NetError
from spp.layers.base import Layer, canonical_axis, format_shape
from spp.layers.registry import register


@register("Split")
class Split(Layer):
    """Hands one blob to several readers: shared values, summed gradients (Caffe: Split)."""

    tops = (1, None)

    def reshape(self, bottom, top):
        for blob in top:
            blob.reshape(bottom[0].shape)
            blob.share_data(bottom[0])

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            total = bottom[0].diff
            total[...] = top[0].diff
            for blob in top[1:]:
                total += blob.diff


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


@register("Concat")
class Concat(Layer):
    """The bottoms one after the other along an axis (Caffe: Concat); one bottom is handed on as it is."""

    bottoms = (1, None)

    def setup(self, bottom, top):
        p = self.param.concat_param
        if p.HasField("axis") and p.HasField("concat_dim"):
            raise NetError("concat_param takes either axis or the older concat_dim, not both")

    def reshape(self, bottom, top):
        p, first = self.param.concat_param, bottom[0].shape
        axis = p.concat_dim if p.HasField("concat_dim") else p.axis
        self.axis = canonical_axis(axis, len(first))
        for i, blob in enumerate(bottom):
            rest = blob.shape[:self.axis] + blob.shape[self.axis + 1:]
            if len(blob.shape) != len(first) or rest != first[:self.axis] + first[self.axis + 1:]:
                raise NetError(f"bottoms must agree in all axes but axis {self.axis}: bottom 0 is "
                               f"{format_shape(first)}, bottom {i} is {format_shape(blob.shape)}")
        total = sum(blob.shape[self.axis] for blob in bottom)
        top[0].reshape(first[:self.axis] + (total,) + first[self.axis + 1:])
        if len(bottom) == 1:
            top[0].share_data(bottom[0])
            top[0].share_diff(bottom[0])

    def forward(self, bottom, top):
        for blob, part in zip(bottom, _parts(top[0].data, bottom, self.axis)):
            if blob.memory is not top[0].memory:        # else it is a part already
                part[...] = blob.data

    def backward(self, top, propagate_down, bottom):
        if len(bottom) > 1:
            for blob, part, wanted in zip(bottom, _parts(top[0].diff, bottom, self.axis), propagate_down):
                if wanted:
                    blob.diff[...] = part


@register("Slice")
class Slice(Layer):
    """The bottom cut along an axis into one part a top (Caffe: Slice); one top is the bottom as it is.

    slice_point gives where the second, third ... parts begin; without it all parts are equal.
    """

    tops = (1, None)

    def setup(self, bottom, top):
        p = self.param.slice_param
        if p.HasField("axis") and p.HasField("slice_dim"):
            raise NetError("slice_param takes either axis or the older slice_dim, not both")

    def reshape(self, bottom, top):
        p, shape = self.param.slice_param, bottom[0].shape
        self.axis = canonical_axis(p.slice_dim if p.HasField("slice_dim") else p.axis, len(shape))
        size = shape[self.axis]
        for blob, part in zip(top, self._sizes(list(p.slice_point), size, len(top))):
            blob.reshape(shape[:self.axis] + (part,) + shape[self.axis + 1:])
        if len(top) == 1:
            top[0].share_data(bottom[0])
            top[0].share_diff(bottom[0])

    def _sizes(self, points, size, count):
        if not points:
            if size % count:
                raise NetError(f"axis {self.axis} of size {size} does not divide into {count} equal tops; give "
                               f"slice_param {count - 1} slice_point")
            return [size // count] * count
        ends = [0, *points, size]
        if len(points) != count - 1:
            raise NetError(f"slice_param needs one slice_point fewer than tops, {count - 1}; found {len(points)}")
        if any(start >= end for start, end in zip(ends, ends[1:])):
            raise NetError(f"each slice_point must lie behind the one before it, above 0 and below {size}, the size "
                           f"of axis {self.axis}; found {' '.join(map(str, points))}")
        return [end - start for start, end in zip(ends, ends[1:])]

    def forward(self, bottom, top):
        if len(top) > 1:
            for blob, part in zip(top, _parts(bottom[0].data, top, self.axis)):
                blob.data[...] = part

    def backward(self, top, propagate_down, bottom):
        if len(top) > 1 and propagate_down[0]:
            for blob, part in zip(top, _parts(bottom[0].diff, top, self.axis)):
                part[...] = blob.diff


def _parts(array, blobs, axis):
    """The views of an array that the blobs' sizes cut it into, one after the other along an axis."""
    start = 0
    for blob in blobs:
        end = start + blob.shape[axis]
        yield array[(slice(None),) * axis + (slice(start, end),)]
        start = end


@register("Silence")
class Silence(Layer):
    """Reads blobs so that they are no outputs of the net (Caffe: Silence); its gradient is 0."""

    bottoms = (1, None)
    tops = (0, 0)

    def backward(self, top, propagate_down, bottom):
        for blob, wanted in zip(bottom, propagate_down):
            if wanted:
                blob.diff[...] = 0
