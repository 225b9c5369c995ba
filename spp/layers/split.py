"""Layers that only connect a net: Split, Silence."""
from typing import Sequence

from spp.blob import Blob
from spp.layers.base import Layer
from spp.layers.registry import register


@register("Split")
class Split(Layer):
    """Passes one blob to several readers (Caffe: Split). The tops share its values; its gradient is their sum."""

    tops = (1, None)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob in top:
            blob.reshape(bottom[0].shape)
            blob.share_data(bottom[0])

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            total = bottom[0].diff
            total[...] = top[0].diff
            for blob in top[1:]:
                total += blob.diff


@register("Silence")
class Silence(Layer):
    """Reads blobs so that they are no outputs of the net (Caffe: Silence); their gradient is 0."""

    bottoms = (1, None)
    tops = (0, 0)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        for blob, propagate in zip(bottom, propagate_down):
            if propagate:
                blob.diff[...] = 0
