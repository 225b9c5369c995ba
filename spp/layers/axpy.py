"""Axpy."""
from typing import Sequence

from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, format_shape
from spp.layers.registry import register
from spp.ops import axpy


@register("Axpy")
class Axpy(Layer):
    """a * x + y with one factor a per image and channel (SENet: Axpy).

    Bottoms: a, N x C (x 1 x 1); x and y, N x C x ...; the top has the shape of x. Raises NetError for other shapes.
    """

    bottoms = (3, 3)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        scale, x, y = (blob.shape for blob in bottom)
        if x != y or len(x) < 2:
            raise NetError(f"bottoms 1 and 2 must have one shape N x C x ..., found {format_shape(x)} and "
                           f"{format_shape(y)}")
        if scale[:2] != x[:2] or bottom[0].count != x[0] * x[1]:
            raise NetError(f"bottom 0 must have one number for each of {x[0]} x {x[1]} channels, found shape "
                           f"{format_shape(scale)}")
        top[0].reshape(x)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        a, x, y = (blob.data for blob in bottom)
        axpy.forward(a, x, y, top[0].data)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy = top[0].diff
        if propagate_down[0]:
            axpy.backward_factor(dy, bottom[1].data, bottom[0].diff)
        if propagate_down[1]:
            axpy.backward_data(dy, bottom[0].data, bottom[1].diff)
        if propagate_down[2]:
            bottom[2].diff[...] = dy
