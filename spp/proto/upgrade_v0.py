"""The first dialect (V0): one message with the parameters of all layer types, and padding layers."""
import logging
from typing import Any

from spp.errors import ProtoError
from spp.proto import caffe_pb2

log = logging.getLogger(__name__)

_TYPES = {
    "accuracy": "ACCURACY", "bnll": "BNLL", "concat": "CONCAT", "conv": "CONVOLUTION", "data": "DATA",
    "dropout": "DROPOUT", "euclidean_loss": "EUCLIDEAN_LOSS", "flatten": "FLATTEN", "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT", "im2col": "IM2COL", "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS", "innerproduct": "INNER_PRODUCT", "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS", "pool": "POOLING", "relu": "RELU",
    "sigmoid": "SIGMOID", "softmax": "SOFTMAX", "softmax_loss": "SOFTMAX_LOSS", "split": "SPLIT",
    "tanh": "TANH", "window_data": "WINDOW_DATA",
}
# The parameters of types whose name they do not have: data has data_param.
_PARAMS = {"conv": "convolution_param", "images": "image_data_param", "innerproduct": "inner_product_param",
           "pool": "pooling_param"}
# V0 fields whose names differ in the parameters of their types.
_RENAMED = {
    "biasterm": "bias_term", "kernelsize": "kernel_size", "batchsize": "batch_size", "shuffle_images": "shuffle",
    "det_fg_threshold": "fg_threshold", "det_bg_threshold": "bg_threshold", "det_fg_fraction": "fg_fraction",
    "det_context_pad": "context_pad", "det_crop_mode": "crop_mode",
}
_TRANSFORM = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}
_UNCHANGED = ("blobs", "blobs_lr", "weight_decay")


def upgrade_v0(net: caffe_pb2.NetParameter, source: str) -> None:
    """Upgrade the V0 layers of a net to V1, in-place; `source` names the net in messages.

    Raises ProtoError for an unknown type, and for a padding layer before any layer but conv and pool. A field
    without a meaning for its layer's type is dropped with a warning, as in Caffe.
    """
    _fold_padding(net, source)
    for layer in net.layers:
        if layer.HasField("layer"):
            v0 = caffe_pb2.V0LayerParameter()
            v0.CopyFrom(layer.layer)
            layer.ClearField("layer")
            _upgrade_layer(v0, layer, source)


def _fold_padding(net: caffe_pb2.NetParameter, source: str) -> None:
    """Add the pad of every padding layer to the layers that read it, and remove the padding layers."""
    producer: dict[str, caffe_pb2.V1LayerParameter] = {}
    for layer in net.layers:
        for i, bottom in enumerate(layer.bottom):
            padding = producer.get(bottom)
            if padding is None or padding.layer.type != "padding":
                continue
            if layer.layer.type not in ("conv", "pool"):
                raise ProtoError(f"{source}: layer {layer.layer.name!r} ({layer.layer.type}): only conv and "
                                 f"pool may read a padding layer; remove {padding.layer.name!r}")
            layer.layer.pad += padding.layer.pad
            layer.bottom[i] = padding.bottom[0]
        for top in layer.top:
            producer[top] = layer
    for i in reversed(range(len(net.layers))):
        if net.layers[i].layer.type == "padding":
            del net.layers[i]


def _upgrade_layer(v0: caffe_pb2.V0LayerParameter, layer: caffe_pb2.V1LayerParameter, source: str) -> None:
    where = f"{source}: layer {v0.name!r} ({v0.type})"
    if v0.HasField("type") and v0.type not in _TYPES:
        raise ProtoError(f"{where}: unknown type; V0 has {', '.join(_TYPES)}")
    param: Any = getattr(layer, _PARAMS.get(v0.type, f"{v0.type}_param"), None)
    for field, value in v0.ListFields():
        name = _RENAMED.get(field.name, field.name)
        if name == "name":
            layer.name = value
        elif name == "type":
            layer.type = getattr(caffe_pb2.V1LayerParameter, _TYPES[value])
        elif name in _UNCHANGED:
            getattr(layer, name).MergeFrom(value)
        elif name == "hdf5_output_param":
            layer.hdf5_output_param.CopyFrom(value)
        elif name in _TRANSFORM:
            setattr(layer.transform_param, _TRANSFORM[name], value)
        elif not hasattr(param, name) or (v0.type == "hdf5_data" and name == "shuffle"):
            log.warning("%s: field %r has no meaning for this type and is dropped", where, field.name)
        elif name.endswith("_filler"):
            getattr(param, name).CopyFrom(value)
        elif v0.type == "conv" and name in ("pad", "kernel_size", "stride"):    # one per axis now
            getattr(param, name).append(value)
        else:
            setattr(param, name, value)
