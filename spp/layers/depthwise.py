"""Forks' names for a convolution with one group per channel: ConvolutionDepthwise, DepthwiseConvolution."""
from typing import Sequence

from spp.blob import Blob
from spp.errors import NetError
from spp.layers.convolution import Convolution
from spp.layers.registry import register


@register("DepthwiseConvolution")
@register("ConvolutionDepthwise")
class DepthwiseConvolution(Convolution):
    """A Convolution whose group is the number of channels (MobileNet's ports to Caffe).

    Raises NetError for a group that is neither left out nor 1 nor the number of channels.
    """

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, shape = self.param.convolution_param, bottom[0].shape
        channels = shape[p.axis] if -len(shape) <= p.axis < len(shape) else p.group
        if p.HasField("group") and p.group not in (1, channels):
            raise NetError(f"group must be the number of channels, {channels}, or be left out; found {p.group}")
        p.group = channels
        super().setup(bottom, top)
