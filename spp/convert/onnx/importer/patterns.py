"""Layers that take several ONNX operators: pyramids, LRN within channels, LSTM and RNN.

A pattern is held to the exporter's own, node by node, and the bins of a pyramid to their rule at several sizes.
"""
from typing import Any, NamedTuple

import numpy as np

from spp.convert.onnx.export import recurrent as onnx_export_recurrent
from spp.convert.onnx.importer.net import Handler, Importer
from spp.convert.onnx.importer.graph import Folded, attributes, described, onnx
from spp.errors import ConvertError
from spp.ops.spp import bins

MAX, AVE = ("ReduceMax", "GlobalMaxPool"), ("ReduceMean", "GlobalAveragePool")


def find(importer: Importer) -> dict[int, Handler | None]:
    """By id of a node: the handler of the pattern that ends with it, or None for a node inside one."""
    found: dict[int, Handler | None] = {}
    for node in importer.folded.nodes:
        for pattern in (_pyramid_level, _whole_map_beside, _lrn_within, _recurrent):
            match = pattern(importer, node)
            if match is not None:
                found[id(node)] = match[0]
                found.update((id(inside), None) for inside in match[1])
                break
    return found


Match = tuple[Handler, list[Any]] | None


def _maker(importer: Importer, tensor: str, op: str, sole: bool = True) -> Any:
    """The node that makes a tensor if it is of this operator and, as a rule, its only output has one reader."""
    node = importer.folded.producer.get(tensor)
    return node if node is not None and node.op_type == op and (not sole or importer.sole(tensor)) else None


def _scalar(importer: Importer, tensor: str) -> float | None:
    value = importer.const(tensor)
    return float(value.ravel()[0]) if value is not None and value.size == 1 else None


# --- pyramids

class Level(NamedTuple):
    """A map taken to n x n bins."""

    map: str
    n: int
    method: str
    inside: list[Any]


def _pyramid_level(importer: Importer, node: Any) -> Match:
    """Flatten of n x n bins, n > 1."""
    level = _level(importer, node.input[0]) if _flattens(node) else None
    if level is None:
        return None
    return _spp(level), level.inside


def _whole_map_beside(importer: Importer, node: Any) -> Match:
    """Flatten of a global pooling that is joined with levels of a pyramid of the same map: its level of one bin."""
    if not _flattens(node) or not importer.sole(node.output[0]):
        return None
    for method, (_, op) in (("MAX", MAX), ("AVE", AVE)):
        pooled = _maker(importer, node.input[0], op)
        if pooled is None:
            continue
        join = next((other for other in importer.folded.nodes if node.output[0] in other.input), None)
        if join is None or join.op_type != "Concat" or attributes(join)["axis"] != 1:
            return None
        beside = [_maker(importer, name, "Flatten") for name in join.input]
        levels = [_level(importer, flat.input[0]) for flat in beside if flat is not None]
        if any(level is not None and (level.map, level.method) == (pooled.input[0], method) for level in levels):
            return _spp(Level(pooled.input[0], 1, method, [])), [pooled]
    return None


def _flattens(node: Any) -> bool:
    return node.op_type == "Flatten" and attributes(node).get("axis", 1) == 1


def _spp(level: Level) -> Handler:
    def handle(importer: Importer, node: Any) -> None:
        importer.add("SPP", node, [importer.blob(level.map, node)],
                     spp_param={"bins": [level.n], **({"pool": 1} if level.method == "AVE" else {})})
    return handle


def _level(importer: Importer, tensor: str) -> Level | None:
    columns = _axis_bins(importer, tensor, 3, 1)
    rows = columns and _axis_bins(importer, columns.map, 2, columns.n)
    if not rows or not columns or (rows.n, rows.method) != (columns.n, columns.method):
        return None
    return Level(rows.map, rows.n, rows.method, rows.inside + columns.inside)


def _axis_bins(importer: Importer, tensor: str, axis: int, readers: int) -> Level | None:
    """A Concat of n parts of one axis, each reduced to one element, whose parts are a pyramid's bins."""
    join = _maker(importer, tensor, "Concat", sole=False)
    if join is None or attributes(join)["axis"] != axis or importer.folded.readers[tensor] != readers:
        return None
    inside, parts, methods, maps = [join], [], set(), set()
    for name in join.input:
        for method, (op, _) in (("MAX", MAX), ("AVE", AVE)):
            reduced = _maker(importer, name, op)
            if reduced is None:
                continue
            found = attributes(reduced)
            axes = found.get("axes") or (importer.const(reduced.input[1]) if len(reduced.input) > 1 else None)
            cut = _maker(importer, reduced.input[0], "Slice")
            if cut is None or axes is None or [int(i) for i in axes] != [axis] or not found.get("keepdims", 1):
                return None
            inside += [reduced, cut]
            parts.append(cut)
            methods.add(method)
            maps.add(cut.input[0])
    if len(parts) < len(join.input) or len(methods) > 1 or len(maps) > 1:
        return None
    if not all(_are_bins(folded, parts, axis) for folded in [importer.folded, *importer.others]):
        return None
    return Level(maps.pop(), len(parts), methods.pop(), inside)


def _are_bins(folded: Folded, parts: list[Any], axis: int) -> bool:
    """Whether the Slices of an axis cut it into the bins of the paper, at the sizes of this graph."""
    found = []
    for cut in parts:
        starts, ends, axes, *steps = (folded.const(name) for name in cut.input[1:])
        if starts is None or ends is None or axes is None or list(axes) != [axis] or any(
                step is None or list(step) != [1] for step in steps):
            return False
        found.append((int(starts[0]), int(ends[0])))
    size = folded.shape(parts[0].input[0])[axis]
    return found == bins(size, len(parts))


# --- LRN

def _lrn_within(importer: Importer, node: Any) -> Match:
    """x / (1 + alpha * mean of x^2 over a window with zeros around)^beta."""
    power = _maker(importer, node.input[1], "Pow") if node.op_type == "Div" else None
    beta = power and _scalar(importer, power.input[1])
    inside = [power]
    total = power and _maker(importer, power.input[0], "Add")
    if not total or beta is None or _scalar(importer, total.input[1]) != 1:
        return None
    inside.append(total)
    mean, alpha = total.input[0], 1.0
    product = _maker(importer, mean, "Mul")
    if product is not None and (factor := _scalar(importer, product.input[1])) is not None:
        inside.append(product)
        mean, alpha = product.input[0], factor
    pool = _maker(importer, mean, "AveragePool")
    square = pool and _maker(importer, pool.input[0], "Mul")
    if square is None or list(square.input) != [node.input[0]] * 2:
        return None
    found = attributes(pool)
    size = found["kernel_shape"][0]
    exact = {"kernel_shape": [size, size], "strides": [1, 1], "pads": [size // 2] * 4, "count_include_pad": 1}
    if size % 2 == 0 or found != exact:
        return None

    def handle(importer: Importer, node: Any) -> None:
        importer.add("LRN", node, [importer.blob(node.input[0], node)], lrn_param={
            "norm_region": 1, "local_size": size, "alpha": alpha, "beta": beta})

    return handle, [*inside, pool, square]


# --- recurrent layers

def _recurrent(importer: Importer, node: Any) -> Match:
    """A Scan with the body of an LSTM, or of an RNN with the output's weights behind it, and its inputs' weights."""
    scan, behind = node, []
    if node.op_type == "Tanh":      # of an RNN's output
        add = _maker(importer, node.input[0], "Add")
        matmul = add and _maker(importer, add.input[0], "MatMul")
        scan = matmul and _maker(importer, matmul.input[0], "Scan")
        behind = [matmul, add]
    if scan is None or scan.op_type != "Scan":
        return None
    body = attributes(scan)["body"]
    weight = next((name for inner in body.node if inner.op_type == "MatMul" for name in inner.input
                   if importer.const(name) is not None), "")
    hidden = importer.const(weight)
    kind = "RNN" if behind else "LSTM"
    if hidden is None or _signature(body) != _signature(
            onnx_export_recurrent.body(kind, weight, len(hidden), "")):
        return None
    sums = _input_weights(importer, scan.input[-2])
    if sums is None:
        return None
    weights, bottoms, inside = sums
    weights.append(hidden.T)
    if behind:
        weights += [importer.folded.constants[behind[0].input[1]].T, importer.folded.constants[behind[1].input[1]]]
        inside = [*inside, scan, *behind]
    return _layer_of(kind, scan, bottoms, weights), inside


def _layer_of(kind: str, scan: Any, bottoms: list[str], weights: list[Any]) -> Handler:
    before, after = list(scan.input[:-2]), list(scan.output[:-1])

    def handle(importer: Importer, node: Any) -> None:
        states = [importer.const(name) for name in before]
        exposed = all(state is None for state in states)
        if not exposed and any(state is None or state.any() for state in states):
            raise ConvertError(f"{described(scan)}: its first states must be zeros, or all be computed")
        if not exposed and any(importer.folded.readers[name] for name in after):
            raise ConvertError(f"{described(scan)}: states after the last step that begin from constants; Caffe "
                               "exposes both or neither")
        x, *static = (importer.blob(name, node) for name in bottoms)
        read, made = [x, importer.blob(scan.input[-1], node), *static], [node.output[-1] if node is scan
                                                                         else node.output[0]]
        if exposed:
            read += [_with_axis(importer, scan, name) for name in before]
        layer = importer.add(kind, node, read, made[0], weights, recurrent_param={
            "num_output": len(weights[2 + len(static)].T), **({"expose_hidden": True} if exposed else {})})
        for name in after if exposed else []:
            top = importer.within(scan)
            layer.top.append(top)
            squeezed = importer.add("Reshape", scan, [top], name, reshape_param={"num_axes": 1})
            squeezed.reshape_param.shape.SetInParent()

    return handle


def _with_axis(importer: Importer, scan: Any, name: str) -> str:
    """A state, streams x outputs, as the 1 x streams x outputs of Caffe."""
    top = importer.within(scan)
    layer = importer.add("Reshape", scan, [importer.blob(name, scan)], top, reshape_param={"num_axes": 0})
    layer.reshape_param.shape.dim.append(1)
    return top


def _input_weights(importer: Importer, sums: str) -> tuple[list[Any], list[str], list[Any]] | None:
    """Of x W + b (+ static V): the weights as Caffe's layer has them, x (and static), and the nodes."""
    add = _maker(importer, sums, "Add")
    if add is None:
        return None
    inside, static = [add], None
    if importer.const(add.input[1]) is None:
        static = _maker(importer, add.input[1], "MatMul")
        add = _maker(importer, add.input[0], "Add")
        if static is None or add is None:
            return None
        inside += [add, static]
    product = _maker(importer, add.input[0], "MatMul")
    constants = [importer.const(name) for name in (
        product.input[1] if product else "", add.input[1], *([static.input[1]] if static else []))]
    if product is None or any(value is None for value in constants):
        return None
    weight, bias, *more = (np.asarray(value) for value in constants)
    return ([weight.T, bias, *(value.T for value in more)],
            [product.input[0], *([static.input[0]] if static else [])], [*inside, product])


def _signature(body: Any) -> list[Any]:
    """A graph without its names: equal for graphs that compute the same with the same nodes in one order."""
    numbers: dict[str, int] = {}
    fixed: dict[str, Any] = {entry.name: (tuple(entry.dims), onnx.numpy_helper.to_array(entry).tolist())
                             for entry in body.initializer}

    def number(name: str) -> Any:
        return fixed[name] if name in fixed else numbers.setdefault(name, len(numbers))

    inputs = [number(entry.name) for entry in body.input]
    nodes = [(node.op_type, node.domain, [number(name) for name in node.input], [number(name) for name in node.output],
              sorted(attributes(node).items())) for node in body.node]
    return [inputs, nodes, [number(entry.name) for entry in body.output]]
