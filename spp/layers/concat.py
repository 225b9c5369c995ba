"""Layers that join or cut blobs along an axis: Concat, Slice, Tile."""
from spp.errors import NetError
from spp.layers.base import Layer, canonical_axis, format_shape
from spp.layers.registry import register
from spp.ops import shape as shapes


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


@register("Tile")
class Tile(Layer):
    """The bottom, `tiles` times one after the other along an axis (Caffe: Tile)."""

    def reshape(self, bottom, top):
        p, shape = self.param.tile_param, bottom[0].shape
        if p.tiles < 1:
            raise NetError(f"tile_param needs tiles, at least 1; found {p.tiles}")
        self.axis = canonical_axis(p.axis, len(shape))
        top[0].reshape(shape[:self.axis] + (shape[self.axis] * p.tiles,) + shape[self.axis + 1:])

    def forward(self, bottom, top):
        shapes.tile_forward(bottom[0].data, top[0].data, self.axis, self.param.tile_param.tiles)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            shapes.tile_backward(top[0].diff, bottom[0].diff, self.axis, self.param.tile_param.tiles)
