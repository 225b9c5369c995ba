"""One class a Caffe layer type: parameters, shapes and state; the arithmetic is in spp.ops."""
import spp.layers.accuracy
import spp.layers.activation
import spp.layers.axpy
import spp.layers.convolution
import spp.layers.crop
import spp.layers.data
import spp.layers.deconvolution
import spp.layers.depthwise
import spp.layers.detection
import spp.layers.eltwise
import spp.layers.hdf5
import spp.layers.im2col
import spp.layers.indexing
import spp.layers.inner_product
import spp.layers.inputs
import spp.layers.loss
import spp.layers.lrn
import spp.layers.memory_data
import spp.layers.neuron
import spp.layers.normalization
import spp.layers.normalize
import spp.layers.parameter
import spp.layers.pooling
import spp.layers.python
import spp.layers.rearrange
import spp.layers.recurrent
import spp.layers.reduction
import spp.layers.relu6
import spp.layers.resize
import spp.layers.roi
import spp.layers.scale
import spp.layers.shape
import spp.layers.smooth_l1
import spp.layers.softmax
import spp.layers.spp  # noqa: F401
from spp.layers.base import TEST, TRAIN, Blobs, Context, Layer, canonical_axis
from spp.layers.registry import create, layer_class, register, types

__all__ = ["TEST", "TRAIN", "Blobs", "Context", "Layer", "canonical_axis", "create", "layer_class", "register",
           "types"]
