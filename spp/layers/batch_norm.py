"""BatchNorm."""
from typing import Sequence

import numpy as np

from spp.backend.types import Array, Epilogue, Numbers
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import AFFINE, RELU, SCALE, TEST, FusingLayer, format_shape
from spp.layers.neuron import Neuron
from spp.layers.registry import register
from spp.layers.scale import Scale
from spp.ops import normalization
from spp.ops.affine import Affine
from spp.ops.normalization import Gradients, Statistics
from spp.proto import caffe_pb2


@register("BatchNorm")
class BatchNorm(FusingLayer, Neuron):
    """(x - mean) / sqrt(variance + eps) of each channel, axis 1 (Caffe: BatchNorm; a Scale layer learns the rest).

    With use_global_stats (by default: in phase TEST) mean and variance are the stored ones; otherwise those of the
    batch, which every forward adds to the stored ones. Parameters, which no solver updates: sum of means (C), sum of
    variances (C), sum of weights (1); a sum becomes moving_average_fraction * sum + new.

    With NVIDIA's scale_bias or Intel's use_weight_bias the result is then multiplied by a learned scale (C), and a
    learned bias (C) is added (Intel: unless bias_term is false): parameters 3 and 4. With scale_bias eps is at least
    1e-5, as in NVIDIA's layer. Raises NetError for a statistic with an lr_mult, and if the number of channels changes.
    """

    learned: list[Blob]             # none, the scale, or the scale and the bias
    axes: tuple[int, int]           # axis and num_axes of the channels: axis 1, or none if there is no axis 1
    statistics_shape: Numbers       # (C), or () without axis 1
    statistics: Statistics          # of the last forward

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether forward uses the statistics of the batch."""
        p = self.param.batch_norm_param
        return not (p.use_global_stats if p.HasField("use_global_stats") else self.phase == TEST)

    @property
    def eps(self) -> float:
        """Added to the variances; at least 1e-5 where scale and shift belong to the layer."""
        p = self.param.batch_norm_param
        return max(p.eps, 1e-5) if p.scale_bias else p.eps

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.batch_norm_param
        channels = bottom[0].shape[1] if len(bottom[0].shape) > 1 else 1
        for i, size in enumerate((channels, channels, 1)):
            self.add_filled((size,), caffe_pb2.FillerParameter())
            if i == len(self.param.param):
                self.param.param.add(lr_mult=0)
            elif self.param.param[i].lr_mult:
                raise NetError(f"param {i} has lr_mult {self.param.param[i].lr_mult:g}, but a solver cannot learn the "
                               "statistics of a batch normalization; remove the param blocks, or set lr_mult: 0")
        self.learned = []
        if p.scale_bias or p.HasField("use_weight_bias") and p.use_weight_bias:
            scale_filler = next((getattr(p, name) for name in ("scale_filler", "filler") if p.HasField(name)),
                                caffe_pb2.FillerParameter(value=1))
            fillers = [scale_filler, p.bias_filler] if p.bias_term else [scale_filler]
            self.learned = [self.add_filled((channels,), filler) for filler in fillers]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape, stored = bottom[0].shape, self.blobs[0].shape[0]
        channels = shape[1] if len(shape) > 1 else 1
        if channels != stored:
            raise NetError(f"the number of channels changed: the statistics are of {stored}, the bottom's shape is "
                           f"{format_shape(shape)}")
        self.axes = (1, 1) if len(shape) > 1 else (len(shape), 0)     # no axis: one channel
        self.statistics_shape = shape[1:2]
        super().reshape(bottom, top)

    @property
    def fuses(self) -> Sequence[str]:
        return (RELU, AFFINE) if self.learned else (RELU, AFFINE, SCALE)

    @property
    def fusion_kind(self) -> str:
        return "" if self.uses_batch_statistics or self.runs_backward or self.axes != (1, 1) else AFFINE

    def affine(self) -> Affine:
        return self._normalize(*self._stored())

    def forward_fused(self, bottom: Sequence[Blob], top: Sequence[Blob], epilogue: Epilogue) -> None:
        x = bottom[0].data
        if self.uses_batch_statistics or self.learned or epilogue.scale is not None:
            self.save_input(bottom, top)
        if not self.uses_batch_statistics:
            statistics = self._stored()
        elif x.size:
            statistics = normalization.moments(x, *self.axes)
            self._add(*statistics, x.size // statistics[0].size)
        else:
            return      # no values to normalize (a Filter selected no row), and no statistics to add
        affine = self._normalize(*statistics).with_epilogue(epilogue)
        affine.forward(x, top[0].data, *self.axes, epilogue.relu)

    def _normalize(self, mean: Array, variance: Array) -> Affine:
        """The map of the layer with these statistics, which are stored for backward."""
        self.statistics = Statistics(mean, 1 / self.context.backend.xp.sqrt(variance + self.eps))
        values = [blob.data.reshape(self.statistics_shape) for blob in self.learned]
        scale, bias = values + [1, 0][len(values):]     # neither, the scale alone, or both are learned
        return Affine(mean, self.statistics.factor * scale, bias)

    def _stored(self) -> tuple[Array, Array]:
        """The stored mean and variance of each channel, float64."""
        weight = self.blobs[2].data.astype(np.float64)
        factor = 1 / self.context.backend.xp.where(weight == 0, np.inf, weight)
        mean, variance = (blob.data.astype(np.float64) * factor for blob in self.blobs[:2])
        return mean.reshape(self.statistics_shape), variance.reshape(self.statistics_shape)

    def _add(self, mean: Array, variance: Array, count: int) -> None:
        """Add the statistics of a batch, over `count` values per channel, to the stored ones."""
        fraction = self.param.batch_norm_param.moving_average_fraction
        unbiased = count / (count - 1) if count > 1 else 1
        for blob, new in zip(self.blobs, (mean, variance * unbiased, 1)):
            blob.data[...] = fraction * blob.data + new

    def gradient_of_scale(self, bottom: Sequence[Blob], top: Sequence[Blob], dy: Array) -> Array:
        """The gradient of the scale (C) that the last forward multiplied by, from the top's gradient `dy`."""
        dy_sum = normalization.bias_gradient(dy, *self.axes)
        return normalization.scale_gradient(dy, self.saved_input(bottom, top), self.statistics, dy_sum, *self.axes)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
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
        through_statistics = self.uses_batch_statistics and propagate_down
        bias_gradient: Array = None
        scale_gradient: Array = None
        if through_statistics or any(learns):
            bias_gradient = normalization.bias_gradient(dy, *self.axes)
        if through_statistics or list(learns[:1]) == [True]:
            scale_gradient = normalization.scale_gradient(dy, self.saved_input([bottom], [top]), self.statistics,
                                                          bias_gradient, *self.axes)
        for blob, flag, gradient in zip(learned, learns, (scale_gradient, bias_gradient)):
            if flag:
                blob.diff[...] += gradient.reshape(-1)
        factor = learned[0].data.reshape(self.statistics_shape) if learned else 1
        if through_statistics:
            normalization.backward(dy, self.saved_input([bottom], [top]), self.statistics,
                                   Gradients(scale_gradient, bias_gradient), dx, *self.axes, scale=factor)
        elif dx is not None:
            Affine(scale=self.statistics.factor * factor).forward(dy, dx, *self.axes)
