"""Layers with weights, activation functions and normalisation as ONNX operators."""
from typing import Any

import numpy as np

from spp.convert.onnx.export.graph import Graph, Site, TensorProto, Value, emits, values
from spp.errors import ConvertError
from spp.layers.elementwise import log_of_base


# --- convolution and inner product

@emits("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution", "Deconvolution")
def convolution(g: Graph, site: Site) -> list[str]:
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


def _by_image(g: Graph, x: Value, axis: int, op: str, *weights: str, **attributes: Any) -> str:
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


@emits("Im2col")
def im2col(g: Graph, site: Site) -> str:
    """A convolution of each channel with kernels that have a 1 at one tap."""
    layer, channels = site.layer, site.x.shape[site.layer.axis]
    kernel, stride, pad, dilation = layer.geometry
    if channels is None or not kernel:
        raise ConvertError("needs a fixed number of channels, and a spatial axis or more")
    taps = int(np.prod(kernel))
    weight = np.tile(np.eye(taps, dtype=np.float32).reshape(taps, 1, *kernel), (channels, *[1] * (len(kernel) + 1)))
    return _by_image(g, site.x, layer.axis, "Conv", g.const(weight), kernel_shape=kernel, strides=stride,
                     pads=[*pad, *pad], dilations=dilation, group=channels)


@emits("InnerProduct")
def inner_product(g: Graph, site: Site) -> str:
    layer, x = site.layer, site.x.name
    bias = g.weight(layer, 1) if len(layer.blobs) > 1 else None
    if layer.axis == 1:
        if site.x.rank != 2:
            x = g.add("Flatten", x, axis=1)
        return g.add("Gemm", x, g.weight(layer, 0), *([bias] if bias else []), transB=int(not layer.transpose))
    if site.x.rank != layer.axis + 1:
        x = g.reshape(x, [0] * layer.axis + [layer.inputs])
    weight = g.weight(layer, 0, lambda array: array if layer.transpose else array.T)
    return g.linear(x, weight, bias)


@emits("Embed")
def embed(g: Graph, site: Site) -> str:
    y = g.add("Gather", g.weight(site.layer, 0), g.add("Cast", site.x.name, to=TensorProto.INT64), axis=0)
    return g.add("Add", y, g.weight(site.layer, 1)) if len(site.layer.blobs) > 1 else y


# --- activation functions

ALONE = {"TanH": "Tanh", "Sigmoid": "Sigmoid", "AbsVal": "Abs", "BNLL": "Softplus"}


@emits(*ALONE)
def elementwise(g: Graph, site: Site) -> str:
    return g.add(ALONE[site.layer.type], site.x.name)


@emits("ReLU")
def relu(g: Graph, site: Site) -> str:
    slope = site.layer.slope
    return g.add("LeakyRelu", site.x.name, alpha=slope) if slope else g.add("Relu", site.x.name)


@emits("ReLU6")
def relu6(g: Graph, site: Site) -> str:
    if not site.layer.slope:
        return g.add("Clip", site.x.name, g.const(0.0), g.const(6.0))
    return g.add("Min", g.add("LeakyRelu", site.x.name, alpha=site.layer.slope), g.const(6.0))


@emits("PReLU")
def prelu(g: Graph, site: Site) -> str:
    rank = site.x.rank
    return g.add("PRelu", site.x.name, g.weight(site.layer, 0, lambda slope: slope.reshape(
        slope.shape + (1,) * (rank - 2 if slope.ndim else 0))))


@emits("ELU")
def elu(g: Graph, site: Site) -> str:
    return g.add("Elu", site.x.name, alpha=site.param.elu_param.alpha)


@emits("Swish")
def swish(g: Graph, site: Site) -> str:
    return g.add("Mul", site.x.name, g.add("Sigmoid", g.scaled(site.x.name, site.param.swish_param.beta)))


@emits("Clip")
def clip(g: Graph, site: Site) -> str:
    return g.add("Clip", site.x.name, *map(g.const, site.layer.limits))


@emits("Threshold")
def threshold(g: Graph, site: Site) -> str:
    above = g.add("Greater", site.x.name, g.const(site.param.threshold_param.threshold))
    return g.add("Cast", above, to=TensorProto.FLOAT)


@emits("Exp")
def exponential(g: Graph, site: Site) -> str:
    p = site.param.exp_param
    log_base = log_of_base(p.base)
    return g.add("Exp", g.scaled(site.x.name, log_base * p.scale, log_base * p.shift))


@emits("Log")
def logarithm(g: Graph, site: Site) -> str:
    p = site.param.log_param
    return g.scaled(g.add("Log", g.scaled(site.x.name, p.scale, p.shift)), 1 / log_of_base(p.base))


@emits("Power")
def power(g: Graph, site: Site) -> str:
    p = site.param.power_param
    if p.power * p.scale == 0:
        value = np.float32(1.0 if p.power == 0 else p.shift ** p.power)
        return g.add("Expand", g.const(value), g.add("Shape", site.x.name))
    y = g.scaled(site.x.name, p.scale, p.shift)
    return g.add("Pow", y, g.const(p.power)) if p.power != 1 else y


@emits("Dropout")
def dropout(g: Graph, site: Site) -> str:
    ratio = site.layer.ratio
    if not site.layer.scale_train:
        return g.scaled(site.x.name, 1 - ratio)
    return g.add("Dropout", site.x.name, g.const(ratio))


@emits("Softmax")
def softmax(g: Graph, site: Site) -> str:
    return g.add("Softmax", site.x.name, axis=site.layer.axis)


# --- several bottoms

@emits("Eltwise")
def eltwise(g: Graph, site: Site) -> str:
    terms = [bottom.name for bottom in site.bottoms]
    if site.layer.operation == "MAX":
        return g.add("Max", *terms)
    if site.layer.operation == "SUM":
        terms = [g.scaled(term, coeff) for term, coeff in zip(terms, site.layer.coeffs)]
    total = terms[0]
    for term in terms[1:]:
        total = g.add("Add" if site.layer.operation == "SUM" else "Mul", total, term)
    return total


@emits("Scale")
def scale(g: Graph, site: Site) -> str:
    y = g.add("Mul", site.x.name, _operand(g, site, 0))
    return g.add("Add", y, _operand(g, site, len(site.layer.blobs) - 1, own=True)) \
        if site.param.scale_param.bias_term else y


@emits("Bias")
def bias(g: Graph, site: Site) -> str:
    return g.add("Add", site.x.name, _operand(g, site, 0))


def _operand(g: Graph, site: Site, index: int, own: bool = False) -> str:
    """Bottom 1, or a parameter, with axes of 1 appended, so that it meets its axes of bottom 0."""
    layer = site.layer
    if own or len(site.bottoms) == 1:
        rank = len(layer.blobs[index].shape)
        behind = site.x.rank - layer.first - rank if rank else 0
        return g.weight(layer, index, lambda array: array.reshape(array.shape + (1,) * behind))
    operand = site.bottoms[1]
    behind = site.x.rank - layer.first - operand.rank if operand.rank else 0
    if not behind:
        return operand.name
    return g.add("Unsqueeze", operand.name, g.ints(*range(operand.rank, operand.rank + behind)))


@emits("Axpy")
def axpy(g: Graph, site: Site) -> str:
    a, x, y = site.bottoms
    factor = a.name if a.rank == x.rank else g.reshape(a.name, [0, 0] + [1] * (x.rank - 2))
    return g.add("Add", g.add("Mul", x.name, factor), y.name)


# --- normalisation

@emits("BatchNorm")
def batch_norm(g: Graph, site: Site) -> str:
    layer, x, eps = site.layer, site.x, site.layer.eps
    channels = layer.blobs[0].shape
    learned = [values(blob) for blob in layer.learned]
    gamma, beta = learned + [np.ones(channels), np.zeros(channels)][len(learned):]
    if layer.uses_batch_statistics:
        axes = [axis for axis in range(x.rank) if axis != 1]
        centred, spread = _moments(g, x.name, axes)
        y = g.add("Div", centred, g.add("Sqrt", g.scaled(spread, 1, eps)))
        return _affine(g, y, gamma, beta, x.rank) if learned else y
    weight = float(values(layer.blobs[2])[0])
    factor = 1 / weight if weight else 0
    mean, variance = (values(blob).astype(np.float64) * factor for blob in layer.blobs[:2])
    if x.rank < 2:
        factor = gamma / np.sqrt(variance + eps)
        return _affine(g, x.name, factor, beta - mean * factor, 1)
    stored = [g.const(array, name=f"{layer.name}.{what}") for what, array in
              (("gamma", gamma), ("beta", beta), ("mean", mean), ("variance", variance))]
    return g.add("BatchNormalization", x.name, *stored, epsilon=eps)


def _affine(g: Graph, x: str, factor: np.ndarray, summand: np.ndarray, rank: int) -> str:
    """factor * x + summand, each of one number a channel (axis 1, or one channel alone where there is one axis)."""
    shape = (-1, *[1] * (rank - 2))
    return g.add("Add", g.add("Mul", x, g.const(factor.reshape(shape))), g.const(summand.reshape(shape)))


def _moments(g: Graph, x: str, axes: list[int]) -> tuple[str, str]:
    """x less its mean over some axes, and the variance."""
    centred = g.add("Sub", x, g.add("ReduceMean", x, axes=axes, keepdims=1))
    return centred, g.add("ReduceMean", g.add("Mul", centred, centred), axes=axes, keepdims=1)


@emits("MVN")
def mvn(g: Graph, site: Site) -> str:
    p, x, rank = site.param.mvn_param, site.x.name, site.tops[0].rank
    if rank > site.x.rank:
        x = g.reshape(x, [0] * site.x.rank + [1] * (rank - site.x.rank))
    centred, variance = _moments(g, x, list(range(1 if p.across_channels else 2, rank)))
    if not p.normalize_variance:
        return centred
    return g.add("Div", centred, g.scaled(g.add("Sqrt", variance), 1, p.eps))


@emits("Normalize")
def normalize(g: Graph, site: Site) -> str:
    x, rank = site.x.name, site.x.rank
    axes = list(range(1, rank)) if site.layer.across else [1]
    squares = g.add("ReduceSum", g.add("Mul", x, x), g.ints(*axes), keepdims=1)
    y = g.add("Div", x, g.add("Sqrt", g.scaled(squares, 1, site.layer.eps)))
    return g.add("Mul", y, g.weight(site.layer, 0, lambda array: array.reshape(-1, *[1] * (rank - 2))))


@emits("LRN")
def lrn(g: Graph, site: Site) -> str:
    x, (size, alpha, beta, *k) = site.x, site.layer.numbers
    if not site.layer.within:
        flat = x.name if x.rank == 4 else g.reshape(x.name, [0, 0, 1, -1])      # onnxruntime takes 4 axes only
        y = g.add("LRN", flat, size=size, alpha=alpha, beta=beta, bias=k[0])
        return y if x.rank == 4 else g.reshape(y, [g.size(x, axis) for axis in range(x.rank)])
    # the mean over size x size with zeros around is the sum over the window / size^2, at the border too
    mean = g.add("AveragePool", g.add("Mul", x.name, x.name), kernel_shape=[size, size], strides=[1, 1],
                 pads=[size // 2] * 4, count_include_pad=1)
    return g.add("Div", x.name, g.add("Pow", g.scaled(mean, alpha, 1.0), g.const(beta)))
