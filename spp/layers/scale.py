"""Scale and Bias: a factor and a summand with the shape of some neighbouring axes of the bottom."""
from typing import Any, Callable

from spp.backend.types import Epilogue
from spp.errors import NetError
from spp.layers.base import AFFINE, RELU, SCALE, canonical_axis, format_shape
from spp.layers.neuron import Neuron
from spp.layers.registry import register
from spp.ops import scale
from spp.ops.affine import Affine
from spp.proto import caffe_pb2


class _AlongAxes(Neuron):
    """Base of layers that combine the bottom with a parameter, or with bottom 1, of the shape of some of its axes."""

    bottoms = (1, 2)
    fuses = (RELU,)
    axis = 1

    def forward(self, bottom, top):
        self.forward_fused(bottom, top, Epilogue())

    def of_channels(self):
        """Whether the operand is a parameter, not another layer's top, with one value per channel."""
        return len(self.param.bottom) == 1 and self.axis == 1 and len(self.blobs[0].shape) == 1

    def parameter_shape(self, shape, p):
        """Of bottom 0's shape the axes axis .. axis + num_axes - 1 (num_axes -1: all the rest; 0: none)."""
        if p.num_axes < -1:
            raise NetError(f"num_axes must be at least 0, or -1 for all axes from axis on; found {p.num_axes}")
        if p.num_axes == 0:
            return ()
        first = canonical_axis(p.axis, len(shape))
        last = len(shape) if p.num_axes == -1 else first + p.num_axes
        if last > len(shape):
            raise NetError(f"num_axes {p.num_axes} from axis {p.axis} on go beyond the bottom's {len(shape)} axes; "
                           "num_axes: -1 takes all of the rest")
        return shape[first:last]

    def first_axis(self, bottom, operand, p):
        """The axis of bottom 0 that the operand's axis 0 goes with; raises NetError if their shapes do not fit."""
        if not operand.shape:
            return 0
        shape = bottom[0].shape
        first = canonical_axis(p.axis, len(shape))
        if shape[first:first + len(operand.shape)] != operand.shape:
            raise NetError(f"bottom 0 of shape {format_shape(shape)} does not have the axes "
                           f"{format_shape(operand.shape)} from axis {first} on; check axis and num_axes")
        return first


@register("Scale")
class Scale(_AlongAxes):
    """x * scale, + bias if bias_term, along axes of x (Caffe: Scale).

    The scale is bottom 1, or else a parameter, 1 at first unless `filler` says otherwise. The last parameter is
    the bias, in the scale's shape.

    fused_gradient: if the last forward was fused into a BatchNorm layer, a function from the top's gradient to the
    gradient of the scale; this layer's own input was never stored then.
    """

    fused_gradient: Callable[[Any], Any] | None = None

    def setup(self, bottom, top):
        p = self.param.scale_param
        self.axis = p.axis
        if len(bottom) > 1:
            shape = bottom[1].shape
        else:
            shape = self.parameter_shape(bottom[0].shape, p)
            filler = p.filler if p.HasField("filler") else caffe_pb2.FillerParameter(type="constant", value=1)
            self.add_filled(shape, filler)
        if p.bias_term:
            self.add_filled(shape, p.bias_filler)

    def reshape(self, bottom, top):
        p = self.param.scale_param
        self.scale = bottom[1] if len(bottom) > 1 else self.blobs[0]
        self.first = self.first_axis(bottom, self.scale, p)
        if p.bias_term and self.blobs[-1].shape != self.scale.shape:
            raise NetError(f"the scale's shape changed from {format_shape(self.blobs[-1].shape)}, that of the "
                           f"bias, to {format_shape(self.scale.shape)}")
        super().reshape(bottom, top)

    @property
    def fusion_kind(self) -> str:
        if not self.of_channels():
            return ""
        return SCALE if self.runs_backward else AFFINE

    def affine(self):
        return Affine(scale=self.scale.data, bias=self.blobs[-1].data if self.param.scale_param.bias_term else 0)

    def forward_fused(self, bottom, top, epilogue):
        self.keep(bottom, top)
        self.fused_gradient = None
        self.affine().forward(bottom[0].data, top[0].data, self.first, self.first + len(self.scale.shape),
                              epilogue.relu)

    def backward(self, top, propagate_down, bottom):
        dy = top[0].diff
        if self.param.scale_param.bias_term and self.param_propagate_down[-1]:
            self.blobs[-1].diff[...] += scale.bias_gradient(dy, self.blobs[-1].data, self.first)
        from_bottom = len(bottom) > 1
        if propagate_down[1] if from_bottom else self.param_propagate_down[0]:
            if from_bottom and self.scale.shape == dy.shape:        # nothing to sum
                self.context.backend.xp.multiply(dy, self.kept(bottom, top), out=self.scale.diff)
            else:
                found = (self.fused_gradient(dy) if self.fused_gradient else
                         scale.scale_gradient(dy, self.kept(bottom, top), self.scale.data, self.first))
                if from_bottom:
                    self.scale.diff[...] = found
                else:
                    self.scale.diff[...] += found
        if propagate_down[0]:
            Affine(scale=self.scale.data).forward(dy, bottom[0].diff, self.first, self.first + len(self.scale.shape))


@register("Bias")
class Bias(_AlongAxes):
    """x + bias, along axes of x (Caffe: Bias). The bias is bottom 1, or else a parameter, 0 unless filled."""

    def setup(self, bottom, top):
        p = self.param.bias_param
        self.axis = p.axis
        if len(bottom) == 1:
            self.add_filled(self.parameter_shape(bottom[0].shape, p), p.filler)

    def reshape(self, bottom, top):
        self.bias = bottom[1] if len(bottom) > 1 else self.blobs[0]
        self.first = self.first_axis(bottom, self.bias, self.param.bias_param)
        super().reshape(bottom, top)

    @property
    def fusion_kind(self) -> str:
        return AFFINE if self.of_channels() and not self.runs_backward else ""

    def affine(self):
        return Affine(bias=self.bias.data)

    def forward_fused(self, bottom, top, epilogue):
        self.affine().forward(bottom[0].data, top[0].data, self.first, self.first + len(self.bias.shape),
                              epilogue.relu)

    def backward(self, top, propagate_down, bottom):
        dy = top[0].diff
        if len(bottom) > 1:
            if propagate_down[1]:
                self.bias.diff[...] = (dy if self.bias.shape == dy.shape else       # nothing to sum
                                       scale.bias_gradient(dy, self.bias.data, self.first))
        elif self.param_propagate_down[0]:
            self.bias.diff[...] += scale.bias_gradient(dy, self.bias.data, self.first)
        if propagate_down[0] and bottom[0].diff is not dy:
            bottom[0].diff[...] = dy
