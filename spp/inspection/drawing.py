"""A net as a picture: text for graphviz."""
from typing import Any, Sequence

COLOURS = {"Convolution": "#f4a582", "Deconvolution": "#f4a582", "Pooling": "#fddbc7", "SPP": "#fddbc7",
           "InnerProduct": "#b2abd2"}
OTHER, DATA, LOSS, BLOB = "#92c5de", "#d9d9d9", "#ffff99", "#f0f0f0"
DIRECTIONS = ("LR", "TB", "RL", "BT")


def to_dot(net: Any, rankdir: str = "LR", shapes: dict[str, Sequence[int]] | None = None) -> str:
    """The graphviz text of a NetParameter: boxes for layers, ellipses for blobs.

    A layer that works in place hangs behind the layer whose blob it changes, which is drawn once. `rankdir`
    is the direction of reading, one of DIRECTIONS; `shapes` (blob name to shape) are written under the names.
    """
    lines = [f"digraph {_quoted(net.name or 'net')} {{", f"  rankdir={rankdir};",
             '  node [fontname="Helvetica", fontsize=10, style=filled];', '  edge [fontname="Helvetica", fontsize=9];']
    makers: dict[str, list[str]] = {}       # blob -> the layers to draw its edges from: in two phases, or in place
    drawn: set[str] = set()
    for i, layer in enumerate(net.layer):
        node = f"layer_{i}"
        lines.append(f"  {node} [shape=box, fillcolor={_quoted(_colour(layer))}, label={_quoted(_label(layer))}];")
        in_place = [name for name in layer.top if name in layer.bottom and name not in drawn]
        for name in layer.bottom:
            if name in in_place and name in makers:
                lines += [f"  {maker} -> {node};" for maker in makers[name]]
            else:
                _add_blob(name, lines, drawn, makers, shapes or {})
                lines.append(f"  {_blob(name)} -> {node};")
        for name in layer.top:
            if name in drawn:       # it is there already, with its readers so far
                lines.append(f"  {node} -> {_blob(name)};")
            else:
                makers[name] = [node] if name in in_place else [*makers.get(name, []), node]
    for name in makers:
        _add_blob(name, lines, drawn, makers, shapes or {})
    return "\n".join([*lines, "}"]) + "\n"


def _add_blob(name: str, lines: list[str], drawn: set[str], makers: dict[str, list[str]],
              shapes: dict[str, Sequence[int]]) -> None:
    """Draw a blob, once, and the edges from its makers."""
    if name in drawn:
        return
    drawn.add(name)
    shape = "\n" + " x ".join(map(str, shapes[name])) if name in shapes else ""
    lines.append(f"  {_blob(name)} [shape=ellipse, fillcolor={_quoted(BLOB)}, label={_quoted(name + shape)}];")
    lines += [f"  {maker} -> {_blob(name)};" for maker in makers.get(name, [])]


def _colour(layer: Any) -> str:
    if not layer.bottom:
        return DATA
    return LOSS if "Loss" in layer.type else COLOURS.get(layer.type, OTHER)


def _label(layer: Any) -> str:
    """Name, type, and the numbers that a reader of a drawing looks for."""
    lines = [layer.name, layer.type]
    if layer.type in ("Convolution", "Deconvolution"):
        p = layer.convolution_param
        lines[1] += f" {p.num_output}"
        lines.append(_window(p))
    elif layer.type == "Pooling":
        p = layer.pooling_param
        lines[1] += f" {p.PoolMethod.Name(p.pool)}"
        lines.append("global" if p.global_pooling else _window(p))
    elif layer.type == "InnerProduct":
        lines[1] += f" {layer.inner_product_param.num_output}"
    elif layer.type == "SPP":
        lines.append("bins " + ", ".join(map(str, layer.spp_param.bins)) if layer.spp_param.bins
                     else f"pyramid height {layer.spp_param.pyramid_height}")
    return "\n".join(lines)


def _window(p: Any) -> str:
    parts = []
    for words, name, default in (("kernel", "kernel", ""), ("stride", "stride", "1"), ("pad", "pad", "0")):
        one = "kernel_size" if name == "kernel" else name
        given = getattr(p, one)
        values = list(given) if hasattr(given, "__len__") else [given] if p.HasField(one) else []
        if not values and (p.HasField(f"{name}_h") or p.HasField(f"{name}_w")):
            values = [getattr(p, f"{name}_h"), getattr(p, f"{name}_w")]
        shown = "x".join(map(str, values))
        if shown and shown != default:
            parts.append(f"{words} {shown}")
    return ", ".join(parts)


def _blob(name: str) -> str:
    return _quoted(f"blob_{name}")


def _quoted(words: str) -> str:
    """A string of graphviz, its lines broken where `words` has line ends."""
    escaped = words.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
