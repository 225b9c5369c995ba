"""Activation functions: ReLU, ReLU6, TanH, Sigmoid, Swish, BNLL, ELU, PReLU, Softmax."""
from typing import Sequence

from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import RELU, canonical_axis, format_shape
from spp.layers.neuron import Elementwise, Neuron
from spp.layers.registry import register
from spp.ops import neuron, softmax
from spp.proto import caffe_pb2


@register("ReLU")
class ReLU(Elementwise):
    """max(x, 0) + negative_slope * min(x, 0) (Caffe: ReLU)."""

    functions = neuron.relu_forward, neuron.relu_backward
    fields = ("relu_param.negative_slope",)
    from_output = True

    @property
    def fusion_kind(self) -> str:
        return "" if any(self.numbers) else RELU

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:       # by the input, which in place is the output; if the slope is negative they differ
            neuron.relu_backward(top[0].diff, bottom[0].data, bottom[0].diff, *self.numbers)


@register("ReLU6")
class ReLU6(Elementwise):
    """min(max(x, 0), 6) + negative_slope * min(x, 0) (MobileNet v2: ReLU6)."""

    functions = neuron.relu6_forward, neuron.relu6_backward
    fields = ("relu6_param.negative_slope",)
    from_output = True


@register("TanH")
class TanH(Elementwise):
    """The hyperbolic tangent (Caffe: TanH)."""

    functions = neuron.tanh_forward, neuron.tanh_backward
    from_output = True


@register("Sigmoid")
class Sigmoid(Elementwise):
    """1 / (1 + e^-x) (Caffe: Sigmoid)."""

    functions = neuron.sigmoid_forward, neuron.sigmoid_backward
    from_output = True


@register("Swish")
class Swish(Elementwise):
    """x * sigmoid(beta * x) (Caffe: Swish)."""

    functions = neuron.swish_forward, neuron.swish_backward
    fields = ("swish_param.beta",)


@register("BNLL")
class BNLL(Elementwise):
    """log(1 + e^x), the binomial normal log likelihood (Caffe: BNLL)."""

    functions = neuron.bnll_forward, neuron.bnll_backward


@register("ELU")
class ELU(Elementwise):
    """x where x > 0, else alpha * (e^x - 1) (Caffe: ELU)."""

    functions = neuron.elu_forward, neuron.elu_backward
    fields = ("elu_param.alpha",)


@register("PReLU")
class PReLU(Neuron):
    """max(x, 0) + slope * min(x, 0) with a learned slope per channel, axis 1 (Caffe: PReLU).

    Parameter: slope (C), or one number without axes if channel_shared; initially 0.25 unless `filler` is given. Raises
    NetError for a bottom without channels, and if their number changes.
    """

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, shape = self.param.prelu_param, bottom[0].shape
        if len(shape) < 2 and not p.channel_shared:
            raise NetError(f"needs a bottom of at least 2 axes, with the channels on axis 1, found {len(shape)}; or "
                           "set prelu_param's channel_shared")
        filler = p.filler if p.HasField("filler") else caffe_pb2.FillerParameter(type="constant", value=0.25)
        self.add_filled(() if p.channel_shared else shape[1:2], filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        slopes, shape = self.blobs[0].shape, bottom[0].shape
        if slopes and slopes != shape[1:2]:
            raise NetError(f"the number of channels changed: there are slopes for {slopes[0]}, the bottom's shape "
                           f"is {format_shape(shape)}")
        super().reshape(bottom, top)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.save_input(bottom, top)
        neuron.prelu_forward(bottom[0].data, self.blobs[0].data, top[0].data)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        x, dy, slope = self.saved_input(bottom, top), top[0].diff, self.blobs[0]
        if self.param_propagate_down[0]:
            slope.diff[...] += neuron.prelu_slope_gradient(dy, x, slope.data)
        if propagate_down[0]:
            neuron.prelu_backward(dy, x, slope.data, bottom[0].diff)


@register("Softmax")
class Softmax(Neuron):
    """exp(x) / sum of exp(x) over softmax_param's axis (Caffe: Softmax). Raises NetError if that axis is empty."""

    axis: int

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.axis = canonical_axis(self.param.softmax_param.axis, len(bottom[0].shape))
        if not bottom[0].shape[self.axis]:
            raise NetError(f"axis {self.axis} of the bottom is empty: its shape is {bottom[0].shape}")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        softmax.softmax_forward(bottom[0].data, top[0].data, self.axis)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            softmax.softmax_backward(top[0].diff, top[0].data, bottom[0].diff, self.axis)
