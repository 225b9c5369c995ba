"""Layers that only connect a net: Split, Silence."""
from spp.layers.base import Layer
from spp.layers.registry import register


@register("Split")
class Split(Layer):
    """Hands one blob to several readers: shared values, summed gradients (Caffe: Split)."""

    tops = (1, None)

    def reshape(self, bottom, top):
        for blob in top:
            blob.reshape(bottom[0].shape)
            blob.share_data(bottom[0])

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            total = bottom[0].diff
            total[...] = top[0].diff
            for blob in top[1:]:
                total += blob.diff


@register("Silence")
class Silence(Layer):
    """Reads blobs so that they are no outputs of the net (Caffe: Silence); its gradient is 0."""

    bottoms = (1, None)
    tops = (0, 0)

    def backward(self, top, propagate_down, bottom):
        for blob, wanted in zip(bottom, propagate_down):
            if wanted:
                blob.diff[...] = 0
