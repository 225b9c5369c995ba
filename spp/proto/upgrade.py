"""Upgrades nets and solvers of old dialects to the current one, in-place.

The dialects: V0 (`layers { layer { type: "conv" } }`), V1 (`layers { type: CONVOLUTION }`), input fields
instead of an Input layer, three `param`s on BatchNorm, `solver_type`.
"""
import logging
import math
import os

from spp.errors import ProtoError
from spp.proto import arrays, caffe_pb2
from spp.proto.upgrade_v0 import upgrade_v0

log = logging.getLogger(__name__)

V1_TYPES = {
    "NONE": "", "ABSVAL": "AbsVal", "ACCURACY": "Accuracy", "ARGMAX": "ArgMax", "BNLL": "BNLL",
    "CONCAT": "Concat", "CONTRASTIVE_LOSS": "ContrastiveLoss", "CONVOLUTION": "Convolution", "DATA": "Data",
    "DECONVOLUTION": "Deconvolution", "DROPOUT": "Dropout", "DUMMY_DATA": "DummyData",
    "EUCLIDEAN_LOSS": "EuclideanLoss", "ELTWISE": "Eltwise", "EXP": "Exp", "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data", "HDF5_OUTPUT": "HDF5Output", "HINGE_LOSS": "HingeLoss", "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData", "INFOGAIN_LOSS": "InfogainLoss", "INNER_PRODUCT": "InnerProduct", "LRN": "LRN",
    "MEMORY_DATA": "MemoryData", "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss", "MVN": "MVN",
    "POOLING": "Pooling", "POWER": "Power", "RELU": "ReLU", "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss", "SILENCE": "Silence", "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss", "SPLIT": "Split", "SLICE": "Slice", "TANH": "TanH",
    "WINDOW_DATA": "WindowData", "THRESHOLD": "Threshold",
}
SOLVER_TYPES = {"SGD": "SGD", "NESTEROV": "Nesterov", "ADAGRAD": "AdaGrad", "RMSPROP": "RMSProp",
                "ADADELTA": "AdaDelta", "ADAM": "Adam"}

# V1 data layers with fields that are in transform_param now.
_TRANSFORMED = {"Data": "data_param", "ImageData": "image_data_param", "WindowData": "window_data_param"}


def upgrade_net(net: caffe_pb2.NetParameter, source: str = "<net>") -> None:
    """Upgrade a net of any dialect to the current one, with `layer`s only; `source` names it in messages.

    Raises ProtoError if the net mixes dialects or has an old construct without a meaning.
    """
    if net.layers and net.layer:
        raise ProtoError(f"{source}: has both 'layer' and 'layers' blocks; write all of them as 'layer'")
    if any(v1.HasField("layer") for v1 in net.layers):
        log.info("%s: V0 layers upgraded", source)
        upgrade_v0(net, source)
    if net.layers:
        log.info("%s: V1 layers upgraded", source)
        for v1 in net.layers:
            _upgrade_v1(v1, net.layer.add())
        net.ClearField("layers")
    if net.input:
        log.info("%s: input fields upgraded", source)
        _upgrade_input(net, source)
    for layer in net.layer:
        if layer.type == "BatchNorm" and len(layer.param) == 3:
            # The three blobs are running statistics: the solver must not touch them.
            for spec in layer.param:
                spec.lr_mult = spec.decay_mult = 0
        _upgrade_statistics(layer, source)
        _upgrade_pooling(layer, source)


def _upgrade_statistics(layer: caffe_pb2.LayerParameter, source: str) -> None:
    """Reorder the blobs of NVIDIA's BatchNorm with scale in files of old DIGITS (scale, bias, mean, variance, count).

    The statistics come first now. With one channel the order is ambiguous, and it is taken for the current one.
    """
    sizes = [math.prod(arrays.shape_of(blob)) for blob in layer.blobs]
    if layer.type == "BatchNorm" and len(sizes) == 5 and sizes[4] == 1 < sizes[2]:
        log.info("%s: parameters of BatchNorm layer %r reordered", source, layer.name)
        scale_and_bias = [caffe_pb2.BlobProto.FromString(blob.SerializeToString()) for blob in layer.blobs[:2]]
        del layer.blobs[:2]
        layer.blobs.extend(scale_and_bias)


def upgrade_solver(solver: caffe_pb2.SolverParameter, path: str | None) -> None:
    """Upgrade a solver to the current dialect, with the nets inside it.

    path: the solver's file; snapshot_prefix is derived from it if the solver has none or has a folder. None for a
    solver without a file, whose prefix stays unchanged. Raises ProtoError if both `type` and the old `solver_type`
    are set.
    """
    source = path or "<solver>"
    if solver.HasField("solver_type"):
        if solver.HasField("type"):
            raise ProtoError(f"{source}: has both 'type' and the old 'solver_type'; keep 'type'")
        solver.type = SOLVER_TYPES[caffe_pb2.SolverParameter.SolverType.Name(solver.solver_type)]
        solver.ClearField("solver_type")
    for name in ("net_param", "train_net_param"):
        if solver.HasField(name):
            upgrade_net(getattr(solver, name), source)
    for net in solver.test_net_param:
        upgrade_net(net, source)
    if path is not None:
        stem = os.path.splitext(path)[0]
        if not solver.HasField("snapshot_prefix"):
            solver.snapshot_prefix = stem
        elif os.path.isdir(solver.snapshot_prefix):
            solver.snapshot_prefix = os.path.join(solver.snapshot_prefix, os.path.basename(stem))


def _upgrade_v1(v1: caffe_pb2.V1LayerParameter, layer: caffe_pb2.LayerParameter) -> None:
    if v1.HasField("type"):
        layer.type = V1_TYPES[caffe_pb2.V1LayerParameter.LayerType.Name(v1.type)]
    if v1.HasField("name"):
        layer.name = v1.name
    for name in ("bottom", "top", "loss_weight", "blobs", "include", "exclude"):
        getattr(layer, name).MergeFrom(getattr(v1, name))
    for field, value in v1.ListFields():
        if field.name.endswith("_param"):
            getattr(layer, field.name).CopyFrom(value)

    # the enums of share_mode have the same numbers
    for name, values in (("name", v1.param), ("share_mode", v1.blob_share_mode), ("lr_mult", v1.blobs_lr),
                         ("decay_mult", v1.weight_decay)):
        for i, value in enumerate(values):
            if i == len(layer.param):
                layer.param.add()
            setattr(layer.param[i], name, value)

    if layer.type in _TRANSFORMED:
        data = getattr(layer, _TRANSFORMED[layer.type])
        for name in ("scale", "mean_file", "crop_size", "mirror"):
            if data.HasField(name):
                setattr(layer.transform_param, name, getattr(data, name))
                data.ClearField(name)


def _upgrade_pooling(layer: caffe_pb2.LayerParameter, source: str) -> None:
    """Upgrade ceil_mode; raise ProtoError for avg_include_pad, which is not supported."""
    p = layer.pooling_param
    if p.HasField("ceil_mode"):
        if p.HasField("round_mode") and (p.round_mode == p.CEIL) != p.ceil_mode:
            raise ProtoError(f"{source}: layer {layer.name!r}: round_mode and ceil_mode disagree; keep round_mode")
        p.round_mode = p.CEIL if p.ceil_mode else p.FLOOR
        p.ClearField("ceil_mode")
    if not p.avg_include_pad:
        raise ProtoError(f"{source}: layer {layer.name!r}: avg_include_pad: false is Intel's; here, as in Caffe, an "
                         "average counts the padding; remove the field, or the padding")


def _upgrade_input(net: caffe_pb2.NetParameter, source: str) -> None:
    """Replace the `input` fields by one Input layer at the front; old weight files without shapes get none."""
    inputs, shapes, dims = list(net.input), list(net.input_shape), list(net.input_dim)
    fits = len(shapes) == len(inputs) if shapes else len(dims) in (0, 4 * len(inputs))
    if not fits:
        raise ProtoError(f"{source}: {len(inputs)} 'input' need one 'input_shape' or four 'input_dim' each; "
                         f"found {len(shapes)} 'input_shape', {len(dims)} 'input_dim'")
    if shapes or dims:
        layer = caffe_pb2.LayerParameter(name="input", type="Input", top=inputs)
        for i in range(len(inputs)):
            shape = layer.input_param.shape.add()
            shape.dim.extend(shapes[i].dim if shapes else dims[4 * i:4 * i + 4])
        net.layer.insert(0, layer)
    for name in ("input", "input_shape", "input_dim"):
        net.ClearField(name)
