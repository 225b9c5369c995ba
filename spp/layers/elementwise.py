"""Elementwise arithmetic of one bottom: Power, Exp, Log, AbsVal, Clip, Threshold."""
import math
from typing import Sequence

from spp.blob import Blob
from spp.errors import NetError
from spp.layers.neuron import Elementwise, Neuron
from spp.layers.registry import register
from spp.ops import neuron


@register("Power")
class Power(Elementwise):
    """(shift + scale * x) ^ power (Caffe: Power)."""

    functions = neuron.power_forward, neuron.power_backward
    fields = "power_param.power", "power_param.scale", "power_param.shift"


class _OfBase(Elementwise):
    """Base of Exp and Log; numbers: the base, replaced by its natural logarithm, scale and shift."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        self.numbers = log_of_base(self.numbers[0]), *self.numbers[1:]


@register("Exp")
class Exp(_OfBase):
    """base ^ (shift + scale * x) (Caffe: Exp). Raises NetError unless the base is above 0, or -1 for e (default)."""

    functions = neuron.exp_forward, neuron.exp_backward
    fields = "exp_param.base", "exp_param.scale", "exp_param.shift"
    from_output = True


@register("Log")
class Log(_OfBase):
    """The logarithm of shift + scale * x (Caffe: Log). Raises NetError unless 0 < base != 1, or -1 for e (default)."""

    functions = neuron.log_forward, neuron.log_backward
    fields = "log_param.base", "log_param.scale", "log_param.shift"

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        if self.param.log_param.base == 1:
            raise NetError("log_param's base must not be 1: no power of 1 is another number")


def log_of_base(base: float) -> float:
    """The natural logarithm of exp_param's or log_param's base; -1 means e. Raises NetError for others <= 0."""
    if base == -1:
        return 1.0
    if not 0 < base < math.inf:
        raise NetError(f"base must be above 0, or -1 for e; found {base:g}")
    return math.log(base)


@register("AbsVal")
class AbsVal(Elementwise):
    """The absolute value (Caffe: AbsVal); not in place, as in Caffe."""

    functions = neuron.absolute_forward, neuron.absolute_backward
    in_place = False


@register("Clip")
class Clip(Elementwise):
    """min(max(x, min), max) (Caffe: Clip); the gradient passes where min <= x <= max. Raises NetError without both."""

    functions = neuron.clip_forward, neuron.clip_backward
    fields = "clip_param.min", "clip_param.max"

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if not (self.param.clip_param.HasField("min") and self.param.clip_param.HasField("max")):
            raise NetError("clip_param needs min and max")
        super().setup(bottom, top)


@register("Threshold")
class Threshold(Neuron):
    """1 where x > threshold, else 0 (Caffe: Threshold). Raises NetError if the bottom is to get a gradient."""

    differentiable_bottoms = 0

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        neuron.threshold_forward(bottom[0].data, top[0].data, self.param.threshold_param.threshold)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            raise NetError("a threshold has no gradient, but its bottom asks for one; write propagate_down: false "
                           "in this layer")
