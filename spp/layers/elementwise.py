"""Elementwise arithmetic of one bottom: Power, Exp, Log, AbsVal, Clip, Threshold."""
import math
from typing import Sequence

from spp.blob import Blob
from spp.errors import NetError
from spp.layers.neuron import Neuron
from spp.layers.registry import register
from spp.ops import neuron


@register("Power")
class Power(Neuron):
    """(shift + scale * x) ^ power (Caffe: Power)."""

    numbers: tuple[float, float, float]     # power, scale, shift

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.power_param
        self.numbers = (p.power, p.scale, p.shift)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.save_input(bottom, top)
        neuron.power_forward(bottom[0].data, top[0].data, *self.numbers)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            neuron.power_backward(top[0].diff, self.saved_input(bottom, top), bottom[0].diff, *self.numbers)


@register("Exp")
class Exp(Neuron):
    """base ^ (shift + scale * x) (Caffe: Exp). Raises NetError unless the base is above 0, or -1 for e (default)."""

    numbers: tuple[float, float]    # log base, scale

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.exp_param
        self.numbers = (log_of_base(p.base), p.scale)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        neuron.exp_forward(bottom[0].data, top[0].data, *self.numbers, self.param.exp_param.shift)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            neuron.exp_backward(top[0].diff, top[0].data, bottom[0].diff, *self.numbers)


@register("Log")
class Log(Neuron):
    """The logarithm of shift + scale * x (Caffe: Log).

    Raises NetError unless the base is above 0 and not 1, or -1 for e (default).
    """

    numbers: tuple[float, float, float]     # log base, scale, shift

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.log_param
        self.numbers = (log_of_base(p.base), p.scale, p.shift)
        if p.base == 1:
            raise NetError("log_param's base must not be 1: no power of 1 is another number")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.save_input(bottom, top)
        neuron.log_forward(bottom[0].data, top[0].data, *self.numbers)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            neuron.log_backward(top[0].diff, self.saved_input(bottom, top), bottom[0].diff, *self.numbers)


def log_of_base(base: float) -> float:
    """The natural logarithm of exp_param's or log_param's base; -1 means e. Raises NetError for others <= 0."""
    if base == -1:
        return 1.0
    if not 0 < base < math.inf:
        raise NetError(f"base must be above 0, or -1 for e; found {base:g}")
    return math.log(base)


@register("AbsVal")
class AbsVal(Neuron):
    """The absolute value (Caffe: AbsVal); not in place, as in Caffe."""

    in_place = False

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        neuron.absolute_forward(bottom[0].data, top[0].data)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            neuron.absolute_backward(top[0].diff, bottom[0].data, bottom[0].diff)


@register("Clip")
class Clip(Neuron):
    """min(max(x, min), max) (Caffe: Clip); the gradient passes where min <= x <= max. Raises NetError without both."""

    limits: tuple[float, float]

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.clip_param
        if not (p.HasField("min") and p.HasField("max")):
            raise NetError("clip_param needs min and max")
        self.limits = (p.min, p.max)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.save_input(bottom, top)
        neuron.clip_forward(bottom[0].data, top[0].data, *self.limits)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            neuron.clip_backward(top[0].diff, self.saved_input(bottom, top), bottom[0].diff, *self.limits)


@register("Threshold")
class Threshold(Neuron):
    """1 where x > threshold, else 0 (Caffe: Threshold). Raises NetError if the bottom is to get a gradient."""

    def differentiable(self, bottom: int) -> bool:
        return False

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        neuron.threshold_forward(bottom[0].data, top[0].data, self.param.threshold_param.threshold)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            raise NetError("a threshold has no gradient, but its bottom asks for one; write propagate_down: false "
                           "in this layer")
