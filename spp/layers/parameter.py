"""Parameter."""
from typing import Sequence

from spp.blob import Blob
from spp.layers.base import Layer
from spp.layers.registry import register
from spp.proto import caffe_pb2


@register("Parameter")
class Parameter(Layer):
    """A learned blob of any shape, initially 0, as a top (Caffe: Parameter). Parameter: that blob.

    Its gradient accumulates over backward passes like any parameter's; Caffe's keeps the last pass only.
    """

    bottoms = (0, 0)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.add_filled(tuple(self.param.parameter_param.shape.dim), caffe_pb2.FillerParameter())

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].reshape(self.blobs[0].shape)
        top[0].share_data(self.blobs[0])

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if self.param_propagate_down[0]:
            self.blobs[0].diff[...] += top[0].diff
