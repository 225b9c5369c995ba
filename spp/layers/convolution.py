"""Convolution, and the reading of convolution_param's kernel, stride, pad and dilation."""
from typing import Sequence

from spp.backend.types import Epilogue
from spp.errors import NetError
from spp.layers.base import AFFINE, RELU, Layer, canonical_axis, format_shape
from spp.layers.registry import register
from spp.ops import convolution
from spp.ops.affine import add_bias


@register("Convolution")
class Convolution(Layer):
    """Cross-correlation over the axes after `axis`, any number of them (Caffe: Convolution).

    Parameters: weight num_output x channels / group x kernel, bias num_output if bias_term. All bottoms have
    one shape and share them; each makes a top. `engine` and `force_nd_im2col` choose nothing here.
    """

    bottoms = (1, None)
    tops = (1, None)
    one_top_per_bottom = True
    op = convolution

    @property
    def fuses(self) -> Sequence[str]:
        return (RELU, AFFINE) if self.axis == 1 else (RELU,)

    @property
    def writes_channels(self) -> bool:
        return self.axis == 1 and len(self.param.bottom) == 1 and self.op is convolution

    def setup(self, bottom, top):
        p, shape = self.param.convolution_param, bottom[0].shape
        self.axes = len(shape)
        self.axis = canonical_axis(p.axis, self.axes)
        self.channels = shape[self.axis]
        self.outputs, self.group = p.num_output, p.group
        spatial = self.axes - self.axis - 1
        self.kernel = spatial_numbers(p, "kernel_size", spatial)
        self.stride = spatial_numbers(p, "stride", spatial, 1)
        self.pad = spatial_numbers(p, "pad", spatial, 0)
        self.dilation = spatial_numbers(p, "dilation", spatial, 1)
        if self.outputs < 1:
            raise NetError("convolution_param needs num_output, at least 1")
        for name, count in (("input channels", self.channels), ("num_output", self.outputs)):
            if self.group < 1 or count % self.group:
                raise NetError(f"{name} must be a multiple of group, found {count} and group {self.group}")
        self.add_filled(self.weight_shape(), p.weight_filler)
        if p.bias_term:
            self.add_filled((self.outputs,), p.bias_filler)

    def weight_shape(self):
        return (self.outputs, self.channels // self.group, *self.kernel)

    def reshape(self, bottom, top):
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

    def forward(self, bottom, top):
        self.forward_fused(bottom, top, Epilogue())

    def forward_fused(self, bottom, top, epilogue):
        weight, *biases = (blob.data for blob in self.blobs)
        bias, scale, shift, relu = add_bias(epilogue, biases[0] if biases else None, self.outputs, weight)
        for x, y in zip(bottom, top):
            self.op.forward(x.data, weight, bias, y.data, self.stride, self.pad, self.dilation, self.group, self.axis,
                            relu, self.context.precision, scale, shift)

    def backward(self, top, propagate_down, bottom):
        geometry = self.stride, self.pad, self.dilation, self.group, self.axis, self.context.precision
        dbias = self.blobs[1].diff if len(self.blobs) > 1 and self.param_propagate_down[1] else None
        for x, y, wanted in zip(bottom, top, propagate_down):
            if self.param_propagate_down[0]:
                self.op.backward_weights(x.data, y.diff, self.blobs[0].diff, dbias, *geometry)
            elif dbias is not None:
                self.op.backward_bias(y.diff, dbias, self.axis)
            if wanted:
                self.op.backward_data(y.diff, self.blobs[0].data, x.diff, *geometry)


def spatial_numbers(p, name, axes, default=None):
    """A number for each spatial axis, from convolution_param: `name` given once or once an axis, or _h and _w.

    Without a default the numbers must be given. Raises NetError for another count, for both forms, for _h and
    _w where there are not two axes, and for zeros other than in pad.
    """
    given = tuple(getattr(p, name))
    high, wide = (f"{name.removesuffix('_size')}_{side}" for side in "hw")
    if name != "dilation" and (p.HasField(high) or p.HasField(wide)):
        if given:
            raise NetError(f"convolution_param takes either {name}, or {high} and {wide}, not both")
        if axes != 2:
            raise NetError(f"{high} and {wide} need 2 spatial axes, found {axes}; use {name}, once an axis")
        if default != 0 and p.HasField(high) != p.HasField(wide):
            found, missing = (high, wide) if p.HasField(high) else (wide, high)
            raise NetError(f"convolution_param has {found} without {missing}; give both, or {name} alone")
        given = getattr(p, high), getattr(p, wide)
    if not given:
        if default is None and axes:
            raise NetError(f"convolution_param needs {name}, or {high} and {wide}")
        given = (default,)
    if len(given) not in (1, axes):
        raise NetError(f"{name} must be given once, or once for each of the {axes} spatial axes; found "
                       f"{len(given)} numbers")
    numbers = given * axes if len(given) == 1 else given
    if default != 0 and 0 in numbers:
        raise NetError(f"{name} must be at least 1 on every axis, found {format_shape(numbers)}")
    return numbers
