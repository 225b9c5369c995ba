"""Operators of torch as Caffe layers."""
from types import SimpleNamespace
from typing import Any, Callable, Sequence

import numpy as np

from spp.backend.types import Geometry
from spp.convert.net_builder import convolution_param, inner_product_param
from spp.convert.torch.importer.context import TorchImporter, imports, operator_name, shape

Args = SimpleNamespace


def source(a: Args) -> Any:
    """The operator's first argument, whatever its name."""
    return a.self if hasattr(a, "self") else a.input


# By operator, the layer that computes it, and the fields of the layer's parameters that differ from the defaults.
FUNCTIONS: dict[str, tuple[str, Callable[[Args], dict[str, Any]]]] = {
    **{name: (kind, lambda a: {}) for name, kind in (
        ("abs", "AbsVal"), ("exp", "Exp"), ("log", "Log"), ("relu", "ReLU"), ("relu6", "ReLU6"),
        ("sigmoid", "Sigmoid"), ("silu", "Swish"), ("softplus", "BNLL"), ("tanh", "TanH"))},
    **dict.fromkeys(("dropout", "feature_dropout"),
                    ("Dropout", lambda a: {"dropout_param": {"dropout_ratio": a.p}})),
    "elu": ("ELU", lambda a: {"elu_param": {"alpha": a.alpha}}),
    "leaky_relu": ("ReLU", lambda a: {"relu_param": {"negative_slope": a.negative_slope}}),
    "sqrt": ("Power", lambda a: {"power_param": {"power": 0.5}}),
    "square": ("Power", lambda a: {"power_param": {"power": 2}}),
}


@imports(*FUNCTIONS)
def function(importer: TorchImporter, node: Any, a: Args) -> None:
    if getattr(a, "beta", 1) != 1 or (getattr(a, "scale", 1), getattr(a, "input_scale", 1)) != (1, 1):
        raise importer.error(node, "Caffe's layer has no such factors")
    kind, params = FUNCTIONS[operator_name(node).rstrip("_")]
    importer.layer(node, kind, [source(a)], **params(a))


@imports("clamp", "hardtanh")
def clip(importer: TorchImporter, node: Any, a: Args) -> None:
    least, most = (a.min_val, a.max_val) if hasattr(a, "min_val") else (a.min, a.max)
    if least is None or most is None:
        raise importer.error(node, "Caffe's Clip needs a lower and an upper limit")
    if (least, most) == (0, 6):
        importer.layer(node, "ReLU6", [source(a)])
    else:
        importer.layer(node, "Clip", [source(a)], clip_param={"min": least, "max": most})


@imports("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolution(importer: TorchImporter, node: Any, a: Args) -> None:
    transposed = hasattr(a, "output_padding")
    if isinstance(a.padding, str):
        raise importer.error(node, f"padding {a.padding!r} depends on the sizes; give it in pixels")
    if transposed and any(a.output_padding):
        raise importer.error(node, f"Caffe has no output_padding, found {list(a.output_padding)}")
    if len(shape(a.input)) != a.weight.meta["val"].dim():
        raise importer.error(node, "its input has no batch axis")
    weights = importer.weights(node, a.weight, a.bias)
    outputs, kernel = weights[0].shape[1] * a.groups if transposed else len(weights[0]), weights[0].shape[2:]
    stride, pad, dilation = (tuple(_each(values, len(kernel))) for values in (a.stride, a.padding, a.dilation))
    geometry = Geometry(kernel, stride, pad, dilation, a.groups)
    importer.layer(node, "Deconvolution" if transposed else "Convolution", [a.input], weights=weights,
                   convolution_param=convolution_param(outputs, geometry, a.bias is not None))


@imports("linear")
def linear(importer: TorchImporter, node: Any, a: Args) -> None:
    weights, axis = importer.weights(node, a.weight, a.bias), len(shape(a.input)) - 1
    importer.layer(node, "InnerProduct", [a.input], weights=weights,
                   inner_product_param=inner_product_param(len(weights[0]), a.bias is not None, axis))


@imports("batch_norm")
def batch_norm(importer: TorchImporter, node: Any, a: Args) -> None:
    if a.training or a.running_mean is None:
        raise importer.error(node, "it normalises by the batch, not by stored statistics")
    statistics = importer.weights(node, a.running_mean, a.running_var)
    layer = importer.layer(node, "BatchNorm", [a.input], weights=[*statistics, np.ones(1)], batch_norm_param={
        "eps": a.eps, "moving_average_fraction": 1 - a.momentum})
    if a.weight is not None:
        scale, *bias = importer.weights(node, a.weight, a.bias)
        importer.layer(node, "Scale", [layer.top[0]], f"{layer.name}.scale",
                       weights=[scale, *(bias or [np.zeros_like(scale)])], scale_param={"bias_term": True})


@imports("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d")
def pooling(importer: TorchImporter, node: Any, a: Args) -> None:
    axes, is_max = len(shape(source(a))) - 2, not hasattr(a, "count_include_pad")
    if any(v != 1 for v in _each(getattr(a, "dilation", [1]), axes)):
        raise importer.error(node, "Caffe's pooling has no dilation")
    kernel, pad = _each(a.kernel_size, axes), _each(a.padding, axes)
    if not is_max and any(pad) and not a.count_include_pad:
        raise importer.error(node, "Caffe's averages count the padding; set count_include_pad=True")
    if getattr(a, "divisor_override", None) is not None:
        raise importer.error(node, "Caffe's averages have no divisor_override")
    param: dict[str, Any] = {"pool": "MAX" if is_max else "AVE", **({} if a.ceil_mode else {"round_mode": "FLOOR"})}
    for name, values in (("kernel", kernel), ("stride", _each(a.stride or kernel, axes)), ("pad", pad)):
        if len(set(values)) == 1:
            param["kernel_size" if name == "kernel" else name] = values[0]
        elif axes == 2:
            param[f"{name}_h"], param[f"{name}_w"] = values
        else:
            raise importer.error(node, f"Caffe's pooling has one {name} for all axes unless there are two; found "
                                 f"{values}")
    importer.layer(node, "Pooling", [source(a)], pooling_param=param)


@imports("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d")
def adaptive_pooling(importer: TorchImporter, node: Any, a: Args) -> None:
    x, sizes = source(a), list(a.output_size)
    kind = "MAX" if "max" in str(node.target) else "AVE"
    if set(sizes) == {1}:
        importer.layer(node, "Pooling", [x], pooling_param={"pool": kind, "global_pooling": True})
    elif len(shape(x)) == 4 and len(set(sizes)) == 1:
        layer = importer.layer(node, "SPP", [x], spp_param={"bins": sizes[:1], "pool": kind})
        _reshape(importer, node, layer.top[0], [0, shape(x)[1], *sizes])
    else:
        raise importer.error(node, f"Caffe's bins are as many vertically as horizontally, found {sizes}")
    if kind == "MAX":
        importer.parts[node] = [importer.blobs[node]]


@imports("prelu")
def prelu(importer: TorchImporter, node: Any, a: Args) -> None:
    slopes, = importer.weights(node, a.weight)
    shared = slopes.size == 1 and shape(source(a))[1] != 1
    importer.layer(node, "PReLU", [source(a)], weights=[slopes.reshape(()) if shared else slopes],
                   prelu_param={"channel_shared": shared})


@imports("hardsigmoid", "hardswish")
def hard(importer: TorchImporter, node: Any, a: Args) -> None:
    """min(max(x + 3, 0), 6) / 6, and x times that."""
    layer = importer.layer(node, "Power", [source(a)], power_param={"scale": 1 / 6, "shift": 0.5})
    layer = importer.layer(node, "Clip", [layer.top[0]], f"{layer.name}.clip", clip_param={"min": 0, "max": 1})
    if "hardswish" in str(node.target):
        importer.layer(node, "Eltwise", [source(a), layer.top[0]], f"{layer.name}.product",
                       eltwise_param={"operation": "PROD"})


@imports("softmax", "log_softmax")
def softmax(importer: TorchImporter, node: Any, a: Args) -> None:
    x = source(a)
    layer = importer.layer(node, "Softmax", [x], softmax_param={"axis": a.dim % len(shape(x))})
    if "log" in str(node.target):
        importer.layer(node, "Log", [layer.top[0]], f"{layer.name}.log")


@imports("cat")
def concat(importer: TorchImporter, node: Any, a: Args) -> None:
    importer.layer(node, "Concat", a.tensors, concat_param={"axis": a.dim % len(shape(node))})


@imports("chunk", "split", "split_with_sizes", "unsafe_chunk")
def cut(importer: TorchImporter, node: Any, a: Args) -> None:
    x, parts = source(a), [value.shape for value in node.meta["val"]]
    axis = a.dim % len(shape(x))
    points = np.cumsum([int(part[axis]) for part in parts])[:-1].tolist()
    layer = importer.layer(node, "Slice", [x], tops=len(parts), slice_param={"axis": axis, "slice_point": points})
    if len(parts) == 1:
        importer.parts[node] = [layer.top[0]]


@imports("add", "sub", "mul", "div")
def arithmetic(importer: TorchImporter, node: Any, a: Args) -> None:
    name, x, y = operator_name(node).rstrip("_"), source(a), a.other
    factor = getattr(a, "alpha", 1) * (-1 if name == "sub" else 1)
    if isinstance(y, (int, float)):
        if getattr(a, "rounding_mode", None):
            raise importer.error(node, "Caffe has no rounding division")
        numbers = {"shift": y * factor} if name in ("add", "sub") else {"scale": y if name == "mul" else 1 / y}
        importer.layer(node, "Power", [x], power_param=numbers)
        return
    if name == "div" or isinstance(x, (int, float)):
        raise importer.error(node, "Caffe's Eltwise does not divide, and takes blobs only")
    if shape(x) == shape(y):
        importer.layer(node, "Eltwise", [x, y], eltwise_param={
            "operation": "PROD" if name == "mul" else "SUM", **({"coeff": [1, factor]} if factor != 1 else {})})
        return
    if name == "mul":
        large, small = (x, y) if len(shape(x)) >= len(shape(y)) and np.prod(shape(x)) >= np.prod(shape(y)) else (y, x)
        axes = len(shape(small)) - sum(size == 1 for size in shape(small)[2:])
        if len(shape(small)) == len(shape(large)) and shape(small)[:axes] == shape(large)[:axes]:
            flat = importer.layer(node, "Reshape", [small], f"{importer.blob(small)}.flat",
                                  reshape_param={"shape": {"dim": [0] * axes}})
            importer.layer(node, "Scale", [large, flat.top[0]], scale_param={"axis": 0})
            return
    raise importer.error(node, f"Caffe has no broadcasting of {shape(x)} and {shape(y)}")


@imports("rsub", "neg", "pow")
def power(importer: TorchImporter, node: Any, a: Args) -> None:
    """other - x, -x, and x to a power that is a number."""
    number = getattr(a, "other", getattr(a, "exponent", 0))
    if not isinstance(number, (int, float)) or getattr(a, "alpha", 1) != 1 or not hasattr(a, "self"):
        raise importer.error(node, "Caffe's Power takes a blob and fixed numbers")
    importer.layer(node, "Power", [a.self], power_param={"power": number} if hasattr(a, "exponent") else {
        "scale": -1, "shift": number})


@imports("mean")
def mean(importer: TorchImporter, node: Any, a: Args) -> None:
    x = source(a)
    axes = sorted(axis % len(shape(x)) for axis in a.dim)
    if axes != list(range(2, len(shape(x)))) or not axes:
        raise importer.error(node, f"Caffe takes the mean of whole maps, not of axes {axes}")
    layer = importer.layer(node, "Pooling", [x], pooling_param={"pool": "AVE", "global_pooling": True})
    if not a.keepdim:
        importer.layer(node, "Flatten", [layer.top[0]], f"{layer.name}.flat")


@imports("flatten")
def flatten(importer: TorchImporter, node: Any, a: Args) -> None:
    rank = len(shape(source(a)))
    last = a.end_dim % rank
    importer.layer(node, "Flatten", [source(a)], flatten_param={
        "axis": a.start_dim % rank, **({"end_axis": last} if last != rank - 1 else {})})


@imports("view", "reshape", "squeeze", "unsqueeze", "unflatten")
def reshape(importer: TorchImporter, node: Any, a: Args) -> None:
    x, sizes = source(a), list(shape(node))
    if sizes and shape(x)[:1] == (sizes[0],):
        sizes[0] = 0        # so that the batch may change
    _reshape(importer, node, x, sizes)


def _reshape(importer: TorchImporter, node: Any, x: Any, sizes: Sequence[int]) -> None:
    importer.layer(node, "Reshape", [x], reshape_param={"shape": {"dim": sizes}})


@imports("transpose", "permute")
def permute(importer: TorchImporter, node: Any, a: Args) -> None:
    axes = len(shape(source(a)))
    order = list(range(axes))
    if hasattr(a, "dims"):
        order = [axis % axes for axis in a.dims]
    else:
        order[a.dim0 % axes], order[a.dim1 % axes] = order[a.dim1 % axes], order[a.dim0 % axes]
    importer.layer(node, "Permute", [source(a)], permute_param={"order": order})


@imports("contiguous", "clone", "detach", "alias", "identity")
def same(importer: TorchImporter, node: Any, a: Args) -> None:
    importer.blobs[node] = importer.blob(source(a))


@imports("zeros", "ones", "full")
def constant(importer: TorchImporter, node: Any, a: Args) -> None:
    """No layer: an operator that reads the constant is refused with its own reason."""


@imports("embedding")
def embedding(importer: TorchImporter, node: Any, a: Args) -> None:
    weight, = importer.weights(node, a.weight)
    importer.layer(node, "Embed", [a.indices], weights=[weight], embed_param={
        "input_dim": weight.shape[0], "num_output": weight.shape[1], "bias_term": False})


@imports("upsample_nearest2d", "upsample_bilinear2d")
def upsample(importer: TorchImporter, node: Any, a: Args) -> None:
    (high, wide), (height, width) = shape(a.input)[2:], shape(node)[2:]
    if "bilinear" in str(node.target):
        if not a.align_corners:
            raise importer.error(node, "Caffe's Interp aligns corners: set align_corners=True")
        importer.layer(node, "Interp", [a.input], interp_param={"height": height, "width": width})
        return
    if height % high or width % wide:
        raise importer.error(node, "Caffe's Upsample repeats pixels a whole number of times")
    importer.layer(node, "Upsample", [a.input], upsample_param={"scale_h": height // high, "scale_w": width // wide})


def _each(values: Any, axes: int) -> list[int]:
    values = list(values) if isinstance(values, (list, tuple)) else [values]
    return values * axes if len(values) == 1 else values
