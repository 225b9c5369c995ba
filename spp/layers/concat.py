"""Layers that join or cut blobs: Concat, Slice, Tile, Crop."""
from typing import Any, Iterator, Sequence

from spp.backend.types import Array, Numbers
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, canonical_axis, format_shape
from spp.layers.registry import register
from spp.ops import rearrange


@register("Concat")
class Concat(Layer):
    """The bottoms joined along an axis, in their order (Caffe: Concat); a single bottom is passed through.

    Raises NetError if the bottoms differ in another axis.
    """

    bottoms = (1, None)
    axis: int

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        self.axis = _axis(self.param.concat_param, "concat", len(shape))
        for i, blob in enumerate(bottom):
            rest = blob.shape[:self.axis] + blob.shape[self.axis + 1:]
            if len(blob.shape) != len(shape) or rest != shape[:self.axis] + shape[self.axis + 1:]:
                raise NetError(f"bottoms must agree in all axes but axis {self.axis}: bottom 0 is "
                               f"{format_shape(shape)}, bottom {i} is {format_shape(blob.shape)}")
        total = sum(blob.shape[self.axis] for blob in bottom)
        top[0].reshape(shape[:self.axis] + (total,) + shape[self.axis + 1:])
        if len(bottom) == 1:
            top[0].share_data(bottom[0])
            top[0].share_diff(bottom[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob, part in zip(bottom, _parts(top[0].data, bottom, self.axis)):
            if blob.memory is not top[0].memory:        # else the bottom is stored in the top already
                part[...] = blob.data

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if len(bottom) > 1:
            for blob, part, propagate in zip(bottom, _parts(top[0].diff, bottom, self.axis), propagate_down):
                if propagate:
                    blob.diff[...] = part


@register("Slice")
class Slice(Layer):
    """The bottom cut along an axis into one part per top (Caffe: Slice); for a single top it is passed through.

    slice_point: where the second, third ... parts begin; without it all parts are equal. Raises NetError if the
    axis does not divide into equal parts, or if the points do not increase inside the axis.
    """

    tops = (1, None)
    axis: int

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, shape = self.param.slice_param, bottom[0].shape
        self.axis = _axis(p, "slice", len(shape))
        for blob, size in zip(top, self._sizes(list(p.slice_point), shape[self.axis], len(top))):
            blob.reshape(shape[:self.axis] + (size,) + shape[self.axis + 1:])
        if len(top) == 1:
            top[0].share_data(bottom[0])
            top[0].share_diff(bottom[0])

    def _sizes(self, points: list[int], size: int, count: int) -> list[int]:
        """The sizes of `count` parts of an axis of this size."""
        if not points:
            if size % count:
                raise NetError(f"axis {self.axis} of size {size} does not divide into {count} equal tops; give "
                               f"slice_param {count - 1} slice_point")
            return [size // count] * count
        ends = [0, *points, size]
        if len(points) != count - 1:
            raise NetError(f"slice_param needs one slice_point fewer than tops, {count - 1}; found {len(points)}")
        if any(start >= end for start, end in zip(ends, ends[1:])):
            raise NetError(f"each slice_point must be larger than the one before it, above 0 and below {size}, the "
                           f"size of axis {self.axis}; found {' '.join(map(str, points))}")
        return [end - start for start, end in zip(ends, ends[1:])]

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if len(top) > 1:
            for blob, part in zip(top, _parts(bottom[0].data, top, self.axis)):
                blob.data[...] = part

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if len(top) > 1 and propagate_down[0]:
            for blob, part in zip(top, _parts(bottom[0].diff, top, self.axis)):
                part[...] = blob.diff


def _parts(array: Array, blobs: Sequence[Blob], axis: int) -> Iterator[Array]:
    """Consecutive views of an array along an axis, each of a blob's size."""
    start = 0
    for blob in blobs:
        end = start + blob.shape[axis]
        yield array[(slice(None),) * axis + (slice(start, end),)]
        start = end


def _axis(p: Any, kind: str, ndim: int) -> int:
    """The axis of concat_param or slice_param, by its present or older name. Raises NetError for both."""
    older = f"{kind}_dim"
    if not p.HasField(older):
        return canonical_axis(p.axis, ndim)
    if p.HasField("axis"):
        raise NetError(f"{kind}_param takes either axis or the older {older}, not both")
    return canonical_axis(getattr(p, older), ndim)


@register("Tile")
class Tile(Layer):
    """The bottom repeated `tiles` times along an axis (Caffe: Tile). Raises NetError for fewer than one."""

    axis: int

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, shape = self.param.tile_param, bottom[0].shape
        if p.tiles < 1:
            raise NetError(f"tile_param needs tiles, at least 1; found {p.tiles}")
        self.axis = canonical_axis(p.axis, len(shape))
        top[0].reshape(shape[:self.axis] + (shape[self.axis] * p.tiles,) + shape[self.axis + 1:])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        rearrange.tile_forward(bottom[0].data, top[0].data, self.axis, self.param.tile_param.tiles)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            rearrange.tile_backward(top[0].diff, bottom[0].diff, self.axis, self.param.tile_param.tiles)


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
        top[0].data[...] = rearrange.crop(bottom[0].data, self.offsets, self.sizes)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            bottom[0].diff[...] = 0
            rearrange.crop(bottom[0].diff, self.offsets, self.sizes)[...] = top[0].diff
        if propagate_down[1]:
            bottom[1].diff[...] = 0
