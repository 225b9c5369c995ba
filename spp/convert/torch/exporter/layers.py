"""Caffe's layer types, and those of its forks, as torch source."""
import math
from typing import Any, Callable

from spp.convert.torch.exporter.context import TorchExporter, exports, number, options, sizes
from spp.errors import ConvertError
from spp.layers import Layer

Texts = list[str]

# By type, the expressions of the tops. x: the variables of the bottoms.
EXPRESSIONS: dict[str, Callable[[Any, Texts], str | Texts]] = {
    "AbsVal": lambda layer, x: f"{x[0]}.abs()",
    "Axpy": lambda layer, x: f"along({x[1]}, {x[0]}.flatten(1), 0) * {x[1]} + {x[2]}",
    "BNLL": lambda layer, x: f"torch.logaddexp({x[0]}, torch.zeros_like({x[0]}))",
    "BatchReindex": lambda layer, x: f"{x[0]}[{x[1]}.long()]",
    "Clip": lambda layer, x: f"{x[0]}.clamp({', '.join(map(number, layer.numbers))})",
    "Concat": lambda layer, x: x[0] if len(x) == 1 else f"torch.cat([{', '.join(x)}], {layer.axis})",
    "ELU": lambda layer, x: f"F.elu({x[0]}, {number(layer.param.elu_param.alpha)})",
    "Filter": lambda layer, x: [f"{v}[{x[-1]}.flatten() != 0]" for v in x[:-1]],
    "Im2col": lambda layer, x: f"im2col({x[0]}, {', '.join(map(repr, layer.geometry[:4]))}, {layer.axis})",
    "LSTMUnit": lambda layer, x: f"lstm_unit({', '.join(x)})",
    "Permute": lambda layer, x: f"{x[0]}.permute({', '.join(map(str, layer.order))})",
    "PSROIPooling": lambda layer, x: (
        f"roi_group_average({x[0]}, {x[1]}, {layer.outputs}, {layer.group}, {number(layer.scale)})"),
    "ReLU": lambda layer, x: (
        f"F.leaky_relu({x[0]}, {number(layer.numbers[0])})" if layer.numbers[0] else f"F.relu({x[0]})"),
    "ReLU6": lambda layer, x: f"F.leaky_relu({x[0]}, {number(layer.numbers[0])}).clamp(max=6)",
    "Reorg": lambda layer, x: f"{'reorg_reverse' if layer.reverse else 'reorg'}({x[0]}, {layer.stride})",
    "ROIPooling": lambda layer, x: (
        f"roi_max_pool({x[0]}, {x[1]}, {tuple(layer.pooled)!r}, {number(layer.scale)})"),
    "ShuffleChannel": lambda layer, x: f"{x[0]}.unflatten(1, ({layer.group}, -1)).transpose(1, 2).flatten(1, 2)",
    "Sigmoid": lambda layer, x: f"torch.sigmoid({x[0]})",
    **dict.fromkeys(("Silence", "Split"), lambda layer, x: x * len(layer.param.top)),
    "Softmax": lambda layer, x: f"F.softmax({x[0]}, {layer.axis})",
    "Swish": lambda layer, x: f"{x[0]} * torch.sigmoid({number(layer.param.swish_param.beta)} * {x[0]})",
    "TanH": lambda layer, x: f"torch.tanh({x[0]})",
    "Threshold": lambda layer, x: (
        f"({x[0]} > {number(layer.param.threshold_param.threshold)}).to({x[0]}.dtype)"),
    "Tile": lambda layer, x: f"torch.cat([{x[0]}] * {layer.param.tile_param.tiles}, {layer.axis})",
}


@exports(*EXPRESSIONS)
def expression(exporter: TorchExporter, layer: Layer, x: Texts) -> str | Texts:
    return EXPRESSIONS[layer.type](layer, x)


# By type, the constructor of a module that is called with all bottoms.
MODULES: dict[str, Callable[[Any], str]] = {
    "Dropout": lambda layer: f"{'nn.Dropout' if layer.scale_train else 'DropoutUnscaled'}({number(layer.ratio)})",
    "LSTM": lambda layer: recurrent(layer),
    "Normalize": lambda layer: f"Normalize({layer.blobs[0].count}, {layer.across}, {number(layer.eps)})",
    "PReLU": lambda layer: f"nn.PReLU({layer.blobs[0].count})",
    "RNN": lambda layer: recurrent(layer),
}


@exports(*MODULES)
def module(exporter: TorchExporter, layer: Layer, x: Texts) -> Texts:
    return [f"{exporter.own(layer, MODULES[layer.type](layer))}({', '.join(x)})"]


def recurrent(layer: Any) -> str:
    static = f", static={layer.static_inputs}" if layer.static else ""
    return f"{layer.type}({layer.inputs}, {layer.outputs}{static}{', exposed=True' if layer.exposed else ''})"


@exports("Embed")
def embed(exporter: TorchExporter, layer: Layer, x: Texts) -> Texts:
    rows, outputs = layer.blobs[0].shape
    kind = "nn.Embedding" if len(layer.blobs) == 1 else "Embed"
    return [f"{exporter.own(layer, f'{kind}({rows}, {outputs})')}({x[0]}.long())"]


@exports("Parameter")
def parameter(exporter: TorchExporter, layer: Layer, x: Texts) -> Texts:
    return [exporter.own(layer, f"nn.Parameter(torch.zeros({layer.blobs[0].shape!r}))")]


@exports("DummyData")
def dummy_data(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    if layer.refilled:
        raise ConvertError("its values are random; write an Input layer, or data_filler { type: 'constant' }")
    names = []
    for i, (top, filler) in enumerate(zip(layer.param.top, layer.fillers)):
        name = f"{exporter.attributes[layer.name]}_{i}"
        value = f"torch.full({exporter.net.blobs[top].shape!r}, {number(filler.value)})"
        exporter.modules.append(f"self.register_buffer({name!r}, {value}, persistent=False)")
        names.append(f"self.{name}")
    return names


@exports("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution", "Deconvolution")
def convolution(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    axes = len(layer.kernel)
    if not 1 <= axes <= 3:
        raise ConvertError(f"has {axes} spatial axes; torch has convolutions over 1 to 3")
    kind = "nn.ConvTranspose" if layer.type == "Deconvolution" else "nn.Conv"
    text = options(stride=layer.stride, padding=layer.pad, dilation=layer.dilation, groups=layer.group,
                   bias=len(layer.blobs) > 1)
    module = exporter.own(layer, f"{kind}{axes}d({layer.channels}, {layer.outputs}, {sizes(layer.kernel)}{text})")
    return [f"{module}({v})" if layer.axis == 1 else f"over_batch_axes({module}, {v}, {layer.axis})" for v in x]


@exports("InnerProduct")
def inner_product(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    kind = "TransposedLinear" if layer.transpose else "nn.Linear"
    module = exporter.own(layer, f"{kind}({layer.inputs}, {layer.outputs}{options(bias=len(layer.blobs) > 1)})")
    flat = len(exporter.shapes(layer)[0]) == layer.axis + 1
    return [f"{module}({x[0]})" if flat else f"{module}({x[0]}.flatten({layer.axis}))"]


@exports("Pooling")
def pooling(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    two, is_max, whole = len(layer.param.top) > 1, layer.method == "MAX", f"{x[0]}.shape[2:]"
    kernel, stride = (whole, whole) if layer.kernel is None else (tuple(layer.kernel), tuple(layer.stride))
    if layer.method == "STOCHASTIC":
        return [f"expected_pool({x[0]}, {kernel}, {stride}, {layer.ceil})"]
    if layer.kernel is None and not two:
        return [f"{x[0]}.{'amax' if is_max else 'mean'}({tuple(range(2, 2 + layer.axes))!r}, keepdim=True)"]
    if any(2 * p > k for p, k in zip(layer.pad, layer.kernel or ())):
        if two:
            raise ConvertError("torch returns the indices of maxima only if pad is at most half of the kernel")
        return [f"{'max_pool' if is_max else 'average_pool'}({x[0]}, {kernel}, {stride}, {tuple(layer.pad)}, "
                f"{layer.ceil})"]
    if layer.kernel is not None:
        kernel, stride = sizes(layer.kernel), sizes(layer.stride)
    pool = f"F.{'max' if is_max else 'avg'}_pool{layer.axes}d"
    text = f"{x[0]}, {kernel}, {stride}{options(padding=layer.pad, ceil_mode=layer.ceil and layer.kernel is not None)}"
    if not two:
        return [f"{pool}({text})"]
    exporter.lines.append(f"{exporter.variable(layer.param.top[0])}, {exporter.variable(layer.param.top[1])} = "
                          f"{pool}({text}, return_indices=True)")
    values, indices = (exporter.variable(top) for top in layer.param.top)
    exporter.variables[layer.param.top[0]] = values
    return [values, f"{indices}.to({values}.dtype)"]


@exports("SPP")
def pyramid(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    p = layer.param.spp_param
    kind = "max" if layer.method == "MAX" else "avg"
    if not p.bins:
        pool = "max_pool" if kind == "max" else "average_pool"
        text = f"caffe_pyramid({x[0]}, {p.pyramid_height}, {pool})"
        return [text if p.pyramid_height > 1 else f"{text}[:, :, None, None]"]
    # sliding bins are torch's adaptive ones if they tile the map, and AUTO uses them only then
    one = f"F.adaptive_{kind}_pool2d(%s, %d)" if layer.rule != "SLIDING" else f"sliding_bins(%s, %d, F.{kind}_pool2d)"
    levels = [one % (x[0], n) + ".flatten(1)" for n in p.bins]
    return [levels[0] if len(levels) == 1 else f"torch.cat([{', '.join(levels)}], 1)"]


@exports("LRN")
def lrn(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    size, *rest = layer.numbers[:3] if layer.within else layer.numbers
    text = ", ".join([str(size), *map(number, rest)])
    if layer.within:
        return [f"lrn_within({x[0]}, {text})"]
    if len(exporter.shapes(layer)[0]) == 2:
        return [f"F.local_response_norm({x[0]}.unsqueeze(2), {text}).squeeze(2)"]
    return [f"F.local_response_norm({x[0]}, {text})"]


@exports("BatchNorm")
def batch_norm(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    p, shape, channels = layer.param.batch_norm_param, exporter.shapes(layer)[0], layer.blobs[0].shape[0]
    affine = layer.name in exporter.scales or len(layer.blobs) > 3
    text = (f"{channels}, eps={number(layer.eps)}, momentum={number(1 - float(number(p.moving_average_fraction)))}"
            f"{'' if affine else ', affine=False'}")
    if p.HasField("use_global_stats"):
        text = text.replace(",", f", {p.use_global_stats},", 1)
        module = exporter.own(layer, f"BatchNorm({text})")
    elif len(shape) > 5:
        raise ConvertError(f"its bottom has {len(shape)} axes; torch normalises blobs of 2 to 5")
    else:
        module = exporter.own(layer, f"nn.BatchNorm{max(1, len(shape) - 2)}d({text})")
    return [f"{module}({x[0]})" if len(shape) > 1 else f"{module}({x[0]}.unsqueeze(1)).squeeze(1)"]


@exports("Scale", "Bias")
def scale(exporter: TorchExporter, layer: Layer, x: Texts) -> Texts:
    if layer.name in exporter.folded:
        return x
    is_scale = layer.type == "Scale"
    axis = layer.param.scale_param.axis if is_scale else layer.param.bias_param.axis
    shape = exporter.shapes(layer)[1] if len(x) > 1 else layer.blobs[0].shape
    axis = axis % len(exporter.shapes(layer)[0]) if shape else 0
    text = x[0] if len(x) == 1 else f"{x[0]} {'*' if is_scale else '+'} along({x[0]}, {x[1]}, {axis})"
    if not layer.blobs:
        return [text]
    absent = ", weight=False" if len(x) > 1 or not is_scale else "" if len(layer.blobs) > 1 else ", bias=False"
    return [f"{exporter.own(layer, f'Scale({shape!r}, {axis}{absent})')}({text})"]


@exports("MVN")
def mvn(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    p = layer.param.mvn_param
    call = f"mvn({x[0]}, {layer.axes[1]}, {p.normalize_variance}, {number(p.eps)})"
    return [call if layer.param.top[0] != layer.param.bottom[0] else f"{call}.reshape({x[0]}.shape)"]


@exports("Eltwise")
def eltwise(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    if layer.operation == "PROD":
        return [" * ".join(x)]
    if layer.operation == "MAX":
        text = x[0]
        for other in x[1:]:
            text = f"torch.maximum({text}, {other})"
        return [text]
    terms = [v if coeff == 1 else f"{number(coeff)} * {v}" for v, coeff in zip(x, layer.coeffs)]
    return [" + ".join(terms).replace("+ -", "- ")]


@exports("Flatten")
def flatten(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    p, axes = layer.param.flatten_param, len(exporter.shapes(layer)[0])
    first, last = p.axis % axes, p.end_axis % axes
    return [x[0] if first == last else f"{x[0]}.flatten({first}{'' if last == axes - 1 else f', {last}'})"]


@exports("Reshape")
def reshape(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    p, axes = layer.param.reshape_param, len(exporter.shapes(layer)[0])
    first = p.axis if p.axis >= 0 else axes + p.axis + 1
    last = axes if p.num_axes == -1 else first + p.num_axes
    middle = [f"{x[0]}.shape[{first + i}]" if size == 0 else str(size) for i, size in enumerate(p.shape.dim)]
    before, after = ([f"{x[0]}.shape[{i}]" for i in part] for part in (range(first), range(last, axes)))
    return [f"{x[0]}.reshape({', '.join([*before, *middle, *after]) or '()'})"]


@exports("Crop")
def crop(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    axis = layer.param.crop_param.axis % len(layer.offsets)
    parts = [":"] * axis
    for i, offset in enumerate(layer.offsets[axis:], axis):
        parts.append(f"{offset}:{offset} + {x[1]}.shape[{i}]" if offset else f":{x[1]}.shape[{i}]")
    return [f"{x[0]}[{', '.join(parts)}]"]


@exports("Reduction")
def reduction(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    axes = len(exporter.shapes(layer)[0])
    operation, coeff = layer.operation, layer.coeff
    value = {"SUM": "", "MEAN": "", "ASUM": ".abs()", "SUMSQ": ".square()"}[operation]
    dims = tuple(range(layer.param.reduction_param.axis % axes, axes)) if axes else ()
    text = f"{x[0]}{value}.{'mean' if operation == 'MEAN' else 'sum'}({dims!r})"
    return [text if coeff == 1 else f"{number(coeff)} * {text}"]


@exports("ArgMax")
def arg_max(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    p, axes = layer.param.argmax_param, len(exporter.shapes(layer)[0])
    if p.HasField("axis"):
        return [f"largest({x[0]}, {p.axis % axes}, {p.top_k})[{int(p.out_max_val)}]"]
    call = f"largest({x[0]}.flatten(1), 1, {p.top_k})"
    text = f"torch.stack({call}, 1)" if p.out_max_val else f"{call}[0].unsqueeze(1)"
    ones = ", 1" * max(0, axes - 3)
    return [f"{text}.reshape(-1, {1 + p.out_max_val}, {p.top_k}{ones})" if ones else text]


@exports("Power")
def power(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    exponent, factor, shift = layer.numbers
    if exponent * factor == 0:
        return [f"torch.full_like({x[0]}, {number(1.0 if exponent == 0 else shift ** exponent)})"]
    text = x[0] if factor == 1 else f"{number(factor)} * {x[0]}"
    text = text if shift == 0 else f"{text} + {number(shift)}"
    return [text if exponent == 1 else f"({text}) ** {number(exponent)}"]


@exports("Exp")
def exp(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    log_base, factor, shift = layer.numbers
    return [f"torch.exp({log_base * factor!r} * {x[0]} + {log_base * shift!r})"]


@exports("Log")
def log(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    log_base, factor, shift = layer.numbers
    text = f"torch.log({number(factor)} * {x[0]} + {number(shift)})"
    return [text if math.isclose(log_base, 1) else f"{text} / {log_base!r}"]


@exports("Interp")
def interp(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    p = layer.param.interp_param
    factors = p.HasField("zoom_factor") or p.HasField("shrink_factor")
    size = None if factors else (p.height, p.width)
    return [f"interp({x[0]}, {size}, {p.zoom_factor}, {p.shrink_factor}, {-p.pad_beg}, {-p.pad_end})"]


@exports("Upsample")
def upsample(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    p, (high, wide) = layer.param.upsample_param, layer.scale
    if len(x) == 1:
        return [f"{x[0]}.repeat_interleave({high}, 2).repeat_interleave({wide}, 3)"]
    if p.HasField("upsample_h"):
        return [f"unpool({x[0]}, {x[1]}, {p.upsample_h}, {p.upsample_w})"]
    rows, columns = (f"{x[0]}.shape[{axis}] * {factor}{' - 1' if less else ''}"
                     for axis, factor, less in ((2, high, p.pad_out_h), (3, wide, p.pad_out_w)))
    return [f"unpool({x[0]}, {x[1]}, {rows}, {columns})"]


@exports("PriorBox")
def prior_box(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    p, boxes = layer.param.prior_box_param, [tuple(row) for row in layer.sizes.tolist()]
    variance = [float(number(v)) for v in layer.variance]
    return [f"prior_boxes({x[0]}, {x[1]}, {boxes!r}, {variance!r}, image_size={layer.image!r}, step={layer.step!r}, "
            f"offset={number(p.offset)}, clip={p.clip})"]


@exports("Slice")
def cut(exporter: TorchExporter, layer: Any, x: Texts) -> Texts:
    count, points = len(layer.param.top), tuple(layer.param.slice_param.slice_point)
    return x if count == 1 else [f"torch.tensor_split({x[0]}, {points or count}, {layer.axis})"]
