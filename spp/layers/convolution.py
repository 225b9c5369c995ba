"""Convolution, forks' names for one with a group per channel, Deconvolution, Im2col."""
import math
from types import ModuleType
from typing import Sequence

from spp.backend.types import Epilogue, Geometry, Numbers
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import AFFINE, RELU, FusingLayer, Layer, canonical_axis, format_shape
from spp.layers.geometry import convolution_geometry
from spp.layers.registry import register
from spp.ops import convolution, deconvolution, im2col
from spp.ops.affine import add_bias


@register("Convolution")
class Convolution(FusingLayer):
    """Cross-correlation over the axes after `axis`, any number of them (Caffe: Convolution).

    Bottoms: ... x C x spatial axes, all of one shape; tops: ... x num_output x output sizes, one per bottom.
    Parameters: weight num_output x (C / group) x kernel, bias num_output if bias_term. `engine` and `force_nd_im2col`
    are ignored. Raises NetError for parameters that do not fit, and if the number of axes or channels changes.
    """

    bottoms = (1, None)
    tops = (1, None)
    one_top_per_bottom = True
    op: ModuleType = convolution
    axes: int               # the bottom's
    axis: int               # of the channels
    channels: int
    outputs: int
    geometry: Geometry      # kernel, stride, pad, dilation and group are its parts

    @property
    def fuses(self) -> Sequence[str]:
        return (RELU, AFFINE) if self.axis == 1 else (RELU,)

    @property
    def writes_channels(self) -> bool:
        return self.axis == 1 and len(self.param.bottom) == 1 and self.op is convolution

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, shape = self.param.convolution_param, bottom[0].shape
        self.axes = len(shape)
        self.axis = canonical_axis(p.axis, self.axes)
        self.channels = shape[self.axis]
        self.outputs = p.num_output
        self.geometry = convolution_geometry(p, self.axes - self.axis - 1)
        self.kernel, self.stride, self.pad, self.dilation, self.group = self.geometry
        if self.outputs < 1:
            raise NetError("convolution_param needs num_output, at least 1")
        for name, count in (("input channels", self.channels), ("num_output", self.outputs)):
            if self.group < 1 or count % self.group:
                raise NetError(f"{name} must be a multiple of group, found {count} and group {self.group}")
        self.add_filled(self.weight_shape(), p.weight_filler)
        if p.bias_term:
            self.add_filled((self.outputs,), p.bias_filler)

    def weight_shape(self) -> Numbers:
        """The shape of parameter 0."""
        return (self.outputs, self.channels // self.group, *self.kernel)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        if len(shape) != self.axes:
            raise NetError(f"was set up for a bottom of {self.axes} axes, found shape {format_shape(shape)}")
        if shape[self.axis] != self.channels:
            raise NetError(f"the weights take {self.channels} input channels, found {shape[self.axis]} in shape "
                           f"{format_shape(shape)}")
        for blob in bottom:
            if blob.shape != shape:
                raise NetError(f"all bottoms must have one shape, found {format_shape(shape)} and "
                               f"{format_shape(blob.shape)}")
        sizes = map(self.op.output_size, shape[self.axis + 1:], self.kernel, self.stride, self.pad, self.dilation)
        top_shape = (*shape[:self.axis], self.outputs, *sizes)
        for blob in top:
            blob.reshape(top_shape)

    def forward_fused(self, bottom: Sequence[Blob], top: Sequence[Blob], epilogue: Epilogue) -> None:
        weight, *biases = (blob.data for blob in self.blobs)
        epilogue = add_bias(epilogue, biases[0] if biases else None, self.outputs, weight)
        for x, y in zip(bottom, top):
            self.op.forward(x.data, weight, y.data, self.geometry, epilogue, self.axis, self.context.precision)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        how = self.geometry, self.axis, self.context.precision
        dbias = self.blobs[1].diff if len(self.blobs) > 1 and self.param_propagate_down[1] else None
        for x, y, propagate in zip(bottom, top, propagate_down):
            if self.param_propagate_down[0]:
                self.op.backward_weights(x.data, y.diff, self.blobs[0].diff, dbias, *how)
            elif dbias is not None:
                self.op.backward_bias(y.diff, dbias, self.axis)
            if propagate:
                self.op.backward_data(y.diff, self.blobs[0].data, x.diff, *how)


@register("Deconvolution")
class Deconvolution(Convolution):
    """The transpose of a Convolution with the same convolution_param, which enlarges maps (Caffe: Deconvolution).

    Parameters: weight C x (num_output / group) x kernel, bias num_output if bias_term. The top's size along an axis is
    stride (size - 1) + dilation (kernel - 1) + 1 - 2 pad. All else is as in Convolution.
    """

    op = deconvolution

    def weight_shape(self) -> Numbers:
        return (self.channels, self.outputs // self.group, *self.kernel)


@register("DepthwiseConvolution")
@register("ConvolutionDepthwise")
class DepthwiseConvolution(Convolution):
    """A Convolution with a group per channel (MobileNet's ports). Raises NetError if `group` is neither that nor 1."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, shape = self.param.convolution_param, bottom[0].shape
        channels = shape[p.axis] if -len(shape) <= p.axis < len(shape) else p.group
        if p.HasField("group") and p.group not in (1, channels):
            raise NetError(f"group must be the number of channels, {channels}, or be left out; found {p.group}")
        p.group = channels
        super().setup(bottom, top)


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
        sizes = map(convolution.output_size, shape[self.axis + 1:], *self.geometry[:4])
        channels = shape[self.axis] * math.prod(self.geometry.kernel)
        top[0].reshape(*shape[:self.axis], channels, *sizes)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        im2col.forward(bottom[0].data, top[0].data, self.geometry, self.axis)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            im2col.backward(top[0].diff, bottom[0].diff, self.geometry, self.axis)
