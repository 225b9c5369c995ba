"""Deconvolution."""
from spp.layers.convolution import Convolution
from spp.layers.registry import register
from spp.ops import deconvolution


@register("Deconvolution")
class Deconvolution(Convolution):
    """The transpose of a Convolution with the same convolution_param, which enlarges maps (Caffe: Deconvolution).

    Parameters: weight channels x num_output / group x kernel, bias num_output if bias_term. A top has
    stride (size - 1) + dilation (kernel - 1) + 1 - 2 pad pixels along an axis. All else as in Convolution.
    """

    op = deconvolution

    def weight_shape(self):
        return (self.channels, self.outputs // self.group, *self.kernel)
