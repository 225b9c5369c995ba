"""Layers that move values without changing them: Split, Flatten, Concat, Silence."""
import math

from spp.errors import NetError
from spp.layers.base import Layer, canonical_axis
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
                               f"{' x '.join(map(str, first))}, bottom {i} is {' x '.join(map(str, blob.shape))}")
        total = sum(blob.shape[self.axis] for blob in bottom)
        top[0].reshape(first[:self.axis] + (total,) + first[self.axis + 1:])
        if len(bottom) == 1:
            top[0].share_data(bottom[0])
            top[0].share_diff(bottom[0])

    def forward(self, bottom, top):
        if len(bottom) > 1:
            for blob, part in zip(bottom, self._parts(top[0].data, bottom)):
                part[...] = blob.data

    def backward(self, top, propagate_down, bottom):
        if len(bottom) > 1:
            for blob, part, wanted in zip(bottom, self._parts(top[0].diff, bottom), propagate_down):
                if wanted:
                    blob.diff[...] = part

    def _parts(self, array, bottom):
        start = 0
        for blob in bottom:
            end = start + blob.shape[self.axis]
            yield array[(slice(None),) * self.axis + (slice(start, end),)]
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
