"""caffe.draw: a net as a graph in Graphviz's language, and as an image where Graphviz is installed."""
import os
import shutil
import subprocess
from typing import Any

from spp import graph
from spp.atomic import replacing
from spp.proto import caffe_pb2
from spp.pycaffe.common import CaffeError, caffe_errors

COLORS = {"Convolution": "#FF5050", "Deconvolution": "#FF5050", "Pooling": "#FF9900", "SPP": "#FF9900",
          "InnerProduct": "#CC33FF"}
IN_PLACE, OTHER, BLOB = "#90EE90", "#6495ED", "#E0E0E0"


class Graph:
    """A graph as DOT text, with those of pydot's methods that scripts for Caffe call."""

    def __init__(self, text: str) -> None:
        self._text = text

    def to_string(self) -> str:
        """The graph in the DOT language."""
        return self._text

    def create(self, format: str = "png") -> bytes:
        """The graph as the bytes of a file: "dot" and "raw" are its text, all other formats need Graphviz."""
        if format in ("dot", "raw"):
            return self._text.encode()
        program = shutil.which("dot")
        if program is None:
            raise CaffeError(f"drawing as {format!r} needs Graphviz's program 'dot', which is not on the path; "
                             "install graphviz, or draw to a name that ends in .dot for the text of the graph")
        done = subprocess.run([program, f"-T{format}"], input=self._text.encode(), capture_output=True)
        if done.returncode:
            raise CaffeError(f"dot -T{format} failed: {' '.join(done.stderr.decode(errors='replace').split())}")
        return done.stdout


@caffe_errors()
def get_pydot_graph(caffe_net: caffe_pb2.NetParameter, rankdir: str, label_edges: bool = True,
                    phase: int | None = None, display_lrm: bool = False) -> Graph:
    """The graph of a net's layers and blobs.

    rankdir: the direction, "LR", "TB", "RL" or "BT". phase: only the layers of this phase, None for all.
    display_lrm: show the learning-rate multipliers of layers with parameters.
    """
    if rankdir not in ("LR", "TB", "RL", "BT"):
        raise CaffeError(f"rankdir must be LR, TB, RL or BT, found {rankdir!r}")
    net = caffe_net if phase is None else graph.filter_net(caffe_net, phase)
    lines = [f"digraph {_quoted(net.name or 'Net')} {{", f"rankdir={rankdir};"]
    blobs: dict[str, None] = {name: None for name in net.input}
    for number, layer in enumerate(net.layer):
        node = f"{layer.name}_{layer.type}_{number}"    # two phases may have a layer of the same name
        color = _color(layer)
        lines.append(f"{_quoted(node)} [shape=record, style=filled, fillcolor={_quoted(color)}, "
                     f"label={_quoted(_label(layer, display_lrm))}];")
        for name in layer.bottom:
            blobs[name] = None
            lines.append(f"{_quoted(name + '_blob')} -> {_quoted(node)};")
        for name in layer.top:
            blobs[name] = None
            note = f" [label={_quoted(_edge(layer))}]" if label_edges and _edge(layer) else ""
            lines.append(f"{_quoted(node)} -> {_quoted(name + '_blob')}{note};")
    for name in blobs:
        lines.append(f"{_quoted(name + '_blob')} [shape=octagon, style=filled, fillcolor={_quoted(BLOB)}, "
                     f"label={_quoted(name)}];")
    return Graph("\n".join([*lines, "}", ""]))


def draw_net(caffe_net: caffe_pb2.NetParameter, rankdir: str, ext: str = "png", phase: int | None = None,
             display_lrm: bool = False) -> bytes:
    """The bytes of an image of a net; `ext` is a format of Graphviz, or "dot" for the text of the graph."""
    return get_pydot_graph(caffe_net, rankdir, phase=phase, display_lrm=display_lrm).create(format=ext)


@caffe_errors()
def draw_net_to_file(caffe_net: caffe_pb2.NetParameter, filename: str, rankdir: str = "LR", phase: int | None = None,
                     display_lrm: bool = False) -> None:
    """Draw a net to a file; the end of its name tells the format."""
    ext = os.path.splitext(filename)[1][1:]
    if not ext:
        raise CaffeError(f"{filename}: the name must end in the format to draw, such as .png, .svg or .dot")
    data = draw_net(caffe_net, rankdir, ext, phase, display_lrm)
    with replacing(filename) as temporary, open(temporary, "wb") as file:
        file.write(data)


def _color(layer: Any) -> str:
    if list(layer.bottom) and list(layer.bottom) == list(layer.top):
        return IN_PLACE
    return COLORS.get(layer.type, OTHER)


def _label(layer: Any, display_lrm: bool) -> str:
    lines = [layer.name, f"({layer.type})"]
    if layer.type in ("Convolution", "Deconvolution", "Pooling"):
        p = layer.pooling_param if layer.type == "Pooling" else layer.convolution_param
        if layer.type == "Pooling":
            lines.append("global " * p.global_pooling + p.PoolMethod.Name(p.pool).lower())
        lines += [f"{words}: {value}" for words, name, default in
                  (("kernel size", "kernel_size", ""), ("stride", "stride", "1"), ("pad", "pad", "0"))
                  if (value := _window(p, name) or default)]
    if display_lrm and layer.param:
        lines.append("lr_mult: " + ", ".join(f"{spec.lr_mult:g}" for spec in layer.param))
    return "\n".join(lines)


def _window(param: Any, name: str) -> str:
    """kernel_size, stride or pad as text: of one number, of one an axis, or of the fields for height and width."""
    stem = name.removesuffix("_size")
    if param.HasField(f"{stem}_h") or param.HasField(f"{stem}_w"):
        return f"{getattr(param, f'{stem}_h')}x{getattr(param, f'{stem}_w')}"
    value = getattr(param, name)
    if isinstance(value, int):
        return str(value) if param.HasField(name) else ""
    return "x".join(map(str, value))


def _edge(layer: Any) -> str:
    """What a layer's outgoing edges say."""
    if layer.type == "Data":
        return f"batch {layer.data_param.batch_size}"
    if layer.type in ("Convolution", "Deconvolution"):
        return str(layer.convolution_param.num_output)
    return str(layer.inner_product_param.num_output) if layer.type == "InnerProduct" else ""


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
