"""Nets as graphs in Graphviz's language DOT, and the pictures that Graphviz makes of them."""
import shutil
import subprocess
from typing import Any, Sequence

from spp.errors import SppError, format_shape

COLORS = {"Convolution": "#f4a582", "Deconvolution": "#f4a582", "Pooling": "#fddbc7", "SPP": "#fddbc7",
          "InnerProduct": "#b2abd2"}
OTHER, DATA, LOSS, BLOB = "#92c5de", "#d9d9d9", "#ffff99", "#f0f0f0"
DIRECTIONS = ("LR", "TB", "RL", "BT")


def to_dot(net: Any, rankdir: str = "LR", shapes: dict[str, Sequence[int]] | None = None, label_edges: bool = False,
           lr_mult: bool = False) -> str:
    """The DOT text of a NetParameter: boxes for layers, ellipses for blobs.

    An in-place layer follows the layer whose blob it changes, and that blob is drawn once. rankdir: the direction in
    which edges point, one of DIRECTIONS. shapes: blob name to the shape that is written under the name. label_edges:
    write batch sizes and channel counts at the edges from layers to blobs. lr_mult: write these multipliers too.
    """
    lines = [f"digraph {_quoted(net.name or 'net')} {{", f"  rankdir={rankdir};",
             '  node [fontname="Helvetica", fontsize=10, style=filled];', '  edge [fontname="Helvetica", fontsize=9];']
    producers: dict[str, list[int]] = {}    # blob -> the layers that its edges start from: of two phases, or in-place
    drawn: set[str] = set()

    def edge(producer: int, head: str) -> None:
        label = _edge_label(net.layer[producer]) if label_edges else ""
        lines.append(f"  layer_{producer} -> {head}" + (f" [label={_quoted(label)}];" if label else ";"))

    def draw(name: str) -> None:
        """Draw a blob once, with the edges from its producers."""
        if name in drawn:
            return
        drawn.add(name)
        shape = "\n" + format_shape(shapes[name]) if shapes and name in shapes else ""
        lines.append(f"  {_blob(name)} [shape=ellipse, fillcolor={_quoted(BLOB)}, label={_quoted(name + shape)}];")
        for producer in producers.get(name, []):
            edge(producer, _blob(name))

    for i, layer in enumerate(net.layer):
        label = _label(layer, lr_mult)
        lines.append(f"  layer_{i} [shape=box, fillcolor={_quoted(_color(layer))}, label={_quoted(label)}];")
        in_place = [name for name in layer.top if name in layer.bottom and name not in drawn]
        for name in layer.bottom:
            if name in in_place and name in producers:
                for producer in producers[name]:
                    edge(producer, f"layer_{i}")
            else:
                draw(name)
                lines.append(f"  {_blob(name)} -> layer_{i};")
        for name in layer.top:
            if name in drawn:       # with its readers so far
                edge(i, _blob(name))
            else:
                producers[name] = [i] if name in in_place else [*producers.get(name, []), i]
    for name in producers:
        draw(name)
    return "\n".join([*lines, "}"]) + "\n"


def render(text: str, kind: str) -> bytes:
    """A picture of a DOT text in a format such as "png"; raises SppError if Graphviz is not installed or fails."""
    program = shutil.which("dot")
    if program is None:
        raise SppError("drawing needs Graphviz's program 'dot'; install graphviz, or write a .dot file, or print the "
                       "net as a table with summarize_net")
    result = subprocess.run([program, f"-T{kind}"], input=text.encode(), capture_output=True)
    if result.returncode:
        reason = "; ".join(result.stderr.decode(errors="replace").strip().splitlines())
        raise SppError(f"dot -T{kind} failed: {reason}; write a .dot file instead and look at it")
    return result.stdout


def _color(layer: Any) -> str:
    if not layer.bottom:
        return DATA
    return LOSS if "Loss" in layer.type else COLORS.get(layer.type, OTHER)


def _label(layer: Any, lr_mult: bool) -> str:
    """Name, type, and the most important parameters."""
    lines = [layer.name, layer.type]
    if layer.type in ("Convolution", "Deconvolution"):
        lines[1] += f" {layer.convolution_param.num_output}"
        lines.append(_window(layer.convolution_param))
    elif layer.type == "Pooling":
        p = layer.pooling_param
        lines[1] += f" {p.PoolMethod.Name(p.pool)}"
        lines.append("global" if p.global_pooling else _window(p))
    elif layer.type == "InnerProduct":
        lines[1] += f" {layer.inner_product_param.num_output}"
    elif layer.type == "SPP":
        lines.append("bins " + ", ".join(map(str, layer.spp_param.bins)) if layer.spp_param.bins
                     else f"pyramid height {layer.spp_param.pyramid_height}")
    if lr_mult and layer.param:
        lines.append("lr_mult " + ", ".join(f"{spec.lr_mult:g}" for spec in layer.param))
    return "\n".join(lines)


def _window(param: Any) -> str:
    """Kernel, stride and pad of a convolution_param or pooling_param, without defaults: "kernel 3x2, stride 2"."""
    texts = []
    for words, field, default in (("kernel", "kernel_size", []), ("stride", "stride", [1]), ("pad", "pad", [0])):
        if param.HasField(f"{words}_h") or param.HasField(f"{words}_w"):
            sizes = [getattr(param, f"{words}_h"), getattr(param, f"{words}_w")]
        elif isinstance(getattr(param, field), int):        # Pooling's; a Convolution has one for each axis
            sizes = [getattr(param, field)] if param.HasField(field) else []
        else:
            sizes = list(getattr(param, field))
        if sizes and sizes != default:
            texts.append(f"{words} {'x'.join(map(str, sizes))}")
    return ", ".join(texts)


def _edge_label(layer: Any) -> str:
    if layer.type == "Data":
        return f"batch {layer.data_param.batch_size}"
    if layer.type in ("Convolution", "Deconvolution"):
        return str(layer.convolution_param.num_output)
    return str(layer.inner_product_param.num_output) if layer.type == "InnerProduct" else ""


def _blob(name: str) -> str:
    return _quoted(f"blob_{name}")


def _quoted(text: str) -> str:
    """A DOT string; line ends become Graphviz's line breaks."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
