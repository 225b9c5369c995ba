"""ONNX operators of maps: convolution, pooling, padding, normalisation, resizing."""
from typing import Any, Sequence

import numpy as np

from spp.backend.types import Geometry
from spp.convert.net_builder import convolution_param
from spp.convert.onnx.importer.context import OnnxImporter, imports
from spp.convert.onnx.importer.graph import attributes, node_error
from spp.ops.pooling import output_size


class Window:
    """Kernel, stride, dilation and padding (before and after) of a node, including those of a Pad before it."""

    def __init__(self, importer: OnnxImporter, node: Any, kernel: Sequence[int],
                 fills: Sequence[float] = (0.0,)) -> None:
        attrs = attributes(node)
        self.kernel = [int(k) for k in kernel]
        axes = len(self.kernel)
        self.stride = list(attrs.get("strides", [1] * axes))
        self.dilation = list(attrs.get("dilations", [1] * axes))
        self.ceil = bool(attrs.get("ceil_mode", 0))
        self.source = node.input[0]
        self.pads = np.array(attrs.get("pads", [0] * 2 * axes)).reshape(2, axes)
        self.merged = self.source in importer.pads
        if self.merged:
            self.source, more, fill = importer.pads[self.source]
            if fill not in fills or (more[:, :2] != 0).any() or (more < 0).any():
                raise node_error(node, f"the Pad before it, with {fill:g}, cannot become its padding")
            self.pads = self.pads + more[:, 2:]
        self.sizes = importer.shape(self.source)[2:]
        auto = attrs.get("auto_pad", "NOTSET")
        if auto.startswith("SAME"):
            outputs = [-(-size // s) for size, s in zip(self.sizes, self.stride)]
            total = [max(0, (o - 1) * s + d * (k - 1) + 1 - size) for o, s, d, k, size in zip(
                outputs, self.stride, self.dilation, self.kernel, self.sizes)]
            smaller = [t // 2 for t in total]
            larger = [t - half for t, half in zip(total, smaller)]
            self.pads = np.array([smaller, larger] if auto == "SAME_UPPER" else [larger, smaller])

    def count(self, pads: Sequence[Sequence[int]], ceil: bool) -> list[int]:
        """The number of windows along each axis with this padding."""
        lengths = [size + before + after - d * (k - 1) - 1 for size, before, after, d, k in zip(
            self.sizes, *pads, self.dilation, self.kernel)]
        return [(-(-length // s) if ceil else length // s) + 1 for length, s in zip(lengths, self.stride)]

    def geometry(self, pad: Sequence[int], group: int) -> Geometry:
        return Geometry(tuple(self.kernel), tuple(self.stride), tuple(pad), tuple(self.dilation), group)

    @property
    def even(self) -> bool:
        """Whether the padding is the same before and after."""
        return bool((self.pads[0] == self.pads[1]).all())

    def symmetric_pad(self, importer: OnnxImporter, node: Any) -> list[int]:
        """A padding for both sides that gives the same windows; raises ConvertError if there is none."""
        before = self.pads[0].tolist()
        if self.even or (importer.fixed or not importer.others) and self.count([before, before], False) == self.count(
                self.pads.tolist(), False):
            return before
        raise node_error(node, f"pads {self.pads.ravel().tolist()} differ before and after, and Caffe pads both sides "
                               "alike")


@imports("Conv")
def conv(importer: OnnxImporter, node: Any) -> None:
    weights = importer.weights(node)
    window = Window(importer, node, weights[0].shape[2:])
    geometry = window.geometry(window.symmetric_pad(importer, node), attributes(node).get("group", 1))
    importer.add("Convolution", node, [importer.blob(window.source, node)], weights=weights,
                 convolution_param=convolution_param(len(weights[0]), geometry, len(weights) > 1))


@imports("ConvTranspose")
def conv_transpose(importer: OnnxImporter, node: Any) -> None:
    attrs, weights = attributes(node), importer.weights(node)
    for name in ("output_padding", "output_shape"):
        if any(attrs.get(name, [])):
            raise node_error(node, f"Caffe's Deconvolution has no {name}")
    window = Window(importer, node, weights[0].shape[2:], fills=())
    if not window.even or attrs.get("auto_pad", "NOTSET") != "NOTSET":
        raise node_error(node, "its padding differs before and after, and Caffe pads both sides alike")
    geometry = window.geometry(window.pads[0].tolist(), attrs.get("group", 1))
    outputs = weights[0].shape[1] * geometry.group
    importer.add("Deconvolution", node, [importer.blob(window.source, node)], weights=weights,
                 convolution_param=convolution_param(outputs, geometry, len(weights) > 1))


@imports("MaxPool", "AveragePool")
def pooling(importer: OnnxImporter, node: Any) -> None:
    attrs, is_max = attributes(node), node.op_type == "MaxPool"
    if len(node.output) > 1 and importer.readers[node.output[1]]:
        raise node_error(node, "its second output, Indices, counts over the whole batch, Caffe's second top over one "
                               "plane")
    source = importer.folded.producer.get(importer.pads[node.input[0]][0] if node.input[0] in importer.pads else "")
    not_negative = source is not None and source.op_type in ("Relu", "Sigmoid")
    fills = [-np.inf, float(np.finfo(np.float32).min)] + [0.0] * not_negative if is_max else [0.0]
    window = Window(importer, node, attrs["kernel_shape"], fills)
    if any(d != 1 for d in window.dilation):
        raise node_error(node, f"Caffe's Pooling has no dilations, found {window.dilation}")
    counts_zeros = attrs.get("count_include_pad", 0) or window.merged and not any(attrs.get("pads", []))
    if not is_max and window.pads.any() and not counts_zeros:
        raise node_error(node, "its average leaves the padding out (count_include_pad 0), Caffe's counts it")
    importer.add("Pooling", node, [importer.blob(window.source, node)],
                 pooling_param={"pool": 0 if is_max else 1, **_pooling_geometry(importer, node, window, is_max)})


def _pooling_geometry(importer: OnnxImporter, node: Any, window: Window, is_max: bool) -> dict[str, Any]:
    """Kernel, stride, pad and rounding. Uneven padding: rounding up may make the same windows."""
    pad, ceil = window.pads[0].tolist(), window.ceil
    if not window.even:
        counts = window.count(window.pads.tolist(), ceil)
        exact = [up for up in (False, True) if window.count([pad, pad], up) == counts]
        if importer.others and not importer.fixed or not exact or not is_max:
            window.symmetric_pad(importer, node)
        ceil = exact[0]
    elif window.count([pad, pad], True) == window.count([pad, pad], False) and (
            not importer.others or all(s == 1 for s in window.stride)):
        ceil = True         # the same windows either way: Caffe's default
    if any(p >= k for p, k in zip(pad, window.kernel)):
        raise node_error(node, f"pads {pad} are not smaller than the kernel {window.kernel}")
    param: dict[str, Any] = {} if ceil else {"round_mode": 1}
    for name, numbers, usual in (("kernel", window.kernel, None), ("stride", window.stride, 1), ("pad", pad, 0)):
        if len(set(numbers)) == 1:
            if numbers[0] != usual:
                param["kernel_size" if name == "kernel" else name] = int(numbers[0])
        elif len(numbers) == 2:
            param[f"{name}_h"], param[f"{name}_w"] = map(int, numbers)
        else:
            raise node_error(node, f"Caffe's Pooling has one {name} for all of {len(numbers)} axes, found "
                                   f"{list(numbers)}")
    return param


def clipped_pooling(importer: OnnxImporter, node: Any) -> bool:
    """Whether a Slice removes only those windows of the pooling before it that Caffe's Pooling does not have."""
    maker = importer.folded.producer.get(node.input[0])
    if maker is None or maker.op_type not in ("MaxPool", "AveragePool") or importer.readers[node.input[0]] != 1:
        return False
    window = Window(importer, maker, attributes(maker)["kernel_shape"], (0.0, -np.inf))
    for folded in [importer.folded, *importer.others]:
        sizes = folded.shape(window.source)[2:]
        counts = tuple(output_size(size, kernel, int(pad), stride, window.ceil, True) for size, kernel, pad, stride
                       in zip(sizes, window.kernel, window.pads[0], window.stride))
        if folded.shape(node.output[0])[2:] != counts:
            return False
    return window.even


@imports("MaxRoiPool")
def roi_pooling(importer: OnnxImporter, node: Any) -> None:
    high, wide = attributes(node)["pooled_shape"]
    importer.add("ROIPooling", node, importer.bottoms(node), roi_pooling_param={
        "pooled_h": high, "pooled_w": wide, "spatial_scale": attributes(node).get("spatial_scale", 1.0)})


@imports("Pad")
def pad_(importer: OnnxImporter, node: Any) -> None:
    """Recorded until a convolution or pooling includes it in its own padding."""
    attrs = attributes(node)
    sizes = attrs.get("pads")
    if sizes is None:
        sizes = importer.const(node.input[1])
    fill = attrs.get("value", 0.0)
    if len(node.input) > 2 and node.input[2]:
        value = importer.const(node.input[2])
        fill = float(value.ravel()[0]) if value is not None else np.nan
    if attrs.get("mode", "constant") != "constant" or sizes is None or len(node.input) > 3 and node.input[3]:
        raise node_error(node, f"mode {attrs.get('mode', 'constant')!r}; only constant padding of all axes can become "
                               "the padding of a layer")
    if np.any(sizes):
        importer.pads[node.output[0]] = node.input[0], np.array(sizes).reshape(2, -1), fill
    else:
        importer.blobs[node.output[0]] = importer.blob(node.input[0], node)


@imports("LRN")
def lrn(importer: OnnxImporter, node: Any) -> None:
    attrs = attributes(node)
    if attrs["size"] % 2 == 0:
        raise node_error(node, f"Caffe's LRN has an odd local_size, found size {attrs['size']}")
    param = {"local_size": attrs["size"], "alpha": attrs.get("alpha", 1e-4), "beta": attrs.get("beta", 0.75)}
    if attrs.get("bias", 1.0) != 1:
        param["k"] = attrs["bias"]
    importer.add("LRN", node, lrn_param=param)


@imports("BatchNormalization")
def batch_normalization(importer: OnnxImporter, node: Any) -> None:
    """BatchNorm, and a Scale unless gamma is 1 and beta is 0."""
    attrs = attributes(node)
    if attrs.get("training_mode", 0) or attrs.get("spatial", 1) != 1 or any(
            importer.readers[name] for name in node.output[1:] if name):
        raise node_error(node, "only the form for inference can be read, with stored statistics")
    gamma, beta, mean, variance = importer.weights(node)
    plain = (gamma == 1).all() and not beta.any()
    between = node.output[0] if plain else importer.within(node)
    importer.add("BatchNorm", node, top=between, weights=[mean, variance, [1.0]],
                 batch_norm_param={"eps": attrs.get("epsilon", 1e-5)})
    if not plain:
        importer.add("Scale", node, [between], weights=[gamma, beta], scale_param={"bias_term": True})


@imports("Resize")
def resize(importer: OnnxImporter, node: Any) -> None:
    attrs = attributes(node)
    shape, target = importer.shape(node.input[0]), importer.shape(node.output[0])
    mode, coordinates = attrs.get("mode", "nearest"), attrs.get("coordinate_transformation_mode", "half_pixel")
    if len(shape) != 4 or shape[:2] != target[:2]:
        raise node_error(node, "only height and width of N x C x H x W can change")
    if mode == "linear" and coordinates == "align_corners" and (importer.fixed or not importer.others):
        importer.add("Interp", node, interp_param={"height": target[2], "width": target[3]})
        return
    floor = coordinates == "asymmetric" and attrs.get("nearest_mode", "round_prefer_floor") == "floor"
    scale = [large // small for large, small in zip(target[2:], shape[2:])]
    if mode == "nearest" and floor and [s * k for s, k in zip(shape[2:], scale)] == list(target[2:]):
        importer.add("Upsample", node, upsample_param={"scale_h": scale[0], "scale_w": scale[1]})
        return
    raise node_error(node, f"mode {mode}, coordinates {coordinates}: Caffe's forks have linear with align_corners to "
                           "a fixed size, and nearest with asymmetric and floor by whole factors")
