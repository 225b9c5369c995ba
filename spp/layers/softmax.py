"""Softmax."""
from spp.errors import NetError
from spp.layers.base import canonical_axis
from spp.layers.neuron import Neuron
from spp.layers.registry import register
from spp.ops import softmax


@register("Softmax")
class Softmax(Neuron):
    """Probabilities over an axis (Caffe: Softmax)."""

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        self.axis = canonical_axis(self.param.softmax_param.axis, len(bottom[0].shape))
        if not bottom[0].shape[self.axis]:
            raise NetError(f"axis {self.axis} of the bottom is empty: its shape is {bottom[0].shape}")

    def forward(self, bottom, top):
        softmax.softmax_forward(bottom[0].data, top[0].data, self.axis)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            softmax.softmax_backward(top[0].diff, top[0].data, bottom[0].diff, self.axis)
