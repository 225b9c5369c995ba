"""Deconvolution."""
from spp.backend.types import Numbers
from spp.layers.convolution import Convolution
from spp.layers.registry import register
from spp.ops import deconvolution


@register("Deconvolution")
class Deconvolution(Convolution):
    """The transpose of a Convolution with the same convolution_param, which enlarges maps (Caffe: Deconvolution).

    Parameters: weight C x (num_output / group) x kernel, bias num_output if bias_term. The top's size along an axis is
    stride (size - 1) + dilation (kernel - 1) + 1 - 2 pad. All else is as in Convolution.
    """

    op = deconvolution

    def weight_shape(self) -> Numbers:
        return (self.channels, self.outputs // self.group, *self.kernel)
