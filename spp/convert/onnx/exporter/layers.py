"""Layers with weights, activation functions and normalisation as ONNX operators."""
from typing import Any

import numpy as np

from spp.convert.batch_norm import means
from spp.convert.onnx.exporter.context import Export, OnnxExporter, Site, TensorProto, Value, exports, values
from spp.errors import ConvertError


# --- convolution and inner product

@exports("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution", "Deconvolution")
def convolution(g: OnnxExporter, site: Site) -> list[str]:
    layer = site.layer
    spatial = site.x.rank - layer.axis - 1
    if not spatial:
        raise ConvertError("a convolution without a spatial axis; write an InnerProduct")
    enlarges = layer.type == "Deconvolution"
    for size, k, p, d in zip(site.x.now[layer.axis + 1:], layer.kernel, layer.pad, layer.dilation):
        if not enlarges and size + 2 * p < d * (k - 1) + 1:
            raise ConvertError(f"its kernel is larger than the padded map of {size}, which Caffe fills up with zeros")
    weights = [g.weight(layer, i) for i in range(len(layer.blobs))]
    return [_by_image(g, bottom, layer.axis, "ConvTranspose" if enlarges else "Conv", *weights,
                      kernel_shape=layer.kernel, strides=layer.stride, pads=[*layer.pad, *layer.pad],
                      dilations=layer.dilation, group=layer.group) for bottom in site.bottoms]


def _by_image(g: OnnxExporter, x: Value, axis: int, op: str, *weights: str, **attributes: Any) -> str:
    """A convolution whose channels are at `axis`: the axes before it become one."""
    if axis == 1:
        return g.add(op, x.name, *weights, **attributes)
    if axis == 0:
        y = g.add(op, g.add("Unsqueeze", x.name, g.ints(0)), *weights, **attributes)
        return g.add("Squeeze", y, g.ints(0))
    flat = g.reshape(x.name, [-1, *(g.size(x, i) for i in range(axis, x.rank))])
    y = g.add(op, flat, *weights, **attributes)
    before = g.vector([g.size(x, i) for i in range(axis)])
    return g.add("Reshape", y, g.add("Concat", before, g.add("Shape", y, start=1), axis=0))


@exports("Im2col")
def im2col(g: OnnxExporter, site: Site) -> str:
    """A convolution of each channel with kernels that have a 1 at one tap."""
    layer, channels = site.layer, site.x.shape[site.layer.axis]
    kernel, stride, pad, dilation, _ = layer.geometry
    if channels is None or not kernel:
        raise ConvertError("needs a fixed number of channels, and a spatial axis or more")
    taps = int(np.prod(kernel))
    weight = np.tile(np.eye(taps, dtype=np.float32).reshape(taps, 1, *kernel), (channels, *[1] * (len(kernel) + 1)))
    return _by_image(g, site.x, layer.axis, "Conv", g.const(weight), kernel_shape=kernel, strides=stride,
                     pads=[*pad, *pad], dilations=dilation, group=channels)


@exports("InnerProduct")
def inner_product(g: OnnxExporter, site: Site) -> str:
    layer, x = site.layer, site.x.name
    bias = g.weight(layer, 1) if len(layer.blobs) > 1 else None
    if layer.axis == 1:
        if site.x.rank != 2:
            x = g.add("Flatten", x, axis=1)
        return g.add("Gemm", x, g.weight(layer, 0), *([bias] if bias else []), transB=int(not layer.transpose))
    if site.x.rank != layer.axis + 1:
        x = g.reshape(x, [0] * layer.axis + [layer.inputs])
    return g.linear(x, g.weight(layer, 0, transposed=not layer.transpose), bias)


@exports("Embed")
def embed(g: OnnxExporter, site: Site) -> str:
    y = g.add("Gather", g.weight(site.layer, 0), g.indices(site.x.name), axis=0)
    return g.add("Add", y, g.weight(site.layer, 1)) if len(site.layer.blobs) > 1 else y


# --- activation functions, and others of one expression

EXPRESSIONS: dict[str, Export] = {
    "AbsVal": lambda g, site: g.add("Abs", site.x.name),
    "BatchReindex": lambda g, site: g.add("Gather", site.x.name, g.indices(site.bottoms[1].name), axis=0),
    "Bias": lambda g, site: g.add("Add", site.x.name, _operand(g, site, 0)),
    "BNLL": lambda g, site: g.add("Softplus", site.x.name),
    "Clip": lambda g, site: g.add("Clip", site.x.name, *map(g.const, site.layer.numbers)),
    "Concat": lambda g, site: g.concat([bottom.name for bottom in site.bottoms], site.layer.axis),
    "Dropout": lambda g, site: (g.add("Dropout", site.x.name, g.const(site.layer.ratio)) if site.layer.scale_train else
                                g.scaled(site.x.name, 1 - site.layer.ratio)),
    "ELU": lambda g, site: g.add("Elu", site.x.name, alpha=site.param.elu_param.alpha),
    "Exp": lambda g, site: g.add("Exp", g.scaled(
        site.x.name, *(site.layer.numbers[0] * number for number in site.layer.numbers[1:]))),
    "Parameter": lambda g, site: g.weight(site.layer, 0),
    "Permute": lambda g, site: g.add("Transpose", site.x.name, perm=site.layer.order),
    "PReLU": lambda g, site: g.add("PRelu", site.x.name, g.weight(
        site.layer, 0, ones=site.x.rank - 2 if site.layer.blobs[0].shape else 0)),
    "ReLU": lambda g, site: _relu(g, site),
    "ReLU6": lambda g, site: (g.add("Min", _relu(g, site), g.const(6.0)) if any(site.layer.numbers) else
                              g.add("Clip", site.x.name, g.const(0.0), g.const(6.0))),
    **dict.fromkeys(("Silence", "Split"), lambda g, site: [site.x.name] * len(site.tops)),
    "Sigmoid": lambda g, site: g.add("Sigmoid", site.x.name),
    "Softmax": lambda g, site: g.add("Softmax", site.x.name, axis=site.layer.axis),
    "Swish": lambda g, site: g.add(
        "Mul", site.x.name, g.add("Sigmoid", g.scaled(site.x.name, site.param.swish_param.beta))),
    "TanH": lambda g, site: g.add("Tanh", site.x.name),
    "Threshold": lambda g, site: g.add("Cast", g.add(
        "Greater", site.x.name, g.const(site.param.threshold_param.threshold)), to=TensorProto.FLOAT),
    "Tile": lambda g, site: g.add("Tile", site.x.name, g.ints(*(
        site.param.tile_param.tiles if axis == site.layer.axis else 1 for axis in range(site.x.rank)))),
}


@exports(*EXPRESSIONS)
def expression(g: OnnxExporter, site: Site) -> str | list[str]:
    return EXPRESSIONS[site.layer.type](g, site)


def _relu(g: OnnxExporter, site: Site) -> str:
    slope, = site.layer.numbers
    return g.add("LeakyRelu", site.x.name, alpha=slope) if slope else g.add("Relu", site.x.name)


@exports("Log")
def logarithm(g: OnnxExporter, site: Site) -> str:
    log_base, factor, shift = site.layer.numbers
    return g.scaled(g.add("Log", g.scaled(site.x.name, factor, shift)), 1 / log_base)


@exports("Power")
def power(g: OnnxExporter, site: Site) -> str:
    exponent, factor, shift = site.layer.numbers
    if exponent * factor == 0:
        value = np.float32(1.0 if exponent == 0 else shift ** exponent)
        return g.add("Expand", g.const(value), g.add("Shape", site.x.name))
    y = g.scaled(site.x.name, factor, shift)
    return g.add("Pow", y, g.const(exponent)) if exponent != 1 else y


# --- several bottoms

@exports("Eltwise")
def eltwise(g: OnnxExporter, site: Site) -> str:
    terms = [bottom.name for bottom in site.bottoms]
    if site.layer.operation == "MAX":
        return g.add("Max", *terms)
    if site.layer.operation == "SUM":
        terms = [g.scaled(term, coeff) for term, coeff in zip(terms, site.layer.coeffs)]
    total = terms[0]
    for term in terms[1:]:
        total = g.add("Add" if site.layer.operation == "SUM" else "Mul", total, term)
    return total


@exports("Scale")
def scale(g: OnnxExporter, site: Site) -> str:
    y = g.add("Mul", site.x.name, _operand(g, site, 0))
    return g.add("Add", y, _operand(g, site, len(site.layer.blobs) - 1, own=True)) \
        if site.param.scale_param.bias_term else y


def _operand(g: OnnxExporter, site: Site, index: int, own: bool = False) -> str:
    """Bottom 1, or a parameter, with axes of 1 appended, so that it meets its axes of bottom 0."""
    layer = site.layer
    if own or len(site.bottoms) == 1:
        rank = len(layer.blobs[index].shape)
        return g.weight(layer, index, ones=site.x.rank - layer.first - rank if rank else 0)
    operand = site.bottoms[1]
    ones = site.x.rank - layer.first - operand.rank if operand.rank else 0
    if not ones:
        return operand.name
    return g.add("Unsqueeze", operand.name, g.ints(*range(operand.rank, operand.rank + ones)))


@exports("Axpy")
def axpy(g: OnnxExporter, site: Site) -> str:
    a, x, y = site.bottoms
    factor = a.name if a.rank == x.rank else g.reshape(a.name, [0, 0] + [1] * (x.rank - 2))
    return g.add("Add", g.add("Mul", x.name, factor), y.name)


# --- normalisation

@exports("BatchNorm")
def batch_norm(g: OnnxExporter, site: Site) -> str:
    layer, x, eps = site.layer, site.x, site.layer.eps
    channels = layer.blobs[0].shape
    learned = [values(blob) for blob in layer.blobs[3:]]
    gamma, beta = learned + [np.ones(channels), np.zeros(channels)][len(learned):]
    if layer.uses_batch_statistics:
        axes = [axis for axis in range(x.rank) if axis != 1]
        centred, spread = _moments(g, x.name, axes)
        y = g.add("Div", centred, g.add("Sqrt", g.scaled(spread, 1, eps)))
        return _affine(g, y, gamma, beta, x.rank) if learned else y
    mean, variance = means(*(values(blob).astype(np.float64) for blob in layer.blobs[:3]))
    if x.rank < 2:
        factor = gamma / np.sqrt(variance + eps)
        return _affine(g, x.name, factor, beta - mean * factor, 1)
    affine = [g.weight(layer, 3 + i, name=name) if i < len(learned) else g.const(array)
              for i, (name, array) in enumerate((("gamma", gamma), ("beta", beta)))]
    statistics = [g.weight(layer, i, name=name, array=array)
                  for i, (name, array) in enumerate((("mean", mean), ("variance", variance)))]
    return g.add("BatchNormalization", x.name, *affine, *statistics, epsilon=eps)


def _affine(g: OnnxExporter, x: str, factor: np.ndarray, summand: np.ndarray, rank: int) -> str:
    """factor * x + summand per channel (axis 1, or a single channel if there is one axis only)."""
    shape = (-1, *[1] * (rank - 2))
    return g.add("Add", g.add("Mul", x, g.const(factor.reshape(shape))), g.const(summand.reshape(shape)))


def _moments(g: OnnxExporter, x: str, axes: list[int]) -> tuple[str, str]:
    """x less its mean over some axes, and the variance."""
    centred = g.add("Sub", x, g.reduce("ReduceMean", x, axes))
    return centred, g.reduce("ReduceMean", g.add("Mul", centred, centred), axes)


@exports("MVN")
def mvn(g: OnnxExporter, site: Site) -> str:
    p, x, rank = site.param.mvn_param, site.x.name, site.tops[0].rank
    if rank > site.x.rank:
        x = g.reshape(x, [0] * site.x.rank + [1] * (rank - site.x.rank))
    centred, variance = _moments(g, x, list(range(1 if p.across_channels else 2, rank)))
    if not p.normalize_variance:
        return centred
    return g.add("Div", centred, g.scaled(g.add("Sqrt", variance), 1, p.eps))


@exports("Normalize")
def normalize(g: OnnxExporter, site: Site) -> str:
    x, rank = site.x.name, site.x.rank
    axes = list(range(1, rank)) if site.layer.across else [1]
    squares = g.reduce("ReduceSum", g.add("Mul", x, x), axes)
    y = g.add("Div", x, g.add("Sqrt", g.scaled(squares, 1, site.layer.eps)))
    return g.add("Mul", y, g.weight(site.layer, 0, ones=rank - 2))


@exports("LRN")
def lrn(g: OnnxExporter, site: Site) -> str:
    x, (size, alpha, beta, *k) = site.x, site.layer.numbers
    if not site.layer.within:
        flat = x.name if x.rank == 4 else g.reshape(x.name, [0, 0, 1, -1])      # onnxruntime takes 4 axes only
        y = g.add("LRN", flat, size=size, alpha=alpha, beta=beta, bias=k[0])
        return y if x.rank == 4 else g.reshape(y, [g.size(x, axis) for axis in range(x.rank)])
    # the mean over size x size with zeros around is the sum over the window / size^2, at the border too
    mean = g.add("AveragePool", g.add("Mul", x.name, x.name), kernel_shape=[size, size], strides=[1, 1],
                 pads=[size // 2] * 4, count_include_pad=1)
    return g.add("Div", x.name, g.add("Pow", g.scaled(mean, alpha, 1.0), g.const(beta)))
