"""Normalization without learned statistics: LRN, MVN, Normalize."""
from typing import Sequence

from spp.backend.types import LrnParameters
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, format_shape
from spp.layers.neuron import Neuron
from spp.layers.registry import register
from spp.ops import lrn, normalization, normalize
from spp.ops.affine import Affine
from spp.ops.normalization import Gradients, Statistics
from spp.proto import caffe_pb2


@register("LRN")
class LRN(Layer):
    """Local response normalization (Caffe: LRN): across channels, or over space within each channel.

    ACROSS_CHANNELS, for N x C x ...: y = x * (k + alpha / local_size * sum of squares)^-beta. WITHIN_CHANNEL, for
    N x C x H x W, uses 1 for k and local_size^2 for local_size, as Caffe does. Raises NetError for other shapes, or
    an even local_size.
    """

    within: bool            # WITHIN_CHANNEL
    numbers: LrnParameters

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.lrn_param
        if p.local_size % 2 == 0:
            raise NetError(f"local_size must be odd, found {p.local_size}")
        self.within = p.NormRegion.Name(p.norm_region) == "WITHIN_CHANNEL"
        self.numbers = LrnParameters(p.local_size, p.alpha, p.beta, p.k)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        if self.within and len(shape) != 4 or len(shape) < 2:
            expected = "N x C x H x W" if self.within else "at least the 2 axes N x C"
            raise NetError(f"needs a bottom of {expected}, found shape {shape}")
        top[0].reshape(shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        run = lrn.within_forward if self.within else lrn.across_forward
        run(bottom[0].data, top[0].data, self.numbers)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            run = lrn.within_backward if self.within else lrn.across_backward
            run(top[0].diff, bottom[0].data, bottom[0].diff, self.numbers)


@register("MVN")
class MVN(Neuron):
    """(x - mean) / (standard deviation + eps) of each map, or of each image if across_channels (Caffe: MVN).

    Bottom: N x C x .... With normalize_variance: false only the mean is subtracted. A top that is not the bottom has
    at least 4 axes, as in Caffe: ones are appended.
    """

    statistics: Statistics      # of each map or image: its factor is 1 / (standard deviation + eps)

    @property
    def axes(self) -> tuple[int, int]:
        """Axis and num_axes: each index of these axes has its own mean."""
        return (0, 1) if self.param.mvn_param.across_channels else (0, 2)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        if top[0] is not bottom[0]:
            top[0].reshape(shape + (1,) * (4 - len(shape)))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, y = self.param.mvn_param, top[0].data
        x = bottom[0].data.reshape(y.shape)     # a view: fewer than 4 axes are stored in C order
        if not x.size:
            return
        mean, variance = normalization.moments(x, *self.axes)
        if p.normalize_variance:
            self.save_input(bottom, top)
            self.statistics = Statistics(mean, 1 / (self.context.backend.xp.sqrt(variance) + p.eps))
            Affine(*self.statistics).forward(x, y, *self.axes)
        else:
            Affine(mean).forward(x, y, *self.axes)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy = top[0].diff
        if not propagate_down[0] or not dy.size:
            return
        dx = bottom[0].diff.reshape(dy.shape)
        if self.param.mvn_param.normalize_variance:
            x = self.saved_input(bottom, top).reshape(dy.shape)
            dy_sum = normalization.bias_gradient(dy, *self.axes)
            dy_y = normalization.scale_gradient(dy, x, self.statistics, dy_sum, *self.axes)
            normalization.backward(dy, x, self.statistics, Gradients(dy_y, dy_sum), dx, *self.axes)
        else:
            normalization.mean_backward(dy, dx, *self.axes)


@register("Normalize")
class Normalize(Layer):
    """x / its L2 norm * scale (ParseNet, SSD: Normalize), for N x C x ....

    The norm is sqrt(eps + sum of squares) over an image (across_spatial) or over the channels of each pixel.
    Parameter: scale, 1 (channel_shared) or C, at first 1. Raises NetError for fewer than 2 axes, or if C changes.
    """

    across: bool
    eps: float
    channels: int
    norm: Blob      # kept for backward; the bottom's axes, those summed over of size 1

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, shape = self.param.norm_param, bottom[0].shape
        if len(shape) < 2:
            raise NetError(f"needs a bottom of N x C x ..., found shape {format_shape(shape)}")
        self.across, self.eps, self.channels = p.across_spatial, p.eps, shape[1]
        one = caffe_pb2.FillerParameter(value=1)
        self.add_filled((1 if p.channel_shared else self.channels,),
                        p.scale_filler if p.HasField("scale_filler") else one)
        self.norm = self.buffer()

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        if shape[1] != self.channels:
            raise NetError(f"the scale is for {self.channels} channels, found {shape[1]}")
        top[0].reshape(shape)
        self.norm.reshape(shape[:1] + (1,) * (len(shape) - 1) if self.across else (shape[0], 1, *shape[2:]))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        normalize.norms(bottom[0].data, self.across, self.eps, self.norm.data)
        normalize.forward(bottom[0].data, self.norm.data, self.blobs[0].data, top[0].data)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy, x = top[0].diff, bottom[0].data
        if self.param_propagate_down[0]:
            normalize.backward_scale(dy, x, self.norm.data, self.blobs[0].diff)
        if propagate_down[0]:
            normalize.backward_data(dy, x, self.norm.data, self.blobs[0].data, self.across, bottom[0].diff)
