"""ReLU6."""
from spp.layers.neuron import Neuron
from spp.layers.registry import register
from spp.ops import relu6


@register("ReLU6")
class ReLU6(Neuron):
    """min(ReLU(x), 6), with relu6_param's negative_slope below 0 (MobileNet v2: ReLU6)."""

    def setup(self, bottom, top):
        self.slope = self.param.relu6_param.negative_slope

    def forward(self, bottom, top):
        relu6.forward(bottom[0].data, top[0].data, self.slope)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            relu6.backward(top[0].diff, top[0].data, bottom[0].diff, self.slope)
