"""Layers that make many numbers few: Reduction, ArgMax."""
import math
from typing import Sequence

from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, canonical_axis
from spp.layers.registry import register
from spp.ops import reduction


@register("Reduction")
class Reduction(Layer):
    """coeff * SUM, ASUM, SUMSQ or MEAN over all axes from `axis` on (Caffe: Reduction)."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.reduction_param
        self.how = (p.ReductionOp.Name(p.operation), p.coeff)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        # a scalar has no axis; Caffe's axis 0 of it means itself
        axis = canonical_axis(self.param.reduction_param.axis, len(shape)) if shape else 0
        top[0].reshape(shape[:axis])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        reduction.reduce_forward(bottom[0].data, top[0].data, *self.how)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            reduction.reduce_backward(top[0].diff, bottom[0].data, bottom[0].diff, *self.how)


@register("ArgMax")
class ArgMax(Layer):
    """The indices of the top_k largest elements, the largest first (Caffe: ArgMax); has no gradient.

    Without `axis`, of each image: N x 1 x top_k; with out_max_val N x 2 x top_k, indices and values (and more
    axes of 1 if the bottom has more than 3). With `axis`, along it: top_k indices, or with out_max_val the
    values alone. Of equal elements the last comes first.
    """

    def differentiable(self, bottom: int) -> bool:
        return False

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, shape = self.param.argmax_param, bottom[0].shape
        if p.HasField("axis"):
            axis = canonical_axis(p.axis, len(shape))
            among, found = shape[axis], shape[:axis] + (p.top_k,) + shape[axis + 1:]
        else:
            if not shape:
                raise NetError("needs a bottom with an axis of images, found a scalar")
            among = math.prod(shape[1:])
            found = (shape[0], 2 if p.out_max_val else 1, p.top_k) + (1,) * (len(shape) - 3)
        if not 1 <= p.top_k <= among:
            raise NetError(f"top_k must be 1 to {among}, the number of elements to choose from; found {p.top_k}")
        top[0].reshape(found)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y, p = bottom[0].data, top[0].data, self.param.argmax_param
        if p.HasField("axis"):
            indices, values = reduction.largest(x, p.axis % len(x.shape), p.top_k)
            y[...] = values if p.out_max_val else indices
            return
        found = reduction.largest(self.context.backend.load_matrix(x, 1, "argmax.images"), 1, p.top_k)
        for row, numbers in enumerate(found[:y.shape[1]]):
            y[:, row] = numbers.reshape(y[:, row].shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            raise NetError("an index has no gradient, but its bottom asks for one; write propagate_down: false in "
                           "this layer")
