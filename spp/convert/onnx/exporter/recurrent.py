"""Recurrent layers as ONNX operators: a Scan over time, since ONNX's own LSTM has no marker of a sequence's start.

Without expose_hidden every run starts with states of zeros, as a new net does; the file stores no states.
"""
from typing import Any

from spp.convert.onnx.exporter.context import OnnxExporter, Site, TensorProto, exports, helper


LSTM_STEP = [
    ("Unsqueeze", "cont one", "goes_on"),
    ("Mul", "h goes_on", "before"),
    ("MatMul", "before WEIGHT", "from_hidden"),
    ("Add", "sums from_hidden", "gates"),
    ("Split", "gates", "i f o g"),
    ("Sigmoid", "i", "i_open"), ("Sigmoid", "f", "f_open"), ("Sigmoid", "o", "o_open"), ("Tanh", "g", "candidate"),
    ("Mul", "f_open c", "c_gated"),
    ("Mul", "c_gated goes_on", "old"),
    ("Mul", "i_open candidate", "new"),
    ("Add", "old new", "c_next"),
    ("Tanh", "c_next", "c_tanh"),
    ("Mul", "o_open c_tanh", "h_next"),
    ("Identity", "h_next", "y")]
RNN_STEP = [
    ("Unsqueeze", "cont one", "goes_on"),
    ("Mul", "h goes_on", "before"),
    ("MatMul", "before WEIGHT", "from_hidden"),
    ("Add", "sums from_hidden", "total"),
    ("Tanh", "total", "h_next"),
    ("Identity", "h_next", "y")]


def body(kind: str, weight: str, outputs: int, prefix: str) -> Any:
    """One step of an LSTM or RNN as the body of a Scan.

    Its inputs are the states, then the sums of all inputs (streams x gates) and cont (streams); its outputs the
    states, and h again. weight: the name of the hidden weights, outputs x gates. `prefix` makes names unique.
    """
    steps, states, gates = (LSTM_STEP, "hc", 4) if kind == "LSTM" else (RNN_STEP, "h", 1)

    def named(names: str) -> list[str]:
        return [weight if name == "WEIGHT" else prefix + name for name in names.split()]

    def info(name: str, *shape: Any) -> Any:
        return helper.make_tensor_value_info(prefix + name, TensorProto.FLOAT, shape)

    nodes = [helper.make_node(op, named(inputs), named(made), name=named(made)[0],
                              **({"axis": 1} if op == "Split" else {})) for op, inputs, made in steps]
    return helper.make_graph(
        nodes, kind, [*(info(state, None, outputs) for state in states), info("sums", None, gates * outputs),
                      info("cont", None)],
        [*(info(f"{state}_next", None, outputs) for state in states), info("y", None, outputs)],
        [helper.make_tensor(f"{prefix}one", TensorProto.INT64, [1], [1])])


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
    step = body(layer.type, g.weight(layer, layer.hidden, transposed=True), layer.outputs, f"{layer.name}/step/")
    *after, y = g.add_many("Scan", len(before) + 1, *before, sums, cont.name, body=step, num_scan_inputs=2)
    if layer.type == "RNN":
        y = g.add("Tanh", g.linear(y, g.weight(layer, layer.hidden + 1, transposed=True),
                                   g.weight(layer, layer.hidden + 2)))
    return [y, *(g.add("Unsqueeze", state, g.ints(0)) for state in after[:layer.exposed])]


@exports("LSTMUnit")
def lstm_unit(g: OnnxExporter, site: Site) -> list[str]:
    cell, gates, cont = site.bottoms
    goes_on = g.add("Unsqueeze", cont.name, g.ints(cont.rank))
    i, f, o, candidate = g.add_many("Split", 4, gates.name, axis=gates.rank - 1)
    old = g.add("Mul", g.add("Mul", g.add("Sigmoid", f), cell.name), goes_on)
    c = g.add("Add", old, g.add("Mul", g.add("Sigmoid", i), g.add("Tanh", candidate)))
    return [c, g.add("Mul", g.add("Sigmoid", o), g.add("Tanh", c))]
