"""ONNX operators of any array: inner products, elementwise functions, shapes."""
from typing import Any, Callable, Sequence

import numpy as np

from spp.convert.net_builder import inner_product_param
from spp.convert.onnx.importer.context import OnnxImporter, imports
from spp.convert.onnx.importer.graph import FoldedGraph, attributes, node_error
from spp.convert.onnx.importer.maps import clipped_pooling

FLOAT_MAX = float(np.finfo(np.float32).max)


# --- inner products

@imports("Gemm")
def gemm(importer: OnnxImporter, node: Any) -> None:
    attrs = attributes(node)
    weight, *bias = importer.weights(node)
    if attrs.get("transA", 0):
        raise node_error(node, "transA transposes the batch")
    weight = (weight if attrs.get("transB", 0) else weight.T) * np.float32(attrs.get("alpha", 1.0))
    outputs = len(weight)
    for value in bias:
        if value.size not in (1, outputs) or value.ndim and value.shape[-1] != value.size:
            raise node_error(node, f"its C of {value.shape} is not one number for each of {outputs} outputs")
    bias = [np.broadcast_to(value, (1, outputs)).ravel() * np.float32(attrs.get("beta", 1.0)) for value in bias]
    importer.add("InnerProduct", node, weights=[weight, *bias],
                 inner_product_param=inner_product_param(outputs, bool(bias), 1))


@imports("MatMul")
def matmul(importer: OnnxImporter, node: Any) -> None:
    weight, = importer.weights(node)
    rank = len(importer.shape(node.input[0]))
    if weight.ndim != 2 or rank < 2:
        raise node_error(node, f"only a product of rows with a constant matrix is an InnerProduct, found {rank} and "
                               f"{weight.ndim} axes")
    importer.add("InnerProduct", node, weights=[weight.T],
                 inner_product_param=inner_product_param(weight.shape[1], False, rank - 1))


# --- functions of one array

# By operator, the layer that computes it, and the layer's parameters for the node's attributes.
FUNCTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    **{op: (kind, lambda attrs: {}) for op, kind in (
        ("Abs", "AbsVal"), ("Exp", "Exp"), ("Log", "Log"), ("Relu", "ReLU"), ("Sigmoid", "Sigmoid"),
        ("Softplus", "BNLL"), ("Tanh", "TanH"))},
    "Elu": ("ELU", lambda attrs: {"elu_param": {"alpha": attrs.get("alpha", 1.0)}}),
    "LeakyRelu": ("ReLU", lambda attrs: {"relu_param": {"negative_slope": attrs.get("alpha", 0.01)}}),
    "Neg": ("Power", lambda attrs: {"power_param": {"scale": -1}}),
    "Reciprocal": ("Power", lambda attrs: {"power_param": {"power": -1}}),
    "Sqrt": ("Power", lambda attrs: {"power_param": {"power": 0.5}}),
    "GlobalMaxPool": ("Pooling", lambda attrs: {"pooling_param": {"pool": "MAX", "global_pooling": True}}),
    "GlobalAveragePool": ("Pooling", lambda attrs: {"pooling_param": {"pool": "AVE", "global_pooling": True}}),
}


@imports(*FUNCTIONS)
def function(importer: OnnxImporter, node: Any) -> None:
    kind, params = FUNCTIONS[node.op_type]
    importer.add(kind, node, **params(attributes(node)))


@imports("PRelu")
def prelu(importer: OnnxImporter, node: Any) -> None:
    slope, = importer.weights(node)
    shape = importer.shape(node.input[0])
    aligned = (1,) * (len(shape) - slope.ndim) + slope.shape
    by_channel = len(shape) > 1 and slope.size == shape[1] == aligned[1]
    if slope.size != 1 and not by_channel:
        raise node_error(node, f"Caffe's PReLU has one slope, or one per channel; found {slope.shape}")
    shared = slope.size == 1
    importer.add("PReLU", node, weights=[slope.reshape(() if shared else -1)],
                 prelu_param={"channel_shared": True} if shared else {})


@imports("Clip")
def clip(importer: OnnxImporter, node: Any) -> None:
    limits = [attributes(node).get("min", -FLOAT_MAX), attributes(node).get("max", FLOAT_MAX)]
    for i, name in enumerate(node.input[1:3]):
        if name:
            value = importer.const(name)
            if value is None:
                raise node_error(node, "its limits are computed from the inputs")
            limits[i] = float(value.ravel()[0])
    clipped(importer, node, node.input[0], *limits)


def clipped(importer: OnnxImporter, node: Any, x: str, least: float, most: float) -> None:
    """A layer that clips x to a range."""
    if (least, most) == (0, FLOAT_MAX):
        importer.add("ReLU", node, [importer.blob(x, node)])
    else:
        importer.add("Clip", node, [importer.blob(x, node)], clip_param={"min": least, "max": most})


@imports("Identity")
def identity(importer: OnnxImporter, node: Any) -> None:
    importer.blobs[node.output[0]] = importer.blob(node.input[0], node)


@imports("Dropout")
def dropout(importer: OnnxImporter, node: Any) -> None:
    ratio = attributes(node).get("ratio", 0.5)
    training = importer.const(node.input[2]) if len(node.input) > 2 and node.input[2] else np.array(False)
    if len(node.input) > 1 and node.input[1]:
        ratio = float(np.ravel(importer.weights(node)[0])[0])
    if training is None or training.any() or any(importer.readers[name] for name in node.output[1:] if name):
        raise node_error(node, "dropout that is active in inference, or whose mask is read")
    if not 0 <= ratio < 1:
        raise node_error(node, f"a ratio of {ratio:g} drops all")
    importer.add("Dropout", node, dropout_param={"dropout_ratio": ratio})


@imports("Softmax")
def softmax(importer: OnnxImporter, node: Any) -> None:
    shape = importer.shape(node.input[0])
    new = importer.folded.opset >= 13
    axis = attributes(node).get("axis", -1 if new else 1) % len(shape)
    if not new and np.prod(shape[axis + 1:]) != 1:
        raise node_error(node, f"before opset 13 Softmax normalises over all axes from {axis} on at once, Caffe's "
                               "over one")
    importer.add("Softmax", node, softmax_param={"axis": axis} if axis != 1 else {})


# --- shapes

@imports("Flatten")
def flatten(importer: OnnxImporter, node: Any) -> None:
    rank = len(importer.shape(node.input[0]))
    axis = attributes(node).get("axis", 1)
    axis = axis % rank if axis < 0 else axis
    if axis == 1:
        importer.add("Flatten", node)
        return
    if axis == 0 or axis == rank:
        raise node_error(node, f"axis {axis} leaves an axis of 1 that no batch is on")
    importer.add("Flatten", node, top=(between := importer.within(node)), flatten_param={"axis": axis})
    importer.add("Flatten", node, [between], flatten_param={"axis": 0, "end_axis": axis - 1})


@imports("Reshape")
def reshape(importer: OnnxImporter, node: Any) -> None:
    shape, target = importer.shape(node.input[0]), importer.shape(node.output[0])
    if shape == target:
        identity(importer, node)
        return
    dims: list[int] = []
    shapes = [(folded.shape(node.input[0]), folded.shape(node.output[0]))
              for folded in [importer.folded, *importer.others]]
    for axis, size in enumerate(target):
        alike = {axis < len(before) and before[axis] == after[axis] for before, after in shapes}
        if alike == {True} and 0 not in shape[:axis + 1] and all(dim == 0 for dim in dims):
            dims.append(0)
        elif len({after[axis] for _, after in shapes}) == 1:
            dims.append(size)
        else:
            dims.append(0 if alike == {True} else -1)
    if dims.count(-1) > 1 and not importer.fixed:
        raise node_error(node, f"more than one of its sizes, {target}, varies with the input's; give the input's "
                               "sizes to convert it for those only")
    if dims.count(-1) > 1:
        dims = list(target)
    if len(target) == 2 and dims[0] == 0:
        importer.add("Flatten", node)
    else:
        importer.add("Reshape", node, reshape_param={"shape": {"dim": dims}})


@imports("Squeeze", "Unsqueeze")
def ones(importer: OnnxImporter, node: Any) -> None:
    """Axes of length 1, removed or inserted one by one."""
    adds = node.op_type == "Unsqueeze"
    shape = importer.shape(node.input[0])
    axes = axes_of(importer, node)
    if axes is None:
        axes = [axis for axis, size in enumerate(shape) if size == 1]
    rank = len(importer.shape(node.output[0]) if adds else shape)
    axes = sorted((axis % rank for axis in axes), reverse=not adds)
    edit_axes(importer, node, importer.blob(node.input[0], node), axes, adds)


def axes_of(importer: OnnxImporter, node: Any) -> list[int] | None:
    """The axes that a node names by an attribute or, in newer opsets, by its second input; None for neither."""
    axes = attributes(node).get("axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        axes = importer.const(node.input[1])
    return None if axes is None else [int(axis) for axis in axes]


def edit_axes(importer: OnnxImporter, node: Any, blob: str, axes: Sequence[int], adds: bool,
              last: str | None = None) -> None:
    """Insert axes of length 1 (ascending), or remove them (descending); the top is `last`, or the node's output."""
    last = last or node.output[0]
    if not axes:
        importer.blobs[last] = blob
    for i, axis in enumerate(axes):
        top = last if i == len(axes) - 1 else importer.within(node)
        importer.add("Reshape", node, [blob], top, reshape_param={
            "shape": {"dim": [1] * adds}, **({"axis": axis} if axis else {}), "num_axes": 0 if adds else 1})
        blob = top


@imports("Transpose")
def transpose(importer: OnnxImporter, node: Any) -> None:
    order = attributes(node).get("perm") or list(range(len(importer.shape(node.input[0]))))[::-1]
    importer.add("Permute", node, permute_param={"order": list(order)})


@imports("Tile")
def tile(importer: OnnxImporter, node: Any) -> None:
    repeats = [int(n) for n in importer.weights(node)[0]]
    repeated = [axis for axis, count in enumerate(repeats) if count != 1]
    if len(repeated) != 1:
        raise node_error(node, f"Caffe's Tile repeats one axis, found repeats {repeats}")
    importer.add("Tile", node, tile_param={"axis": repeated[0], "tiles": repeats[repeated[0]]})


@imports("Concat")
def concat(importer: OnnxImporter, node: Any) -> None:
    axis = attributes(node)["axis"] % len(importer.shape(node.output[0]))
    importer.add("Concat", node, importer.bottoms(node), concat_param={"axis": axis} if axis != 1 else {})


@imports("Split")
def split(importer: OnnxImporter, node: Any) -> None:
    shapes = [importer.shape(name) for name in node.output]
    axis = attributes(node).get("axis", 0) % len(shapes[0])
    sizes = [shape[axis] for shape in shapes]
    points = np.cumsum(sizes)[:-1].tolist() if len(set(sizes)) > 1 else []      # equal parts, whatever the size
    _slice(importer, node, importer.blob(node.input[0], node), list(node.output), axis, points)


@imports("Slice")
def slice_(importer: OnnxImporter, node: Any) -> None:
    """A Slice layer for each axis; a Silence layer reads its other parts."""
    blob = importer.blob(node.input[0], node)
    cuts = _cuts(importer.folded, node)
    if any(_cuts(folded, node) != cuts for folded in importer.others):
        if clipped_pooling(importer, node):
            importer.blobs[node.output[0]] = blob
            del importer.blobs[node.input[0]]
            return
        if not importer.fixed:
            raise node_error(node, "what it cuts off varies with the sizes of the input; give the input's sizes to "
                                   "convert it for those only")
    if not cuts:
        importer.blobs[node.output[0]] = blob
    for i, (axis, low, high) in enumerate(cuts):
        top = node.output[0] if i == len(cuts) - 1 else importer.within(node)
        before, after = ([importer.within(node)] if cut else [] for cut in (low > 0, high is not None))
        points = ([low] if low else []) + ([] if high is None else [high])
        _slice(importer, node, blob, [*before, top, *after], axis, points)
        importer.add_layer("Silence", importer.unique(f"{top}/silence"), [*before, *after], [])
        blob = top


def _cuts(folded: FoldedGraph, node: Any) -> list[tuple[int, int, int | None]]:
    """For each axis that a Slice cuts, at the sizes of a graph: axis, start and end (None: to the end)."""
    attrs, shape = attributes(node), folded.shape(node.input[0])
    values: list[Any] = [attrs[key] for key in ("starts", "ends", "axes") if key in attrs]     # before opset 10
    values = values or [folded.const(name) for name in node.input[1:] if name]
    if any(value is None for value in values):
        raise node_error(node, "where it cuts is computed from the inputs' values")
    starts, ends = values[:2]
    axes = values[2] if len(values) > 2 else range(len(starts))
    steps = values[3] if len(values) > 3 else []
    if any(step != 1 for step in steps):
        raise node_error(node, f"Caffe's Slice takes adjacent elements, found steps {[int(step) for step in steps]}")
    cuts = []
    for axis, start, end in zip(axes, starts, ends):
        size = shape[int(axis)]
        low, high, _ = slice(int(start), int(end)).indices(size)
        if (low, high) != (0, size):
            cuts.append((int(axis) % len(shape), low, None if high == size else high))
    return cuts


def _slice(importer: OnnxImporter, node: Any, blob: str, tops: list[str], axis: int, points: list[int]) -> None:
    layer = importer.add("Slice", node, [blob], tops[0], slice_param={
        **({"slice_point": points} if points else {}), **({"axis": axis} if axis != 1 else {})})
    layer.top.extend(tops[1:])
    for name in tops:
        importer.blobs[name] = name
    unused = [name for name in tops if name in node.output and not importer.readers[name]]
    if unused:
        importer.add_layer("Silence", importer.unique(f"{tops[0]}/silence"), unused, [])


REDUCTIONS = {"ReduceSum": 1, "ReduceL1": 2, "ReduceSumSquare": 3, "ReduceMean": 4}


@imports(*REDUCTIONS, "ReduceMax")
def reduction(importer: OnnxImporter, node: Any) -> None:
    attrs, shape = attributes(node), importer.shape(node.input[0])
    axes = sorted(axis % len(shape) for axis in axes_of(importer, node) or range(len(shape)))
    blob, keeps = importer.blob(node.input[0], node), bool(attrs.get("keepdims", 1))
    if axes == list(range(2, len(shape))) and node.op_type in ("ReduceMean", "ReduceMax"):
        top = node.output[0] if keeps else importer.within(node)
        importer.add("Pooling", node, [blob], top, pooling_param={
            "pool": 0 if node.op_type == "ReduceMax" else 1, "global_pooling": True})
        if not keeps:
            importer.add("Flatten", node, [top])
        return
    if node.op_type == "ReduceMax":
        raise node_error(node, f"Caffe takes the maximum of a map whole or in windows, found axes {axes}")
    if axes != list(range(axes[0], len(shape))):
        order = [axis for axis in range(len(shape)) if axis not in axes] + axes
        importer.add("Permute", node, [blob], top := importer.within(node), permute_param={"order": order})
        blob = top
    top = importer.within(node) if keeps else node.output[0]
    importer.add("Reduction", node, [blob], top, reduction_param={
        "operation": REDUCTIONS[node.op_type], "axis": len(shape) - len(axes)})
    if keeps:
        edit_axes(importer, node, top, axes, adds=True)
