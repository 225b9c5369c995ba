"""Im2col."""
import math

from spp.backend.types import Geometry
from spp.errors import NetError
from spp.layers.base import Layer, canonical_axis, format_shape
from spp.layers.convolution import spatial_numbers
from spp.layers.registry import register
from spp.ops import im2col
from spp.ops.convolution import output_size


@register("Im2col")
class Im2col(Layer):
    """Every window of a Convolution as a column of the values it sees (Caffe: Im2col).

    Reads kernel, stride, pad, dilation and axis of convolution_param. The top has channels x kernel channels,
    a channel's taps one after the other, and the size that the convolution would have.
    """

    def setup(self, bottom, top):
        p = self.param.convolution_param
        self.axes = len(bottom[0].shape)
        self.axis = canonical_axis(p.axis, self.axes)
        spatial = self.axes - self.axis - 1
        self.geometry = Geometry(
            spatial_numbers(p, "kernel_size", spatial), spatial_numbers(p, "stride", spatial, 1),
            spatial_numbers(p, "pad", spatial, 0), spatial_numbers(p, "dilation", spatial, 1))

    def reshape(self, bottom, top):
        shape = bottom[0].shape
        if len(shape) != self.axes:
            raise NetError(f"was set up for a bottom of {self.axes} axes, found shape {format_shape(shape)}")
        sizes = map(output_size, shape[self.axis + 1:], *self.geometry[:4])
        channels = shape[self.axis] * math.prod(self.geometry.kernel)
        top[0].reshape(*shape[:self.axis], channels, *sizes)

    def forward(self, bottom, top):
        im2col.forward(bottom[0].data, top[0].data, self.geometry, self.axis)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            im2col.backward(top[0].diff, bottom[0].diff, self.geometry, self.axis)
