"""Normalize."""
from typing import Sequence

from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, format_shape
from spp.layers.registry import register
from spp.ops import normalize
from spp.proto import caffe_pb2


@register("Normalize")
class Normalize(Layer):
    """x / its L2 norm * scale (ParseNet, SSD: Normalize), for N x C x ....

    The norm is sqrt(eps + sum of squares) over an image (across_spatial) or over the channels of each pixel.
    Parameter: scale, 1 (channel_shared) or C, at first 1. Raises NetError for fewer than 2 axes, and if the number
    of channels changes.
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
