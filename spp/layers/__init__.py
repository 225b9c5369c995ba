"""One class a Caffe layer type: parameters, shapes and state; the arithmetic is in spp.ops."""
from spp.layers import (accuracy, convolution, data, eltwise, inner_product, inputs, loss, lrn, neuron,  # noqa: F401
                        pooling, shape, softmax, spp)
from spp.layers.base import TEST, TRAIN, Blobs, Context, Layer, canonical_axis
from spp.layers.registry import create, layer_class, register, types

__all__ = ["TEST", "TRAIN", "Blobs", "Context", "Layer", "canonical_axis", "create", "layer_class", "register",
           "types"]
