"""Resizing of maps, pooling of regions, and priors, as ONNX operators."""
import numpy as np

from spp.convert.onnx.exporter.context import END, OnnxExporter, Site, Size, TensorProto, exports


@exports("Interp")
def interp(g: OnnxExporter, site: Site) -> str:
    p, x = site.param.interp_param, site.x.name
    sizes = [g.compute("Add", g.size(site.x, axis), p.pad_beg + p.pad_end) for axis in (2, 3)]
    if p.pad_beg or p.pad_end:
        x = g.slice(x, [2, 3], [-p.pad_beg] * 2, [p.pad_end or END] * 2)
    if p.HasField("zoom_factor") or p.HasField("shrink_factor"):
        small = [g.compute("Add", g.compute("Div", g.compute("Sub", size, 1), p.shrink_factor), 1) for size in sizes]
        sizes = [g.compute("Sub", g.compute("Mul", size, p.zoom_factor), p.zoom_factor - 1) for size in small]
    else:
        sizes = [p.height, p.width]
    target = g.vector([g.size(site.x, 0), g.size(site.x, 1), *sizes])
    return g.add("Resize", x, "", "", target, mode="linear", coordinate_transformation_mode="align_corners")


@exports("Upsample")
def upsample(g: OnnxExporter, site: Site) -> str:
    p, (high, wide) = site.param.upsample_param, site.layer.scale
    if len(site.bottoms) == 1:
        return g.add("Resize", site.x.name, "", g.const([1, 1, high, wide]), mode="nearest",
                     coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    if p.HasField("upsample_h"):
        sizes: list[Size] = [p.upsample_h, p.upsample_w]
    else:
        less = int(p.pad_out_h), int(p.pad_out_w)
        sizes = [g.compute("Sub", g.compute("Mul", g.size(site.x, axis), scale), cut)
                 for axis, scale, cut in zip((2, 3), (high, wide), less)]
    n, c = g.size(site.x, 0), g.size(site.x, 1)
    empty = g.add("Expand", g.const(0.0), g.vector([n, c, g.compute("Mul", *sizes)]))
    place = g.indices(g.reshape(site.bottoms[1].name, [0, 0, -1]))
    flat = g.add("ScatterElements", empty, place, g.reshape(site.x.name, [0, 0, -1]), axis=2)
    return g.reshape(flat, [n, c, *sizes])


@exports("ROIPooling")
def roi_pooling(g: OnnxExporter, site: Site) -> str:
    rois = site.bottoms[1]
    regions = rois.name if rois.rank == 2 else g.reshape(rois.name, [-1, 5])
    return g.add("MaxRoiPool", site.x.name, regions, pooled_shape=site.layer.pooled, spatial_scale=site.layer.scale)


@exports("PSROIPooling")
def position_sensitive(g: OnnxExporter, site: Site) -> str:
    """Means over bins, as differences of sums over all pixels above and to the left, in double precision."""
    outputs, group = site.layer.outputs, site.layer.group
    rois = g.reshape(site.bottoms[1].name, [-1, 5])
    total = g.add("Cast", g.add("Pad", site.x.name, g.ints(0, 0, 1, 1, 0, 0, 0, 0)), to=TensorProto.DOUBLE)
    for axis in (2, 3):
        total = g.add("CumSum", total, g.const(axis, np.int64))
    index = g.indices(g.slice(rois, [1], [0], [1]))
    shape = g.vector([g.add("Shape", rois, start=0, end=1), outputs, group, group])
    channel = np.arange(outputs)[:, None, None] * group ** 2 + np.arange(group ** 2).reshape(group, group)
    image = g.reshape(index, [-1, 1, 1, 1])
    rows, columns = (_group_bins(g, site, rois, axis) for axis in (2, 3))

    def corner(row: str, column: str) -> str:
        parts = [image, g.const(channel[None], np.int64), row, column]
        return g.add("GatherND", total, g.concat(
            [g.add("Unsqueeze", g.add("Expand", part, shape), g.ints(4)) for part in parts], 4))

    (top, bottom), (left, right) = rows, columns
    inside = g.add("Sub", g.add("Sub", corner(bottom, right), corner(top, right)),
                   g.add("Sub", corner(bottom, left), corner(top, left)))
    area = g.add("Mul", g.add("Sub", bottom, top), g.add("Sub", right, left))
    area = g.add("Cast", g.add("Max", area, g.ints(1)), to=TensorProto.DOUBLE)       # nothing is inside an empty bin
    return g.add("Cast", g.add("Div", inside, area), to=TensorProto.FLOAT)


def _group_bins(g: OnnxExporter, site: Site, rois: str, axis: int) -> tuple[str, str]:
    """First row (or column) of each bin, and last + 1: R x 1 x bins x 1 (or R x 1 x 1 x bins)."""
    group, scale, column = site.layer.group, site.layer.scale, 4 - axis
    corners = []
    for which in (column, column + 2):
        wide = g.add("Cast", g.slice(rois, [1], [which], [which + 1]), to=TensorProto.DOUBLE)
        up = g.add("Floor", g.add("Add", g.add("Abs", wide), g.const(0.5, np.float64)))     # halves away from zero
        corners.append(g.add("Cast", g.add("Mul", up, g.add("Sign", wide)), to=TensorProto.FLOAT))
    start = g.scaled(corners[0], scale)
    end = g.scaled(g.scaled(corners[1], 1, 1.0), scale)
    width = g.add("Div", g.add("Max", g.add("Sub", end, start), g.const(0.1)), g.const(float(group)))
    index = np.arange(group + 1, dtype=np.float32)
    shape: list[Size] = [-1, 1, group, 1] if axis == 2 else [-1, 1, 1, group]
    size = g.size(site.x, axis)
    limit = size if isinstance(size, str) else g.ints(size)
    edges = []
    for part, round_ in ((index[:-1], "Floor"), (index[1:], "Ceil")):
        edge = g.add(round_, g.add("Add", g.add("Mul", width, g.const(part[None])), start))
        edges.append(g.reshape(g.add("Min", g.add("Max", g.indices(edge), g.ints(0)), limit), shape))
    return edges[0], edges[1]


@exports("PriorBox")
def prior_box(g: OnnxExporter, site: Site) -> str:
    """The boxes are constants if the sizes of map and image are fixed; otherwise they are computed from them."""
    layer, p = site.layer, site.param.prior_box_param
    cells = [g.size(site.x, axis) for axis in (2, 3)]
    image = [g.const([size]) for size in layer.image] if layer.image else [
        g.real(g.size(site.bottoms[1], axis)) for axis in (2, 3)]
    steps = [g.const([step]) for step in layer.step] if layer.step else [
        g.add("Div", pixels, g.real(count)) for pixels, count in zip(image, cells)]
    grid = g.vector([*cells, 1, 1])
    centres = []
    for axis in (1, 0):      # x before y
        place = g.scaled(_range(g, cells[axis]), 1, p.offset)
        line = g.reshape(g.add("Mul", place, steps[axis]), [1, -1, 1, 1] if axis else [-1, 1, 1, 1])
        centres.append(g.add("Expand", line, grid))
    centre = g.concat(centres, 3)
    size = g.concat([image[1], image[0]], 0)
    half = g.const(np.asarray(layer.sizes) / 2)
    corners = [g.add("Div", g.add(how, centre, half), size) for how in ("Sub", "Add")]
    boxes = g.concat(corners, 3)
    if p.clip:
        boxes = g.add("Clip", boxes, g.const(0.0), g.const(1.0))
    variances = g.add("Expand", g.const(np.broadcast_to(layer.variance, (4,))), g.add("Shape", boxes))
    return g.concat([g.reshape(part, [1, 1, -1]) for part in (boxes, variances)], 1)


def _range(g: OnnxExporter, count: Size) -> str:
    """0, 1, ... below a size, as floats."""
    if isinstance(count, int):
        return g.const(np.arange(count))
    whole = g.add("Range", g.const(0, np.int64), g.add("Squeeze", count), g.const(1, np.int64))
    return g.add("Cast", whole, to=TensorProto.FLOAT)
