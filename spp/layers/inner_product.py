"""InnerProduct."""
import math
from typing import Sequence

from spp.backend.types import Epilogue
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import RELU, FusingLayer, canonical_axis, format_shape
from spp.layers.registry import register
from spp.ops import inner_product


@register("InnerProduct")
class InnerProduct(FusingLayer):
    """y = weight x + bias, x the elements of all axes from `axis` on (Caffe: InnerProduct).

    Top: the axes before `axis`, then num_output. Parameters: weight num_output x inputs (inputs x num_output if
    transpose), bias num_output if bias_term. Raises NetError without num_output, and if the number of inputs changes.
    """

    fuses = (RELU,)
    axis: int
    inputs: int
    outputs: int
    transpose: bool

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, shape = self.param.inner_product_param, bottom[0].shape
        if p.num_output < 1:
            raise NetError("inner_product_param needs num_output, at least 1")
        self.outputs, self.transpose = p.num_output, p.transpose
        self.axis = canonical_axis(p.axis, len(shape))
        self.inputs = math.prod(shape[self.axis:])
        weight = (self.inputs, self.outputs) if self.transpose else (self.outputs, self.inputs)
        self.add_filled(weight, p.weight_filler)
        if p.bias_term:
            self.add_filled((self.outputs,), p.bias_filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        inputs = math.prod(shape[self.axis:])
        if inputs != self.inputs:
            raise NetError(f"the input size changed: the weights take {self.inputs} inputs, the bottom of shape "
                           f"{format_shape(shape)} has {inputs} from axis {self.axis} on; use the image "
                           f"size the net was made for, or an SPP layer before this one")
        top[0].reshape(*shape[:self.axis], self.outputs)

    def forward_fused(self, bottom: Sequence[Blob], top: Sequence[Blob], epilogue: Epilogue) -> None:
        weight, *bias = (blob.data for blob in self.blobs)
        epilogue = Epilogue(bias[0] if bias else None, relu=epilogue.relu)
        inner_product.forward(bottom[0].data, weight, top[0].data, epilogue, self.axis, self.transpose,
                              self.context.precision)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy, how = top[0].diff, (self.axis, self.transpose, self.context.precision)
        if self.param_propagate_down[0]:
            inner_product.backward_weights(bottom[0].data, dy, self.blobs[0].diff, *how)
        if len(self.blobs) > 1 and self.param_propagate_down[1]:
            inner_product.backward_bias(dy, self.blobs[1].diff)
        if propagate_down[0]:
            inner_product.backward_data(dy, self.blobs[0].data, bottom[0].diff, *how)
