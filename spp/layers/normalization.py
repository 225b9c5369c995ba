"""Normalisation by mean and variance: BatchNorm over the batch, MVN within an image."""
from typing import Sequence

import numpy as np

from spp.backend.types import Array, Epilogue
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import AFFINE, RELU, SCALE, TEST, format_shape
from spp.layers.neuron import Neuron
from spp.layers.registry import register
from spp.layers.scale import Scale
from spp.ops import normalization
from spp.ops.affine import Affine
from spp.proto import caffe_pb2


@register("BatchNorm")
class BatchNorm(Neuron):
    """(x - mean) / sqrt(variance + eps) of each channel, axis 1 (Caffe: BatchNorm; a Scale layer learns the rest).

    With use_global_stats (unless given: in phase TEST) mean and variance are the stored ones; otherwise those of
    the batch, which are then added to the stored ones in every forward. Parameters, which no solver updates:
    sum of means (C), sum of variances (C), sum of weights (1); a sum is moving_average_fraction * sum + new.

    With NVIDIA's scale_bias or Intel's use_weight_bias the result is then multiplied by a learned scale (C), and a
    learned bias (C) is added (Intel: unless bias_term is false): parameters 3 and 4. NVIDIA holds eps to at least
    1e-5, and so does the layer with scale_bias.
    """

    def setup(self, bottom, top):
        p = self.param.batch_norm_param
        self.of_batch = not (p.use_global_stats if p.HasField("use_global_stats") else self.phase == TEST)
        channels = bottom[0].shape[1] if len(bottom[0].shape) > 1 else 1
        for i, size in enumerate((channels, channels, 1)):
            self.add_filled((size,), caffe_pb2.FillerParameter())
            if i == len(self.param.param):
                self.param.param.add(lr_mult=0)
            elif self.param.param[i].lr_mult:
                raise NetError(f"param {i} has lr_mult {self.param.param[i].lr_mult:g}, but a solver cannot learn the "
                               "statistics of a batch normalization; remove the param blocks, or set lr_mult: 0")
        self.eps = max(p.eps, 1e-5) if p.scale_bias else p.eps
        self.learned: list[Blob] = []
        if p.scale_bias or p.HasField("use_weight_bias") and p.use_weight_bias:
            scale_filler = next((getattr(p, name) for name in ("scale_filler", "filler") if p.HasField(name)),
                                caffe_pb2.FillerParameter(value=1))
            fillers = [scale_filler, p.bias_filler] if p.bias_term else [scale_filler]
            self.learned = [self.add_filled((channels,), filler) for filler in fillers]

    def reshape(self, bottom, top):
        shape, stored = bottom[0].shape, self.blobs[0].shape[0]
        channels = shape[1] if len(shape) > 1 else 1
        if channels != stored:
            raise NetError(f"the number of channels changed: the statistics are of {stored}, the bottom's shape is "
                           f"{format_shape(shape)}")
        self.axes = (1, 2) if len(shape) > 1 else (len(shape), len(shape))     # no axis: all is one channel
        self.by_channel = shape[1:2]
        super().reshape(bottom, top)

    @property
    def fuses(self) -> Sequence[str]:
        return (RELU, AFFINE) if self.learned else (RELU, AFFINE, SCALE)

    @property
    def fusion_kind(self) -> str:
        return "" if self.of_batch or self.runs_backward or self.axes != (1, 2) else AFFINE

    def affine(self):
        return self._normalize(*self._stored())

    def forward(self, bottom, top):
        self.forward_fused(bottom, top, Epilogue())

    def forward_fused(self, bottom, top, epilogue):
        x = bottom[0].data
        if self.of_batch or self.learned or epilogue.scale is not None:
            self.keep(bottom, top)
        if not self.of_batch:
            statistics = self._stored()
        elif x.size:
            statistics = normalization.moments(x, *self.axes)
            self._add(*statistics, x.size // statistics[0].size)
        else:
            return      # nothing to normalise (a Filter let nothing through), and nothing to learn from
        affine = self._normalize(*statistics).with_epilogue(epilogue)
        affine.forward(x, top[0].data, *self.axes, epilogue.relu)

    def _normalize(self, mean, variance):
        self.mean, self.factor = mean, 1 / self.context.backend.xp.sqrt(variance + self.eps)
        scale, bias = self._scale_and_bias()
        return Affine(mean, self.factor * scale, bias)

    def _scale_and_bias(self):
        """The learned scale and bias, in the shape of the statistics; 1 and 0 where there are none."""
        values = [blob.data.reshape(self.by_channel) for blob in self.learned]
        return values + [1, 0][len(values):]        # neither, the scale alone, or both are learned

    def _stored(self):
        weight = self.blobs[2].data.astype(np.float64)
        factor = 1 / self.context.backend.xp.where(weight == 0, np.inf, weight)
        return [(blob.data.astype(np.float64) * factor).reshape(self.by_channel) for blob in self.blobs[:2]]

    def _add(self, mean, variance, count):
        fraction = self.param.batch_norm_param.moving_average_fraction
        unbiased = count / (count - 1) if count > 1 else 1
        for blob, new in zip(self.blobs, (mean, variance * unbiased, 1)):
            blob.data[...] = fraction * blob.data + new

    def gradient_of_scale(self, bottom: Sequence[Blob], top: Sequence[Blob], dy: Array) -> Array:
        """The gradient of the scale (C) that the last forward multiplied by, from the top's gradient `dy`."""
        dy_sum = normalization.bias_gradient(dy, *self.axes)
        return normalization.scale_gradient(dy, self.kept(bottom, top), self.mean, self.factor, dy_sum, *self.axes)

    def backward(self, top, propagate_down, bottom):
        self._backward(top[0], propagate_down[0], bottom[0], self.learned, self.param_propagate_down[3:])

    def backward_fused(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob],
                       scale: Scale) -> None:
        """Run backward, and that of the Scale layer whose work the last `forward_fused` did, in the same pass."""
        self._backward(top[0], propagate_down[0], bottom[0], scale.blobs, scale.param_propagate_down)

    def _backward(self, top: Blob, propagate_down: bool, bottom: Blob, learned: Sequence[Blob],
                  learns: Sequence[bool]) -> None:
        """`learned`: the scale, or the scale and the bias, that the last forward applied to the normalized values."""
        if not bottom.count:
            return
        dy, dx = top.diff, bottom.diff if propagate_down else None
        of_batch = self.of_batch and propagate_down
        bias_gradient: Array = None
        scale_gradient: Array = None
        if of_batch or any(learns):
            bias_gradient = normalization.bias_gradient(dy, *self.axes)
        if of_batch or list(learns[:1]) == [True]:
            scale_gradient = normalization.scale_gradient(dy, self.kept([bottom], [top]), self.mean, self.factor,
                                                          bias_gradient, *self.axes)
        for blob, flag, gradient in zip(learned, learns, (scale_gradient, bias_gradient)):
            if flag:
                blob.diff[...] += gradient.reshape(-1)
        factor = learned[0].data.reshape(self.by_channel) if learned else 1
        if of_batch:
            normalization.backward(dy, self.kept([bottom], [top]), self.mean, self.factor, scale_gradient,
                                   bias_gradient, dx, *self.axes, factor)
        elif dx is not None:
            Affine(scale=self.factor * factor).forward(dy, dx, *self.axes)


@register("MVN")
class MVN(Neuron):
    """(x - mean) / (standard deviation + eps) of each map, or of each image if across_channels (Caffe: MVN).

    With normalize_variance: false only the mean goes. A top of its own has at least 4 axes, as in Caffe: ones are
    appended.
    """

    def setup(self, bottom, top):
        self.axes = (0, 1) if self.param.mvn_param.across_channels else (0, 2)

    def reshape(self, bottom, top):
        shape = bottom[0].shape
        if top[0] is not bottom[0]:
            top[0].reshape(shape + (1,) * (4 - len(shape)))

    def forward(self, bottom, top):
        p, y = self.param.mvn_param, top[0].data
        x = bottom[0].data.reshape(y.shape)     # a view: fewer than 4 axes lie in C order
        if not x.size:
            return
        mean, variance = normalization.moments(x, *self.axes)
        if p.normalize_variance:
            self.keep(bottom, top)
            self.mean, self.factor = mean, 1 / (self.context.backend.xp.sqrt(variance) + p.eps)
            Affine(mean, self.factor).forward(x, y, *self.axes)
        else:
            Affine(mean).forward(x, y, *self.axes)

    def backward(self, top, propagate_down, bottom):
        dy = top[0].diff
        if not propagate_down[0] or not dy.size:
            return
        dx = bottom[0].diff.reshape(dy.shape)
        if self.param.mvn_param.normalize_variance:
            x = self.kept(bottom, top).reshape(dy.shape)
            dy_sum = normalization.bias_gradient(dy, *self.axes)
            dy_y = normalization.scale_gradient(dy, x, self.mean, self.factor, dy_sum, *self.axes)
            normalization.backward(dy, x, self.mean, self.factor, dy_y, dy_sum, dx, *self.axes)
        else:
            normalization.mean_backward(dy, dx, *self.axes)
