"""Elementwise layers of one bottom: ReLU, TanH, Power, Dropout."""
import numpy as np

from spp.errors import NetError
from spp.layers.base import TRAIN, Layer
from spp.layers.registry import register
from spp.ops import neuron


class Neuron(Layer):
    """Base of layers whose top has the bottom's shape and may be the bottom."""

    in_place = True

    def reshape(self, bottom, top):
        top[0].reshape(bottom[0].shape)


@register("ReLU")
class ReLU(Neuron):
    """max(x, 0) + negative_slope * min(x, 0) (Caffe: ReLU)."""

    def setup(self, bottom, top):
        self.slope = self.param.relu_param.negative_slope

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
    """(shift + scale * x) ^ power (Caffe: Power). Backward needs x, so not in place."""

    in_place = False

    def setup(self, bottom, top):
        p = self.param.power_param
        self.numbers = (p.power, p.scale, p.shift)

    def forward(self, bottom, top):
        neuron.power_forward(bottom[0].data, top[0].data, *self.numbers)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            neuron.power_backward(top[0].diff, bottom[0].data, bottom[0].diff, *self.numbers)


@register("Dropout")
class Dropout(Neuron):
    """In TRAIN each value is 0 with probability dropout_ratio, else x / (1 - dropout_ratio); in TEST a copy."""

    def setup(self, bottom, top):
        self.ratio = self.param.dropout_param.dropout_ratio
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
        elif y is not x:
            y[...] = x

    def _draw_mask(self, shape):
        if self.mask is None or self.mask.shape != shape:
            self.mask = self.context.backend.xp.empty(shape, self.context.dtype)
        keep = self.random_stream().random(shape, dtype=np.float32) >= self.ratio
        self.mask[...] = self.context.backend.from_host(keep)
        self.mask *= 1 / (1 - self.ratio)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            if self.phase == TRAIN:
                neuron.scale_by_mask(top[0].diff, self.mask, bottom[0].diff)
            elif bottom[0].diff is not top[0].diff:
                bottom[0].diff[...] = top[0].diff
