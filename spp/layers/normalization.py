"""Normalisation by mean and variance: BatchNorm over the batch, MVN within an image."""
import numpy as np

from spp.errors import NetError
from spp.layers.base import TEST
from spp.layers.neuron import Neuron
from spp.layers.registry import register
from spp.ops import normalization
from spp.proto import caffe_pb2


@register("BatchNorm")
class BatchNorm(Neuron):
    """(x - mean) / sqrt(variance + eps) of each channel, axis 1 (Caffe: BatchNorm; a Scale layer learns the rest).

    With use_global_stats (unless given: in phase TEST) mean and variance are the stored ones; otherwise those of
    the batch, which are then added to the stored ones in every forward. Parameters, which no solver updates:
    sum of means (C), sum of variances (C), sum of weights (1); a sum is moving_average_fraction * sum + new.
    """

    def setup(self, bottom, top):
        p = self.param.batch_norm_param
        if p.scale_bias or p.HasField("use_weight_bias") and p.use_weight_bias:
            raise NetError("scale_bias and use_weight_bias are NVIDIA's and Intel's scale inside BatchNorm; write a "
                           "Scale layer with bias_term: true behind it, and give that the last two of its parameters")
        self.of_batch = not (p.use_global_stats if p.HasField("use_global_stats") else self.phase == TEST)
        channels = bottom[0].shape[1] if len(bottom[0].shape) > 1 else 1
        for i, size in enumerate((channels, channels, 1)):
            self.add_filled((size,), caffe_pb2.FillerParameter())
            if i == len(self.param.param):
                self.param.param.add(lr_mult=0)
            elif self.param.param[i].lr_mult:
                raise NetError(f"param {i} has lr_mult {self.param.param[i].lr_mult:g}, but a solver cannot learn the "
                               "statistics of a batch normalization; remove the param blocks, or set lr_mult: 0")

    def reshape(self, bottom, top):
        shape, stored = bottom[0].shape, self.blobs[0].shape[0]
        channels = shape[1] if len(shape) > 1 else 1
        if channels != stored:
            raise NetError(f"the number of channels changed: the statistics are of {stored}, the bottom's shape is "
                           f"{' x '.join(map(str, shape))}")
        self.axes = (1, 2) if len(shape) > 1 else (len(shape), len(shape))     # no axis: all is one channel
        self.by_channel = shape[1:2]
        super().reshape(bottom, top)

    def forward(self, bottom, top):
        x = bottom[0].data
        if not self.of_batch:
            self.mean, variance = self._stored()
        elif x.size:
            self.keep(bottom, top)
            self.mean, variance = normalization.moments(x, *self.axes)
            self._add(self.mean, variance, x.size // variance.size)
        else:
            return      # nothing to normalise (a Filter let nothing through), and nothing to learn from
        xp = self.context.backend.xp
        self.factor = 1 / xp.sqrt(variance + self.param.batch_norm_param.eps)
        normalization.forward(x, self.mean, self.factor, top[0].data, *self.axes)

    def _stored(self):
        weight = float(self.blobs[2].data[0])
        factor = 1 / weight if weight else 0
        return [(blob.data.astype(np.float64) * factor).reshape(self.by_channel) for blob in self.blobs[:2]]

    def _add(self, mean, variance, count):
        fraction = self.param.batch_norm_param.moving_average_fraction
        unbiased = count / (count - 1) if count > 1 else 1
        for blob, new in zip(self.blobs, (mean, variance * unbiased, 1)):
            blob.data[...] = fraction * blob.data + new

    def backward(self, top, propagate_down, bottom):
        if not propagate_down[0] or not bottom[0].count:
            return
        dy, dx = top[0].diff, bottom[0].diff
        if self.of_batch:
            normalization.backward(dy, self.kept(bottom, top), self.mean, self.factor, dx, *self.axes)
        else:
            normalization.backward_of_constants(dy, self.factor, dx, *self.axes)


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
            normalization.forward(x, mean, self.factor, y, *self.axes)
        else:
            normalization.forward(x, mean, 1, y, *self.axes)

    def backward(self, top, propagate_down, bottom):
        dy = top[0].diff
        if not propagate_down[0] or not dy.size:
            return
        dx = bottom[0].diff.reshape(dy.shape)
        if self.param.mvn_param.normalize_variance:
            x = self.kept(bottom, top).reshape(dy.shape)
            normalization.backward(dy, x, self.mean, self.factor, dx, *self.axes)
        else:
            normalization.mean_backward(dy, dx, *self.axes)
