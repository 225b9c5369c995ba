"""Operators of torch as Caffe layers."""
from types import SimpleNamespace
from typing import Any, Sequence

import numpy as np

from spp.convert.torch.importer.context import TorchImporter, imports, shape

Args = SimpleNamespace


def source(a: Args) -> Any:
    """The operator's first argument, whatever its name."""
    return a.self if hasattr(a, "self") else a.input


@imports("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolution(importer: TorchImporter, node: Any, a: Args) -> None:
    transposed = hasattr(a, "output_padding")
    if isinstance(a.padding, str):
        raise importer.error(node, f"padding {a.padding!r} depends on the sizes; give it in pixels")
    if transposed and any(a.output_padding):
        raise importer.error(node, f"Caffe has no output_padding, found {list(a.output_padding)}")
    if len(shape(a.input)) != a.weight.meta["val"].dim():
        raise importer.error(node, "its input has no batch axis")
    weight, bias = importer.constant(node, a.weight), importer.constant(node, a.bias)
    assert weight is not None
    layer = importer.layer(node, "Deconvolution" if transposed else "Convolution", [importer.blob(a.input)],
                           weights=[weight] if bias is None else [weight, bias])
    p = layer.convolution_param
    p.num_output = weight.shape[1] * a.groups if transposed else weight.shape[0]
    for field, values in (("kernel_size", weight.shape[2:]), ("stride", a.stride), ("pad", a.padding),
                          ("dilation", a.dilation)):
        values = list(values) * (weight.ndim - 2 if len(values) == 1 else 1)
        if field == "kernel_size" or any(v != (field != "pad") for v in values):
            getattr(p, field).extend(values[:1] if len(set(values)) == 1 else values)
    if a.groups != 1:
        p.group = a.groups
    if bias is None:
        p.bias_term = False


@imports("linear")
def linear(importer: TorchImporter, node: Any, a: Args) -> None:
    weight, bias = importer.constant(node, a.weight), importer.constant(node, a.bias)
    assert weight is not None
    layer = importer.layer(node, "InnerProduct", [importer.blob(a.input)],
                           weights=[weight] if bias is None else [weight, bias])
    p = layer.inner_product_param
    p.num_output = len(weight)
    if bias is None:
        p.bias_term = False
    if len(shape(a.input)) != 2:
        p.axis = len(shape(a.input)) - 1


@imports("batch_norm")
def batch_norm(importer: TorchImporter, node: Any, a: Args) -> None:
    if a.training or a.running_mean is None:
        raise importer.error(node, "it normalises by the batch, not by stored statistics")
    mean, variance = importer.constant(node, a.running_mean), importer.constant(node, a.running_var)
    assert mean is not None and variance is not None
    layer = importer.layer(node, "BatchNorm", [importer.blob(a.input)], weights=[mean, variance, np.ones(1)])
    p = layer.batch_norm_param
    p.eps, p.moving_average_fraction = a.eps, 1 - a.momentum
    if a.weight is not None:
        scale, bias = importer.constant(node, a.weight), importer.constant(node, a.bias)
        assert scale is not None
        weights = [scale, np.zeros_like(scale) if bias is None else bias]
        layer = importer.layer(node, "Scale", [layer.top[0]], name=f"{layer.name}.scale", weights=weights)
        layer.scale_param.bias_term = True


@imports("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d")
def pooling(importer: TorchImporter, node: Any, a: Args) -> None:
    x = source(a)
    axes = len(shape(x)) - 2
    most = not hasattr(a, "count_include_pad")
    if any(v != 1 for v in _each(getattr(a, "dilation", [1]), axes)):
        raise importer.error(node, "Caffe's pooling has no dilation")
    pad = _each(a.padding, axes)
    if not most and any(pad) and not a.count_include_pad:
        raise importer.error(node, "Caffe's averages count the padding; set count_include_pad=True")
    if getattr(a, "divisor_override", None) is not None:
        raise importer.error(node, "Caffe's averages have no divisor_override")
    kernel = _each(a.kernel_size, axes)
    p = importer.layer(node, "Pooling", [importer.blob(x)]).pooling_param
    p.pool = p.MAX if most else p.AVE
    for name, one, values in (("kernel", "kernel_size", kernel), ("stride", "stride", _each(a.stride or kernel, axes)),
                              ("pad", "pad", pad)):
        if len(set(values)) == 1:
            setattr(p, one, values[0])
        elif axes == 2:
            setattr(p, f"{name}_h", values[0])
            setattr(p, f"{name}_w", values[1])
        else:
            raise importer.error(node, f"Caffe's pooling has one {name} for all axes unless there are two; found "
                                 f"{values}")
    if not a.ceil_mode:
        p.round_mode = p.FLOOR


@imports("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d")
def adaptive_pooling(importer: TorchImporter, node: Any, a: Args) -> None:
    x = source(a)
    sizes, axes = list(a.output_size), len(shape(x)) - 2
    kind = "MAX" if "max" in str(node.target) else "AVE"
    if set(sizes) == {1}:
        p = importer.layer(node, "Pooling", [importer.blob(x)]).pooling_param
        p.pool, p.global_pooling = p.PoolMethod.Value(kind), True
    elif axes == 2 and len(set(sizes)) == 1:
        layer = importer.layer(node, "SPP", [importer.blob(x)])
        layer.spp_param.bins.append(sizes[0])
        layer.spp_param.pool = layer.spp_param.PoolMethod.Value(kind)
        _reshape(importer, node, layer.top[0], [0, shape(x)[1], *sizes])
    else:
        raise importer.error(node, f"Caffe's bins are as many vertically as horizontally, found {sizes}")
    if kind == "MAX":
        importer.parts[node] = [importer.blobs[node]]


@imports("relu", "leaky_relu", "elu", "sigmoid", "tanh", "silu", "abs", "exp", "log", "sqrt", "square", "hardtanh",
         "clamp", "relu6", "softplus")
def elementwise(importer: TorchImporter, node: Any, a: Args) -> None:
    x, name = importer.blob(source(a)), str(node.target).split(".")[1].rstrip("_")
    types = {"relu": "ReLU", "leaky_relu": "ReLU", "elu": "ELU", "sigmoid": "Sigmoid", "tanh": "TanH", "silu": "Swish",
             "abs": "AbsVal", "exp": "Exp", "log": "Log", "sqrt": "Power", "square": "Power", "hardtanh": "Clip",
             "clamp": "Clip", "relu6": "ReLU6", "softplus": "BNLL"}
    kind, limits = types[name], (0.0, 0.0)
    if kind == "Clip":
        limits = (a.min_val, a.max_val) if name == "hardtanh" else (a.min, a.max)
        if None in limits:
            raise importer.error(node, "Caffe's Clip needs a lower and an upper limit")
        kind = "ReLU6" if limits == (0, 6) else kind
    if name == "softplus" and a.beta != 1 or name == "elu" and (a.scale, a.input_scale) != (1, 1):
        raise importer.error(node, "Caffe's layer has no such factors")
    layer = importer.layer(node, kind, [x])
    if kind == "Clip":
        layer.clip_param.min, layer.clip_param.max = limits
    elif name == "leaky_relu":
        layer.relu_param.negative_slope = a.negative_slope
    elif name == "elu":
        layer.elu_param.alpha = a.alpha
    elif kind == "Power":
        layer.power_param.power = 0.5 if name == "sqrt" else 2


@imports("prelu")
def prelu(importer: TorchImporter, node: Any, a: Args) -> None:
    slopes = importer.constant(node, a.weight)
    assert slopes is not None
    shared = slopes.size == 1 and shape(source(a))[1] != 1
    layer = importer.layer(node, "PReLU", [importer.blob(source(a))],
                           weights=[slopes.reshape(()) if shared else slopes])
    layer.prelu_param.channel_shared = shared


@imports("hardsigmoid", "hardswish")
def hard(importer: TorchImporter, node: Any, a: Args) -> None:
    """min(max(x + 3, 0), 6) / 6, and x times that."""
    x = importer.blob(source(a))
    layer = importer.layer(node, "Power", [x])
    layer.power_param.scale, layer.power_param.shift = 1 / 6, 0.5
    layer = importer.layer(node, "Clip", [layer.top[0]], name=f"{layer.name}.clip")
    layer.clip_param.min, layer.clip_param.max = 0, 1
    if "hardswish" in str(node.target):
        layer = importer.layer(node, "Eltwise", [x, layer.top[0]], name=f"{layer.name}.product")
        layer.eltwise_param.operation = layer.eltwise_param.PROD


@imports("dropout", "feature_dropout")
def dropout(importer: TorchImporter, node: Any, a: Args) -> None:
    importer.layer(node, "Dropout", [importer.blob(source(a))]).dropout_param.dropout_ratio = a.p


@imports("softmax", "log_softmax")
def softmax(importer: TorchImporter, node: Any, a: Args) -> None:
    x = source(a)
    layer = importer.layer(node, "Softmax", [importer.blob(x)])
    layer.softmax_param.axis = a.dim % len(shape(x))
    if "log" in str(node.target):
        importer.layer(node, "Log", [layer.top[0]], name=f"{layer.name}.log")


@imports("cat")
def concat(importer: TorchImporter, node: Any, a: Args) -> None:
    importer.layer(node, "Concat", [importer.blob(x) for x in a.tensors]).concat_param.axis = a.dim % len(shape(node))


@imports("chunk", "split", "split_with_sizes", "unsafe_chunk")
def cut(importer: TorchImporter, node: Any, a: Args) -> None:
    x, parts = source(a), [value.shape for value in node.meta["val"]]
    axis = a.dim % len(shape(x))
    layer = importer.layer(node, "Slice", [importer.blob(x)], tops=len(parts))
    layer.slice_param.axis = axis
    layer.slice_param.slice_point.extend(np.cumsum([int(part[axis]) for part in parts])[:-1].tolist())
    if len(parts) == 1:
        importer.parts[node] = [layer.top[0]]


@imports("add", "sub", "mul", "div")
def arithmetic(importer: TorchImporter, node: Any, a: Args) -> None:
    name, x, y = str(node.target).split(".")[1].rstrip("_"), source(a), a.other
    factor = getattr(a, "alpha", 1)
    if isinstance(y, (int, float)):
        if getattr(a, "rounding_mode", None):
            raise importer.error(node, "Caffe has no rounding division")
        p = importer.layer(node, "Power", [importer.blob(x)]).power_param
        if name in ("mul", "div"):
            p.scale = y if name == "mul" else 1 / y
        else:
            p.shift = y * factor if name == "add" else -y * factor
        return
    if name == "div" or isinstance(x, (int, float)):
        raise importer.error(node, "Caffe's Eltwise does not divide, and takes blobs only")
    if shape(x) == shape(y):
        p = importer.layer(node, "Eltwise", [importer.blob(x), importer.blob(y)]).eltwise_param
        p.operation = p.PROD if name == "mul" else p.SUM
        if name == "sub" or name == "add" and factor != 1:
            p.coeff.extend([1, -factor if name == "sub" else factor])
        return
    if name == "mul":
        large, small = (x, y) if len(shape(x)) >= len(shape(y)) and np.prod(shape(x)) >= np.prod(shape(y)) else (y, x)
        axes = len(shape(small)) - sum(size == 1 for size in shape(small)[2:])
        if len(shape(small)) == len(shape(large)) and shape(small)[:axes] == shape(large)[:axes]:
            flat = importer.layer(node, "Reshape", [importer.blob(small)], name=f"{importer.blob(small)}.flat")
            flat.reshape_param.shape.dim.extend([0] * axes)
            importer.layer(node, "Scale", [importer.blob(large), flat.top[0]]).scale_param.axis = 0
            return
    raise importer.error(node, f"Caffe has no broadcasting of {shape(x)} and {shape(y)}")


@imports("rsub", "neg", "pow")
def power(importer: TorchImporter, node: Any, a: Args) -> None:
    """other - x, -x, and x to a power that is a number."""
    name, number = str(node.target).split(".")[1].rstrip("_"), getattr(a, "other", getattr(a, "exponent", 0))
    if not isinstance(number, (int, float)) or getattr(a, "alpha", 1) != 1 or not hasattr(a, "self"):
        raise importer.error(node, "Caffe's Power takes a blob and fixed numbers")
    p = importer.layer(node, "Power", [importer.blob(a.self)]).power_param
    if name == "pow":
        p.power = number
    else:
        p.scale, p.shift = -1, number


@imports("mean")
def mean(importer: TorchImporter, node: Any, a: Args) -> None:
    x = source(a)
    axes = sorted(axis % len(shape(x)) for axis in a.dim)
    if axes != list(range(2, len(shape(x)))) or not axes:
        raise importer.error(node, f"Caffe takes the mean of whole maps, not of axes {axes}")
    layer = importer.layer(node, "Pooling", [importer.blob(x)])
    layer.pooling_param.pool, layer.pooling_param.global_pooling = layer.pooling_param.AVE, True
    if not a.keepdim:
        importer.layer(node, "Flatten", [layer.top[0]], name=f"{layer.name}.flat")


@imports("flatten")
def flatten(importer: TorchImporter, node: Any, a: Args) -> None:
    x = source(a)
    p = importer.layer(node, "Flatten", [importer.blob(x)]).flatten_param
    p.axis, last = a.start_dim % len(shape(x)), a.end_dim % len(shape(x))
    if last != len(shape(x)) - 1:
        p.end_axis = last


@imports("view", "reshape", "squeeze", "unsqueeze", "unflatten")
def reshape(importer: TorchImporter, node: Any, a: Args) -> None:
    x, sizes = source(a), list(shape(node))
    if sizes and shape(x)[:1] == (sizes[0],):
        sizes[0] = 0        # so that the batch may change
    _reshape(importer, node, importer.blob(x), sizes)


def _reshape(importer: TorchImporter, node: Any, x: str, sizes: Sequence[int]) -> None:
    importer.layer(node, "Reshape", [x]).reshape_param.shape.dim.extend(sizes)


@imports("transpose", "permute")
def permute(importer: TorchImporter, node: Any, a: Args) -> None:
    x = source(a)
    axes = len(shape(x))
    order = list(range(axes))
    if hasattr(a, "dims"):
        order = [axis % axes for axis in a.dims]
    else:
        order[a.dim0 % axes], order[a.dim1 % axes] = order[a.dim1 % axes], order[a.dim0 % axes]
    importer.layer(node, "Permute", [importer.blob(x)]).permute_param.order.extend(order)


@imports("contiguous", "clone", "detach", "alias", "identity")
def same(importer: TorchImporter, node: Any, a: Args) -> None:
    importer.blobs[node] = importer.blob(source(a))


@imports("zeros", "ones", "full")
def constant(importer: TorchImporter, node: Any, a: Args) -> None:
    """No layer: an operator that reads the constant is refused with its own reason."""


@imports("embedding")
def embedding(importer: TorchImporter, node: Any, a: Args) -> None:
    weight = importer.constant(node, a.weight)
    assert weight is not None
    p = importer.layer(node, "Embed", [importer.blob(a.indices)], weights=[weight]).embed_param
    p.input_dim, p.num_output, p.bias_term = *weight.shape, False


@imports("upsample_nearest2d", "upsample_bilinear2d")
def upsample(importer: TorchImporter, node: Any, a: Args) -> None:
    (high, wide), (height, width) = shape(a.input)[2:], shape(node)[2:]
    if "bilinear" in str(node.target):
        if not a.align_corners:
            raise importer.error(node, "Caffe's Interp aligns corners: set align_corners=True")
        p = importer.layer(node, "Interp", [importer.blob(a.input)]).interp_param
        p.height, p.width = height, width
        return
    if height % high or width % wide:
        raise importer.error(node, "Caffe's Upsample repeats pixels a whole number of times")
    p = importer.layer(node, "Upsample", [importer.blob(a.input)]).upsample_param
    p.scale_h, p.scale_w = height // high, width // wide


def _each(values: Any, axes: int) -> list[int]:
    values = list(values) if isinstance(values, (list, tuple)) else [values]
    return values * axes if len(values) == 1 else values
