"""LRN."""
from typing import Sequence

from spp.backend.types import LrnParameters
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer
from spp.layers.registry import register
from spp.ops import lrn


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
