"""Scale and Bias: a factor and a summand with the shape of some adjacent axes of the bottom."""
from typing import Any, Callable, Sequence

from spp.backend.types import Array, Epilogue, Numbers
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import AFFINE, RELU, SCALE, FusingLayer, canonical_axis, format_shape
from spp.layers.neuron import Neuron
from spp.layers.registry import register
from spp.ops import normalization
from spp.ops.affine import Affine
from spp.proto import caffe_pb2


class _AlongAxes(FusingLayer, Neuron):
    """Base of layers that combine bottom 0 with an operand of some of its axes: bottom 1, or else a parameter.

    own_param: the layer's scale_param or bias_param. initial: the parameter's first values unless `filler` is given.
    """

    bottoms = (1, 2)
    fuses = (RELU,)
    initial = 0.0
    own_param: Any
    operand: Blob
    first: int      # the axis of bottom 0 that is the operand's axis 0

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.own_param = getattr(self.param, f"{self.type.lower()}_param")
        if len(bottom) == 1:
            filler = self.own_param.filler
            if not self.own_param.HasField("filler"):
                filler = caffe_pb2.FillerParameter(type="constant", value=self.initial)
            self.add_filled(self._parameter_shape(bottom[0].shape), filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.operand = bottom[1] if len(bottom) > 1 else self.blobs[0]
        self.first = self._first_axis(bottom[0].shape, self.operand.shape)
        super().reshape(bottom, top)

    def forward_fused(self, bottom: Sequence[Blob], top: Sequence[Blob], epilogue: Epilogue) -> None:
        self.affine().forward(bottom[0].data, top[0].data, self.first, len(self.operand.shape), epilogue.relu)

    def is_per_channel(self) -> bool:
        """Whether the operand is a parameter, not another layer's top, with one value per channel."""
        return len(self.param.bottom) == 1 and self.own_param.axis == 1 and len(self.blobs[0].shape) == 1

    def _parameter_shape(self, shape: Numbers) -> Numbers:
        """The num_axes axes (-1: all) of bottom 0's shape from `axis` on. Raises NetError if there are fewer."""
        p = self.own_param
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

    def _first_axis(self, shape: Numbers, operand: Numbers) -> int:
        """The axis of bottom 0 that is the operand's axis 0. Raises NetError if their shapes do not fit."""
        if not operand:
            return 0
        first = canonical_axis(self.own_param.axis, len(shape))
        if shape[first:first + len(operand)] != operand:
            raise NetError(f"bottom 0 of shape {format_shape(shape)} does not have the axes "
                           f"{format_shape(operand)} from axis {first} on; check axis and num_axes")
        return first

    def bias_gradient(self, dy: Array) -> Array:
        """The gradient of a bias with the operand's shape: the sum of dy over all other axes."""
        return normalization.bias_gradient(dy, self.first, len(self.operand.shape))


@register("Scale")
class Scale(_AlongAxes):
    """x * scale (+ bias if bias_term), both broadcast along the other axes of x (Caffe: Scale).

    The scale is bottom 1, or else a parameter, initially 1 unless `filler` is given. The last parameter is the bias,
    in the scale's shape. Raises NetError if the scale's shape is not that of axes of bottom 0 from `axis` on.

    fused_gradient: if the last forward was fused into a BatchNorm layer, a function from the top's gradient to the
    gradient of the scale; this layer's own input was never stored then.
    """

    initial = 1.0
    fused_gradient: Callable[[Array], Array] | None = None

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        if self.own_param.bias_term:
            self.add_filled([*bottom[1:], *self.blobs][0].shape, self.own_param.bias_filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        if self.own_param.bias_term and self.blobs[-1].shape != self.operand.shape:
            raise NetError(f"the scale's shape changed from {format_shape(self.blobs[-1].shape)}, that of the "
                           f"bias, to {format_shape(self.operand.shape)}")

    @property
    def fusion_kind(self) -> str:
        if not self.is_per_channel():
            return ""
        return SCALE if self.runs_backward else AFFINE

    def affine(self) -> Affine:
        return Affine(scale=self.operand.data, bias=self.blobs[-1].data if self.own_param.bias_term else 0)

    def forward_fused(self, bottom: Sequence[Blob], top: Sequence[Blob], epilogue: Epilogue) -> None:
        self.save_input(bottom, top)
        self.fused_gradient = None
        super().forward_fused(bottom, top, epilogue)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy, num_axes = top[0].diff, len(self.operand.shape)
        if self.own_param.bias_term and self.param_propagate_down[-1]:
            self.blobs[-1].diff[...] += self.bias_gradient(dy)
        from_bottom = len(bottom) > 1
        learns = propagate_down[1] if from_bottom else self.param_propagate_down[0]
        if learns:
            if from_bottom and self.operand.shape == dy.shape:      # nothing to sum
                self.context.backend.xp.multiply(dy, self.saved_input(bottom, top), out=self.operand.diff)
            else:
                gradient = (self.fused_gradient(dy) if self.fused_gradient else
                            normalization.dots(dy, self.saved_input(bottom, top), self.first, num_axes))
                if from_bottom:
                    self.operand.diff[...] = gradient
                else:
                    self.operand.diff[...] += gradient
        if propagate_down[0]:
            Affine(scale=self.operand.data).forward(dy, bottom[0].diff, self.first, num_axes)


@register("Bias")
class Bias(_AlongAxes):
    """x + bias, broadcast along the other axes of x (Caffe: Bias).

    The bias is bottom 1, or else a parameter, initially 0 unless `filler` is given. Raises NetError as Scale does.
    """

    @property
    def fusion_kind(self) -> str:
        return AFFINE if self.is_per_channel() and not self.runs_backward else ""

    def affine(self) -> Affine:
        return Affine(bias=self.operand.data)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy = top[0].diff
        if len(bottom) > 1:
            if propagate_down[1]:       # with equal shapes there is nothing to sum
                self.operand.diff[...] = dy if self.operand.shape == dy.shape else self.bias_gradient(dy)
        elif self.param_propagate_down[0]:
            self.operand.diff[...] += self.bias_gradient(dy)
        if propagate_down[0] and bottom[0].diff is not dy:
            bottom[0].diff[...] = dy
