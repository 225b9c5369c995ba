"""Elementwise layers of one bottom without parameters."""
import math
from typing import Any

from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import RELU, TRAIN, Layer
from spp.layers.registry import register
from spp.ops import neuron


class Neuron(Layer):
    """Base of layers whose top has the bottom's shape and may be the bottom.

    A layer whose backward needs its input calls `keep` before it overwrites that, and `kept` in backward.
    """

    in_place = True
    _copy: Any = None

    def reshape(self, bottom, top):
        top[0].reshape(bottom[0].shape)

    def keep(self, bottom, top):
        """Copy the input if the layer works in place and goes backward, into memory that is used again."""
        if top[0] is bottom[0] and self.runs_backward:
            if self._copy is None:
                self._copy = Blob((), self.context.dtype, self.context.backend, bottom[0].channels_last)
            self._copy.reshape(bottom[0].shape)
            self._copy.data[...] = bottom[0].data

    def kept(self, bottom, top):
        """The input of the last forward."""
        return (self._copy if top[0] is bottom[0] else bottom[0]).data


@register("ReLU")
class ReLU(Neuron):
    """max(x, 0) + negative_slope * min(x, 0) (Caffe: ReLU)."""

    def setup(self, bottom, top):
        self.slope = self.param.relu_param.negative_slope

    @property
    def fusion_kind(self) -> str:
        return "" if self.slope else RELU

    def forward(self, bottom, top):
        neuron.relu_forward(bottom[0].data, top[0].data, self.slope)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            neuron.relu_backward(top[0].diff, bottom[0].data, bottom[0].diff, self.slope)


@register("TanH")
class TanH(Neuron):
    """The hyperbolic tangent (Caffe: TanH)."""

    def forward(self, bottom, top):
        neuron.tanh_forward(bottom[0].data, top[0].data)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            neuron.tanh_backward(top[0].diff, top[0].data, bottom[0].diff)


@register("Power")
class Power(Neuron):
    """(shift + scale * x) ^ power (Caffe: Power)."""

    def setup(self, bottom, top):
        p = self.param.power_param
        self.numbers = (p.power, p.scale, p.shift)

    def forward(self, bottom, top):
        self.keep(bottom, top)
        neuron.power_forward(bottom[0].data, top[0].data, *self.numbers)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            neuron.power_backward(top[0].diff, self.kept(bottom, top), bottom[0].diff, *self.numbers)


@register("Exp")
class Exp(Neuron):
    """base ^ (shift + scale * x), base e unless given (Caffe: Exp)."""

    def setup(self, bottom, top):
        p = self.param.exp_param
        self.numbers = (log_of_base(p.base), p.scale)

    def forward(self, bottom, top):
        neuron.exp_forward(bottom[0].data, top[0].data, *self.numbers, self.param.exp_param.shift)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            neuron.exp_backward(top[0].diff, top[0].data, bottom[0].diff, *self.numbers)


@register("Log")
class Log(Neuron):
    """The logarithm of shift + scale * x, base e unless given (Caffe: Log)."""

    def setup(self, bottom, top):
        p = self.param.log_param
        self.numbers = (log_of_base(p.base), p.scale, p.shift)
        if p.base == 1:
            raise NetError("log_param's base must not be 1: no power of 1 is another number")

    def forward(self, bottom, top):
        self.keep(bottom, top)
        neuron.log_forward(bottom[0].data, top[0].data, *self.numbers)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            neuron.log_backward(top[0].diff, self.kept(bottom, top), bottom[0].diff, *self.numbers)


def log_of_base(base: float) -> float:
    """The natural logarithm of exp_param's or log_param's base, where -1 means e; raises NetError for other <= 0."""
    if base == -1:
        return 1.0
    if not 0 < base < math.inf:
        raise NetError(f"base must be above 0, or -1 for e; found {base:g}")
    return math.log(base)


@register("AbsVal")
class AbsVal(Neuron):
    """The absolute value (Caffe: AbsVal); not in place, as in Caffe."""

    in_place = False

    def forward(self, bottom, top):
        neuron.absolute_forward(bottom[0].data, top[0].data)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            neuron.absolute_backward(top[0].diff, bottom[0].data, bottom[0].diff)


@register("Clip")
class Clip(Neuron):
    """x, but at least min and at most max (Caffe: Clip); the gradient passes where min <= x <= max."""

    def setup(self, bottom, top):
        p = self.param.clip_param
        if not (p.HasField("min") and p.HasField("max")):
            raise NetError("clip_param needs min and max")
        self.limits = (p.min, p.max)

    def forward(self, bottom, top):
        self.keep(bottom, top)
        neuron.clip_forward(bottom[0].data, top[0].data, *self.limits)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            neuron.clip_backward(top[0].diff, self.kept(bottom, top), bottom[0].diff, *self.limits)


@register("Threshold")
class Threshold(Neuron):
    """1 where x > threshold, else 0 (Caffe: Threshold); has no gradient."""

    @staticmethod
    def differentiable(bottom):
        return False

    def forward(self, bottom, top):
        neuron.threshold_forward(bottom[0].data, top[0].data, self.param.threshold_param.threshold)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            raise NetError("a threshold has no gradient, but its bottom asks for one; write propagate_down: false "
                           "in this layer")


@register("Dropout")
class Dropout(Neuron):
    """In TRAIN each value is 0 with probability dropout_ratio, else x / (1 - dropout_ratio); in TEST a copy.

    With scale_train: false (Fast R-CNN) TRAIN does not divide; TEST multiplies by 1 - dropout_ratio.
    """

    def setup(self, bottom, top):
        self.ratio = self.param.dropout_param.dropout_ratio
        self.scale_train = self.param.dropout_param.scale_train
        if not 0 <= self.ratio < 1:
            raise NetError(f"dropout_ratio must be at least 0 and below 1, found {self.ratio:g}")
        self.mask = None
        if self.phase == TRAIN:
            self.random_stream()

    def forward(self, bottom, top):
        x, y = bottom[0].data, top[0].data
        if self.phase == TRAIN:
            self._draw_mask(x.shape)
            neuron.scale_by_mask(x, self.mask, y)
        else:
            self._test(x, y)

    def _test(self, x, y):
        if not self.scale_train:
            neuron.scale_by_mask(x, 1 - self.ratio, y)
        elif y is not x:
            y[...] = x

    def _draw_mask(self, shape):
        if self.mask is None or self.mask.shape != shape:
            self.mask = self.context.backend.xp.empty(shape, self.context.dtype)
        kept = 1 / (1 - self.ratio) if self.scale_train else 1.0
        neuron.draw_mask(self.random_stream(), self.ratio, kept, self.mask)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            if self.phase == TRAIN:
                neuron.scale_by_mask(top[0].diff, self.mask, bottom[0].diff)
            else:
                self._test(top[0].diff, bottom[0].diff)
