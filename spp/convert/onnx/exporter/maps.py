"""Pooling and spatial pyramids, over maps of any height and width, as ONNX operators."""
from typing import Any

import numpy as np

from spp.convert.onnx.exporter.context import OnnxExporter, Site, Size, exports

REDUCE = {"MAX": "ReduceMax", "AVE": "ReduceMean"}


@exports("Pooling")
def pooling(g: OnnxExporter, site: Site) -> str | list[str]:
    layer, x = site.layer, site.x
    if layer.kernel is None:
        if len(site.tops) == 1 and layer.method != "STOCHASTIC":
            return g.add("GlobalMaxPool" if layer.method == "MAX" else "GlobalAveragePool", x.name)
        if any(size is None for size in x.shape[2:]):
            return _global(g, site)
    kernel = x.shape[2:] if layer.kernel is None else layer.kernel
    if layer.method == "MAX":
        return _max_pooling(g, site, kernel)
    if layer.method == "AVE":
        return _average(g, site, x.name, kernel)
    return _expected(g, x.name, lambda values: _average(g, site, values, kernel))


def _global(g: OnnxExporter, site: Site) -> str | list[str]:
    """Global pooling of a map whose size varies: MAX with a second top, or STOCHASTIC in testing."""
    x = site.x
    if site.layer.method == "STOCHASTIC":
        return _expected(g, x.name, lambda values: g.add("GlobalAveragePool", values))
    flat = g.reshape(x.name, [0, 0, -1])
    place = g.add("Cast", g.add("ArgMax", flat, axis=2, keepdims=1), to=1)
    return [g.add("GlobalMaxPool", x.name), g.reshape(place, [0, 0] + [1] * (x.rank - 2))]


def _expected(g: OnnxExporter, x: str, average: Any) -> str:
    """sum x^2 / sum x of each window, or 0 if all values are 0."""
    total = average(x)
    empty = g.add("Equal", total, g.const(0.0))
    return g.add("Div", average(g.add("Mul", x, x)), g.add("Where", empty, g.const(1.0), total))


def _max_pooling(g: OnnxExporter, site: Site, kernel: Any) -> str | list[str]:
    layer, x = site.layer, site.x
    attributes = dict(kernel_shape=kernel, strides=layer.stride, pads=[*layer.pad, *layer.pad],
                      ceil_mode=int(layer.ceil))
    if len(site.tops) == 1:
        return _clipped(g, site, kernel, g.add("MaxPool", x.name, **attributes))
    y, place = g.add_many("MaxPool", 2, x.name, **attributes)
    plane: Size = 1
    for axis in range(2, x.rank):
        plane = g.compute("Mul", plane, g.size(x, axis))
    within = g.add("Mod", place, plane if isinstance(plane, str) else g.ints(plane))    # ONNX counts over the batch
    return [_clipped(g, site, kernel, part) for part in (y, g.add("Cast", within, to=1))]


def _average(g: OnnxExporter, site: Site, x: str, kernel: Any) -> str:
    """Average pooling; the divisor of a window counts the padding, but not elements outside the padded map."""
    layer = site.layer
    attributes = dict(kernel_shape=kernel, strides=layer.stride)
    if not layer.ceil or all(stride == 1 for stride in layer.stride):
        return g.add("AveragePool", x, pads=[*layer.pad, *layer.pad], count_include_pad=1, **attributes)
    if any(layer.pad):
        x = g.add("Pad", x, g.ints(0, 0, *layer.pad, 0, 0, *layer.pad))
    return _clipped(g, site, kernel, g.add("AveragePool", x, ceil_mode=1, count_include_pad=0, **attributes))


def _clipped(g: OnnxExporter, site: Site, kernel: Any, y: str) -> str:
    """y without the windows that start outside the map and its left padding; Caffe drops them if there is padding."""
    layer, x = site.layer, site.x
    axes = [axis for axis, (k, s, p) in enumerate(zip(kernel, layer.stride, layer.pad), 2)
            if layer.ceil and any(layer.pad) and p + s > k]
    if not axes:
        return y
    strides, pads = ([numbers[axis - 2] for axis in axes] for numbers in (layer.stride, layer.pad))
    ends = [g.compute("Div", g.compute("Add", g.size(x, axis), pad + stride - 1), stride)
            for axis, pad, stride in zip(axes, pads, strides)]
    return g.slice(y, axes, [0] * len(axes), ends)


# --- spatial pyramid

@exports("SPP")
def spp(g: OnnxExporter, site: Site) -> str:
    p = site.param.spp_param
    if p.bins:
        levels = [_level(g, site, n) for n in p.bins]
    else:
        levels = [_level(g, site, 2 ** i, padded=True) for i in range(p.pyramid_height)]
        if p.pyramid_height == 1:
            return levels[0]
    return g.concat([g.add("Flatten", level, axis=1) for level in levels], 1)


def _level(g: OnnxExporter, site: Site, n: int, padded: bool = False) -> str:
    """n x n bins of the map: the rows are reduced first, then the columns.

    The map's size is fixed for bins by SLIDING.
    """
    x, method = site.x, site.layer.method
    y = x.name
    if n == 1:
        return g.add("GlobalMaxPool" if method == "MAX" else "GlobalAveragePool", y)
    for axis in (2, 3):
        size = g.size(x, axis)
        if padded:
            window = g.compute("Div", g.compute("Add", size, n - 1), n)
            starts, ends = _padded_bins(g, size, window, n)
        elif site.layer.rule == "SLIDING":
            starts, ends = _sliding_bins(size, n)
        else:
            starts, ends = _bins(g, size, n)
        total = padded and method == "AVE"      # its divisor counts the padding
        y = _over(g, y, axis, starts, ends, "ReduceSum" if total else REDUCE[method], n)
        if total:
            y = g.add("Div", y, g.real(window))
    return y


def _bins(g: OnnxExporter, size: Size, n: int) -> tuple[Any, Any]:
    """Appendix A: bin i from floor(i a / n) to ceil((i + 1) a / n)."""
    index = np.arange(n)
    starts = g.compute("Div", g.compute("Mul", index, size), n)
    return starts, g.compute("Div", g.compute("Add", g.compute("Mul", index + 1, size), n - 1), n)


def _sliding_bins(size: Size, n: int) -> tuple[Any, Any]:
    assert isinstance(size, int), "sizes do not vary with bin_rule SLIDING"
    starts = np.arange(n) * (size // n)
    return starts, starts - (-size // n)


def _padded_bins(g: OnnxExporter, size: Size, window: Size, n: int) -> tuple[Any, Any]:
    """Caffe's pyramid_height: adjacent windows; half of the total padding is before the map."""
    total = g.compute("Sub", g.compute("Mul", window, n), size)
    starts = g.compute("Sub", g.compute("Mul", np.arange(n), window), g.compute("Div", g.compute("Add", total, 1), 2))
    return g.compute("Max", starts, 0), g.compute("Min", g.compute("Add", starts, window), size)


def _over(g: OnnxExporter, x: str, axis: int, starts: Any, ends: Any, reduce: str, n: int) -> str:
    """Reduce each of n parts of an axis to one element."""
    return g.concat([g.reduce(reduce, g.slice(x, [axis], [start], [end]), [axis])
                     for start, end in zip(_each(g, starts, n), _each(g, ends, n))], axis)


def _each(g: OnnxExporter, numbers: Any, n: int) -> list[Size]:
    """The elements of an array of n sizes."""
    return [*g.add_many("Split", n, numbers, axis=0)] if isinstance(numbers, str) else [int(v) for v in numbers]
