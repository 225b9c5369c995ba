"""Layers that move, cut, join, pick and count values, as ONNX operators."""
import numpy as np

from spp.convert.onnx.exporter.context import END, OnnxExporter, Site, Size, TensorProto, exports
from spp.errors import ConvertError
from spp.layers.base import canonical_axis


@exports("DummyData")
def dummy_data(g: OnnxExporter, site: Site) -> list[str]:
    if site.layer.refilled:
        raise ConvertError("what it makes is random; replace it by an Input")
    return [g.const(np.full(top.shape, filler.value)) for filler, top in zip(site.layer.fillers, site.tops)]


# --- other axes

@exports("Flatten")
def flatten(g: OnnxExporter, site: Site) -> str:
    p, x = site.param.flatten_param, site.x
    first, last = canonical_axis(p.axis, x.rank), canonical_axis(p.end_axis, x.rank)
    if first == 1 and last == x.rank - 1:
        return g.add("Flatten", x.name, axis=1)
    return g.reshape(x.name, [0] * first + [-1] + _sizes(g, site, last + 1))


@exports("Reshape")
def reshape(g: OnnxExporter, site: Site) -> str:
    p, x = site.param.reshape_param, site.x
    first = p.axis if p.axis >= 0 else x.rank + p.axis + 1
    last = x.rank if p.num_axes == -1 else first + p.num_axes
    return g.reshape(x.name, [0] * first + list(p.shape.dim) + _sizes(g, site, last))


def _sizes(g: OnnxExporter, site: Site, first: int) -> list[Size]:
    """The bottom's sizes from an axis on."""
    return [g.size(site.x, axis) for axis in range(first, site.x.rank)]


@exports("ShuffleChannel")
def shuffle_channel(g: OnnxExporter, site: Site) -> str:
    x, group = site.x, site.layer.group
    size = g.compute("Div", g.size(x, 1), group)
    deep = g.add("Transpose", g.reshape(x.name, [0, group, size, -1]), perm=[0, 2, 1, 3])
    return g.add("Reshape", deep, g.vector([g.size(x, axis) for axis in range(x.rank)]))


@exports("Reorg")
def reorg(g: OnnxExporter, site: Site) -> str:
    s, (n, c, h, w) = site.layer.stride, (g.size(site.x, axis) for axis in range(4))
    few = g.compute("Div", c, s * s)
    if site.layer.reverse:
        wide = g.add("Transpose", g.reshape(site.x.name, [n, s, s, few, h, w]), perm=[0, 3, 4, 1, 5, 2])
        return g.reshape(wide, [n, few, g.compute("Mul", h, s), g.compute("Mul", w, s)])
    deep = g.add("Transpose", g.reshape(site.x.name, [n, few, h, s, w, s]), perm=[0, 3, 5, 1, 2, 4])
    return g.reshape(deep, [n, g.compute("Mul", c, s * s), g.compute("Div", h, s), g.compute("Div", w, s)])


# --- joined and cut

@exports("Slice")
def slice_(g: OnnxExporter, site: Site) -> str | list[str]:
    axis, count = site.layer.axis, len(site.tops)
    points = list(site.param.slice_param.slice_point)
    if count == 1:
        return site.x.name
    if not points:
        return g.add_many("Split", count, site.x.name, axis=axis)
    size = site.x.shape[axis]
    if size is not None:
        ends = [0, *points, size]
        return g.add_many("Split", count, site.x.name, g.ints(*np.diff(ends)), axis=axis)
    return [g.slice(site.x.name, [axis], [start], [end]) for start, end in zip([0, *points], [*points, END])]


@exports("Crop")
def crop(g: OnnxExporter, site: Site) -> str:
    data, reference = site.bottoms
    axes = range(canonical_axis(site.param.crop_param.axis, data.rank), data.rank)
    offsets = site.layer.offsets[axes[0]:]
    ends = [g.compute("Add", g.size(reference, axis), offset) for axis, offset in zip(axes, offsets)]
    return g.slice(data.name, axes, offsets, ends)


# --- picked

@exports("Filter")
def filter_(g: OnnxExporter, site: Site) -> list[str]:
    *data, selector = site.bottoms
    rows = g.reshape(g.add("NonZero", g.reshape(selector.name, [-1])), [-1])
    return [g.add("Gather", bottom.name, rows, axis=0) for bottom in data]


@exports("ArgMax")
def arg_max(g: OnnxExporter, site: Site) -> str:
    p, x = site.param.argmax_param, site.x
    if p.HasField("axis"):
        return _largest(g, x.name, canonical_axis(p.axis, x.rank), p.top_k)[int(p.out_max_val)]
    largest = _largest(g, g.add("Flatten", x.name, axis=1), 1, p.top_k)
    rows = [g.add("Unsqueeze", part, g.ints(1)) for part in largest[:2 if p.out_max_val else 1]]
    y = g.concat(rows, 1)
    more = site.tops[0].rank - 3
    return g.add("Unsqueeze", y, g.ints(*range(3, 3 + more))) if more > 0 else y


def _largest(g: OnnxExporter, x: str, axis: int, count: int) -> tuple[str, str]:
    """Indices (as floats) and values; x is reversed, since among equal values TopK takes the first, Caffe the last."""
    reversed_ = g.slice(x, [axis], [-1], [np.iinfo(np.int64).min], [-1])
    values, indices = g.add_many("TopK", 2, reversed_, g.ints(count), axis=axis)
    last = g.add("Sub", g.add("Shape", x, start=axis, end=axis + 1), g.ints(1))
    return g.add("Cast", g.add("Sub", last, indices), to=TensorProto.FLOAT), values


REDUCTIONS = {"SUM": "ReduceSum", "ASUM": "ReduceL1", "SUMSQ": "ReduceSumSquare", "MEAN": "ReduceMean"}


@exports("Reduction")
def reduction(g: OnnxExporter, site: Site) -> str:
    axes = range(site.tops[0].rank, site.x.rank)
    return g.scaled(g.reduce(REDUCTIONS[site.layer.operation], site.x.name, axes, keepdims=0), site.layer.coeff)
