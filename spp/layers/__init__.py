"""One class a Caffe layer type: parameters, shapes and state; the arithmetic is in spp.ops."""
import spp.layers.accuracy
import spp.layers.convolution
import spp.layers.data
import spp.layers.eltwise
import spp.layers.inner_product
import spp.layers.inputs
import spp.layers.loss
import spp.layers.lrn
import spp.layers.neuron
import spp.layers.pooling
import spp.layers.shape
import spp.layers.softmax
import spp.layers.spp  # noqa: F401
from spp.layers.base import TEST, TRAIN, Blobs, Context, Layer, canonical_axis
from spp.layers.registry import create, layer_class, register, types

__all__ = ["TEST", "TRAIN", "Blobs", "Context", "Layer", "canonical_axis", "create", "layer_class", "register",
           "types"]
