"""Layers that reduce axes: Reduction, ArgMax."""
import math
from typing import Sequence

from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, canonical_axis
from spp.layers.registry import register
from spp.ops import reduction


@register("Reduction")
class Reduction(Layer):
    """coeff * SUM, ASUM, SUMSQ or MEAN over all axes from `axis` on, which the top lacks (Caffe: Reduction)."""

    operation: str
    coeff: float

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.reduction_param
        self.operation, self.coeff = p.ReductionOp.Name(p.operation), p.coeff

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        # a scalar has no axis; Caffe's axis 0 of it means itself
        axis = canonical_axis(self.param.reduction_param.axis, len(shape)) if shape else 0
        top[0].reshape(shape[:axis])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        reduction.reduce_forward(bottom[0].data, top[0].data, self.operation, self.coeff)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            reduction.reduce_backward(top[0].diff, bottom[0].data, bottom[0].diff, self.operation, self.coeff)


@register("ArgMax")
class ArgMax(Layer):
    """The indices of the top_k largest elements, the largest first (Caffe: ArgMax); has no gradient.

    Without `axis` the top is N x 1 x top_k, the indices within each image, or with out_max_val N x 2 x top_k, indices
    and values (with trailing axes of 1 if the bottom has more than 3). With `axis`, that axis becomes top_k indices,
    or with out_max_val the values alone. Of equal elements the last comes first. Raises NetError for a top_k that is
    not 1 to the number of elements, and if the bottom is to get a gradient.
    """

    differentiable_bottoms = 0

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, shape = self.param.argmax_param, bottom[0].shape
        if p.HasField("axis"):
            axis = canonical_axis(p.axis, len(shape))
            count, top_shape = shape[axis], shape[:axis] + (p.top_k,) + shape[axis + 1:]
        else:
            if not shape:
                raise NetError("needs a bottom with an axis of images, found a scalar")
            count = math.prod(shape[1:])
            top_shape = (shape[0], 2 if p.out_max_val else 1, p.top_k) + (1,) * (len(shape) - 3)
        if not 1 <= p.top_k <= count:
            raise NetError(f"top_k must be 1 to {count}, the number of elements to choose from; found {p.top_k}")
        top[0].reshape(top_shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y, p = bottom[0].data, top[0].data, self.param.argmax_param
        if p.HasField("axis"):
            indices, values = reduction.largest(x, p.axis % len(x.shape), p.top_k)
            y[...] = values if p.out_max_val else indices
            return
        largest = reduction.largest(self.context.backend.load_matrix(x, 1, "argmax.images"), 1, p.top_k)
        for row, numbers in enumerate(largest[:y.shape[1]]):
            y[:, row] = numbers.reshape(y[:, row].shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            raise NetError("an index has no gradient, but its bottom asks for one; write propagate_down: false in "
                           "this layer")
