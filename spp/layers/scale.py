"""Scale and Bias: a factor and a summand with the shape of some adjacent axes of the bottom."""
from typing import Any, Callable, Sequence

from spp.backend.types import Array, Epilogue, Numbers
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import AFFINE, RELU, SCALE, canonical_axis, format_shape
from spp.layers.neuron import Neuron
from spp.layers.registry import register
from spp.ops import scale
from spp.ops.affine import Affine
from spp.proto import caffe_pb2


class _AlongAxes(Neuron):
    """Base of layers that combine bottom 0 with an operand of some of its axes: a parameter, or bottom 1."""

    bottoms = (1, 2)
    fuses = (RELU,)
    axis = 1        # as the parameters give it, maybe negative
    first: int      # the axis of bottom 0 that is the operand's axis 0

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.forward_fused(bottom, top, Epilogue())

    def is_per_channel(self) -> bool:
        """Whether the operand is a parameter, not another layer's top, with one value per channel."""
        return len(self.param.bottom) == 1 and self.axis == 1 and len(self.blobs[0].shape) == 1

    def parameter_shape(self, shape: Numbers, p: Any) -> Numbers:
        """The axes axis .. axis + num_axes - 1 of bottom 0's shape (num_axes -1: all the rest; 0: none).

        Raises NetError for axes that the bottom does not have.
        """
        if p.num_axes < -1:
            raise NetError(f"num_axes must be at least 0, or -1 for all axes from axis on; found {p.num_axes}")
        if p.num_axes == 0:
            return ()
        axis = canonical_axis(p.axis, len(shape))
        end = len(shape) if p.num_axes == -1 else axis + p.num_axes
        if end > len(shape):
            raise NetError(f"num_axes {p.num_axes} from axis {p.axis} on go beyond the bottom's {len(shape)} axes; "
                           "num_axes: -1 takes all of the rest")
        return shape[axis:end]

    def first_axis(self, bottom: Sequence[Blob], operand: Blob, p: Any) -> int:
        """The axis of bottom 0 that is the operand's axis 0. Raises NetError if their shapes do not fit."""
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
    """x * scale (+ bias if bias_term), both broadcast along the other axes of x (Caffe: Scale).

    The scale is bottom 1, or else a parameter, initially 1 unless `filler` is given. The last parameter is the bias,
    in the scale's shape. Raises NetError if the scale's shape is not that of axes of bottom 0 from `axis` on.

    fused_gradient: if the last forward was fused into a BatchNorm layer, a function from the top's gradient to the
    gradient of the scale; this layer's own input was never stored then.
    """

    fused_gradient: Callable[[Array], Array] | None = None
    scale: Blob

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
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

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.scale_param
        self.scale = bottom[1] if len(bottom) > 1 else self.blobs[0]
        self.first = self.first_axis(bottom, self.scale, p)
        if p.bias_term and self.blobs[-1].shape != self.scale.shape:
            raise NetError(f"the scale's shape changed from {format_shape(self.blobs[-1].shape)}, that of the "
                           f"bias, to {format_shape(self.scale.shape)}")
        super().reshape(bottom, top)

    @property
    def fusion_kind(self) -> str:
        if not self.is_per_channel():
            return ""
        return SCALE if self.runs_backward else AFFINE

    def affine(self) -> Affine:
        return Affine(scale=self.scale.data, bias=self.blobs[-1].data if self.param.scale_param.bias_term else 0)

    def forward_fused(self, bottom: Sequence[Blob], top: Sequence[Blob], epilogue: Epilogue) -> None:
        self.save_input(bottom, top)
        self.fused_gradient = None
        self.affine().forward(bottom[0].data, top[0].data, self.first, len(self.scale.shape),
                              epilogue.relu)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy = top[0].diff
        if self.param.scale_param.bias_term and self.param_propagate_down[-1]:
            self.blobs[-1].diff[...] += scale.bias_gradient(dy, self.blobs[-1].data, self.first)
        from_bottom = len(bottom) > 1
        learns = propagate_down[1] if from_bottom else self.param_propagate_down[0]
        if learns:
            if from_bottom and self.scale.shape == dy.shape:        # nothing to sum
                self.context.backend.xp.multiply(dy, self.saved_input(bottom, top), out=self.scale.diff)
            else:
                gradient = (self.fused_gradient(dy) if self.fused_gradient else
                            scale.scale_gradient(dy, self.saved_input(bottom, top), self.scale.data, self.first))
                if from_bottom:
                    self.scale.diff[...] = gradient
                else:
                    self.scale.diff[...] += gradient
        if propagate_down[0]:
            Affine(scale=self.scale.data).forward(dy, bottom[0].diff, self.first, len(self.scale.shape))


@register("Bias")
class Bias(_AlongAxes):
    """x + bias, broadcast along the other axes of x (Caffe: Bias).

    The bias is bottom 1, or else a parameter, initially 0 unless `filler` is given. Raises NetError as Scale does.
    """

    bias: Blob

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.bias_param
        self.axis = p.axis
        if len(bottom) == 1:
            self.add_filled(self.parameter_shape(bottom[0].shape, p), p.filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.bias = bottom[1] if len(bottom) > 1 else self.blobs[0]
        self.first = self.first_axis(bottom, self.bias, self.param.bias_param)
        super().reshape(bottom, top)

    @property
    def fusion_kind(self) -> str:
        return AFFINE if self.is_per_channel() and not self.runs_backward else ""

    def affine(self) -> Affine:
        return Affine(bias=self.bias.data)

    def forward_fused(self, bottom: Sequence[Blob], top: Sequence[Blob], epilogue: Epilogue) -> None:
        self.affine().forward(bottom[0].data, top[0].data, self.first, len(self.bias.shape),
                              epilogue.relu)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy = top[0].diff
        if len(bottom) > 1:
            if propagate_down[1]:
                self.bias.diff[...] = (dy if self.bias.shape == dy.shape else       # nothing to sum
                                       scale.bias_gradient(dy, self.bias.data, self.first))
        elif self.param_propagate_down[0]:
            self.bias.diff[...] += scale.bias_gradient(dy, self.bias.data, self.first)
        if propagate_down[0] and bottom[0].diff is not dy:
            bottom[0].diff[...] = dy
