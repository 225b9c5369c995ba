"""Normalize."""
from spp.errors import NetError
from spp.layers.base import Layer, dims
from spp.layers.registry import register
from spp.ops import normalize
from spp.proto import caffe_pb2


@register("Normalize")
class Normalize(Layer):
    """x / its L2 norm * scale (ParseNet, SSD: Normalize).

    The norm is that of an image (across_spatial) or of each pixel over its channels; eps is added to the sum of
    squares. Parameter: scale, 1 (channel_shared) or C.
    """

    def setup(self, bottom, top):
        p, shape = self.param.norm_param, bottom[0].shape
        if len(shape) < 2:
            raise NetError(f"needs a bottom of N x C x ..., found shape {dims(shape)}")
        self.across, self.eps, self.channels = p.across_spatial, p.eps, shape[1]
        one = caffe_pb2.FillerParameter(value=1)
        self.add_filled((1 if p.channel_shared else self.channels,),
                        p.scale_filler if p.HasField("scale_filler") else one)

    def reshape(self, bottom, top):
        shape = bottom[0].shape
        if shape[1] != self.channels:
            raise NetError(f"the scale is for {self.channels} channels, found {shape[1]}")
        top[0].reshape(shape)

    def forward(self, bottom, top):
        self.norm = normalize.norms(bottom[0].data, self.across, self.eps)
        normalize.forward(bottom[0].data, self.norm, self.blobs[0].data, top[0].data)

    def backward(self, top, propagate_down, bottom):
        dy, x = top[0].diff, bottom[0].data
        if self.param_propagate_down[0]:
            normalize.backward_scale(dy, x, self.norm, self.blobs[0].diff)
        if propagate_down[0]:
            normalize.backward_data(dy, x, self.norm, self.blobs[0].data, self.across, bottom[0].diff)
