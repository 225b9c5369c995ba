"""Recurrent layers as ONNX operators: a Scan over time, since ONNX's own LSTM has no marker of a sequence's start.

Without expose_hidden every run starts with states of zeros, as a new net does; the file stores no states.
"""
from typing import Any

from spp.convert.onnx.exporter.context import OnnxExporter, Site, TensorProto, exports, helper


def body(kind: str, weight: str, outputs: int, prefix: str) -> Any:
    """One step of an LSTM or RNN as the body of a Scan.

    Its inputs are the states, then the sums of all inputs (streams x gates) and cont (streams); its outputs the
    states, and h again. weight: the name of the hidden weights, outputs x gates. `prefix` makes names unique.
    """
    g = OnnxExporter()
    g.owner = prefix
    *states, sums, cont = (f"{prefix}/{name}" for name in (
        ("h", "c", "sums", "cont") if kind == "LSTM" else ("h", "sums", "cont")))
    goes_on = g.add("Unsqueeze", cont, g.ints(1))
    gates = g.add("Add", sums, g.add("MatMul", g.add("Mul", states[0], goes_on), weight))
    after = _cell(g, gates, states[1], goes_on, 1)[::-1] if kind == "LSTM" else (g.add("Tanh", gates),)
    y = g.add("Identity", after[0])

    def info(name: str, *shape: int | None) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    width = outputs * (4 if kind == "LSTM" else 1)
    return helper.make_graph(
        g.nodes, kind, [*(info(name, None, outputs) for name in states), info(sums, None, width), info(cont, None)],
        [info(name, None, outputs) for name in (*after, y)], g.initializers)


def _cell(g: OnnxExporter, gates: str, cell: str, goes_on: str, axis: int) -> tuple[str, str]:
    """The new cell and hidden state of an LSTM from its gates i, f, o, g, which are on an axis."""
    i, f, o, candidate = g.add_many("Split", 4, gates, axis=axis)
    old = g.add("Mul", g.add("Mul", g.add("Sigmoid", f), cell), goes_on)
    c = g.add("Add", old, g.add("Mul", g.add("Sigmoid", i), g.add("Tanh", candidate)))
    return c, g.add("Mul", g.add("Sigmoid", o), g.add("Tanh", c))


@exports("LSTM", "RNN")
def recurrent(g: OnnxExporter, site: Site) -> list[str]:
    layer, x = site.layer, site.x
    cont = site.bottoms[1]
    flat = x.name if x.rank == 3 else g.reshape(x.name, [0, 0, layer.inputs])
    sums = g.linear(flat, g.weight(layer, 0, transposed=True), g.weight(layer, 1))
    if layer.static:
        static = site.bottoms[2]
        rows = static.name if static.rank == 2 else g.reshape(static.name, [0, layer.static_inputs])
        sums = g.add("Add", sums, g.add("MatMul", rows, g.weight(layer, 2, transposed=True)))
    if layer.exposed:
        before = [g.add("Squeeze", bottom.name, g.ints(0)) for bottom in site.bottoms[-layer.exposed:]]
    else:
        zeros = g.add("Expand", g.const(0.0), g.vector([g.size(cont, 1), layer.outputs]))
        before = [zeros for _ in layer.states]
    step = body(layer.type, g.weight(layer, layer.hidden, transposed=True), layer.outputs, f"{layer.name}/step")
    *after, y = g.add_many("Scan", len(before) + 1, *before, sums, cont.name, body=step, num_scan_inputs=2)
    if layer.type == "RNN":
        y = g.add("Tanh", g.linear(y, g.weight(layer, layer.hidden + 1, transposed=True),
                                   g.weight(layer, layer.hidden + 2)))
    return [y, *(g.add("Unsqueeze", state, g.ints(0)) for state in after[:layer.exposed])]


@exports("LSTMUnit")
def lstm_unit(g: OnnxExporter, site: Site) -> list[str]:
    cell, gates, cont = site.bottoms
    goes_on = g.add("Unsqueeze", cont.name, g.ints(cont.rank))
    return list(_cell(g, gates.name, cell.name, goes_on, gates.rank - 1))
