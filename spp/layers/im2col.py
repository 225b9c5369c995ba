"""Im2col."""
import math
from typing import Sequence

from spp.backend.types import Geometry
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, canonical_axis, format_shape
from spp.layers.geometry import convolution_geometry
from spp.layers.registry import register
from spp.ops import im2col
from spp.ops.convolution import output_size


@register("Im2col")
class Im2col(Layer):
    """The values of every window of a Convolution as channels (Caffe: Im2col).

    Uses kernel, stride, pad, dilation and axis of convolution_param. Bottom: ... x C x spatial axes; top: ... x
    (C * kernel elements) x output sizes, the elements of a channel's window one after the other. Raises NetError for
    parameters as Convolution does, and if the number of axes changes.
    """

    axes: int                                           # the bottom's
    axis: int                                           # of the channels
    geometry: Geometry

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.convolution_param
        self.axes = len(bottom[0].shape)
        self.axis = canonical_axis(p.axis, self.axes)
        self.geometry = convolution_geometry(p, self.axes - self.axis - 1)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        if len(shape) != self.axes:
            raise NetError(f"was set up for a bottom of {self.axes} axes, found shape {format_shape(shape)}")
        sizes = map(output_size, shape[self.axis + 1:], *self.geometry[:4])
        channels = shape[self.axis] * math.prod(self.geometry.kernel)
        top[0].reshape(*shape[:self.axis], channels, *sizes)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        im2col.forward(bottom[0].data, top[0].data, self.geometry, self.axis)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            im2col.backward(top[0].diff, bottom[0].diff, self.geometry, self.axis)
