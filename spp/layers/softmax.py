"""Softmax."""
from typing import Sequence

from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import canonical_axis
from spp.layers.neuron import Neuron
from spp.layers.registry import register
from spp.ops import softmax


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
