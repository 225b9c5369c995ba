"""The source of a torch module, written layer by layer, and the table of the layers' exporters."""
import ast
import inspect
from typing import Any, Callable

import numpy as np

from spp.convert.registry import registrar
from spp.convert.torch.exporter import library
from spp.convert.torch.names import attributes, folded_scales, identifier
from spp.layers import Layer

LIBRARY = [name for name, value in vars(library).items() if getattr(value, "__module__", "") == library.__name__]


class TorchExporter:
    """The source of a class, written layer by layer.

    modules: lines of __init__. lines: lines of forward. variables: the variable of each blob. attributes: the
    attribute of each layer, by its name. scales: the Scale that is part of a BatchNorm's module, by the latter's name;
    folded: the names of these Scales.
    """

    def __init__(self, net: Any) -> None:
        self.net = net
        self.attributes = attributes(net.layers)
        self.scales = folded_scales(net)
        self.folded = {scale.name for scale in self.scales.values()}
        self.modules: list[str] = []
        self.lines: list[str] = []
        self.variables: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def shapes(self, layer: Layer) -> list[tuple[int, ...]]:
        """The shapes of a layer's bottoms now; other inputs may change all but their rank and number of channels."""
        return [self.net.blobs[name].shape for name in layer.param.bottom]

    def own(self, layer: Layer, expression: str) -> str:
        """Add the layer's attribute to the module; returns it."""
        self.modules.append(f"self.{self.attributes[layer.name]} = {expression}")
        return f"self.{self.attributes[layer.name]}"

    def variable(self, blob: str) -> str:
        """The variable for a blob's name."""
        if blob not in self._names:
            reserved = {"self", "torch", "nn", "F", "math", "tuple", "range", "len", "dict", "Net", *LIBRARY,
                        *self._names.values()}
            self._names[blob] = identifier(blob, reserved)
        return self._names[blob]

    def assign(self, layer: Layer, expressions: list[str]) -> None:
        """Assign these expressions to the tops of a layer; an expression that is a variable is not copied."""
        tops, known = list(layer.param.top), set(self.variables.values())
        if len(expressions) < len(tops):
            targets = [self.variable(top) for top in tops]
            self.lines.append(f"{', '.join(targets)} = {expressions[0]}")
            self.variables.update(zip(tops, targets))
            return
        for top, expression in zip(tops, expressions):
            self.variables[top] = expression if expression in known else self.variable(top)
            if expression not in known:
                self.lines.append(f"{self.variable(top)} = {expression}")


# Called with the layer and the variables of its bottoms, an exporter returns an expression for each top, or a single
# expression if there is one top, or if that is a call that returns several.
Export = Callable[[TorchExporter, Any, list[str]], str | list[str]]
EXPORTERS: dict[str, Export] = {}      # by layer type
exports = registrar(EXPORTERS)


def library_functions(text: str) -> list[str]:
    """The sources of the library's functions that a text uses, directly or by others, in the order of the library."""
    used: set[str] = set()
    queue = [text]
    while queue:
        words = {node.id for node in ast.walk(ast.parse(queue.pop())) if isinstance(node, ast.Name)}
        for name in [name for name in LIBRARY if name in words and name not in used]:
            used.add(name)
            queue.append(inspect.getsource(getattr(library, name)))
    return [inspect.getsource(getattr(library, name)) for name in LIBRARY if name in used]


def number(value: float) -> str:
    """The shortest text of a float of a prototxt, which has single precision."""
    return repr(float(str(np.float32(value))))


def sizes(values: Any) -> str:
    """Equal numbers for all axes as one number, others as a tuple."""
    values = tuple(int(v) for v in values)
    return str(values[0]) if len(set(values)) == 1 else repr(values)


def options(**values: Any) -> str:
    """The arguments that differ from torch's defaults, each after a comma."""
    defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": True, "ceil_mode": False}
    texts = {name: sizes(value) if isinstance(value, (tuple, list)) else repr(value) for name, value in values.items()}
    return "".join(f", {name}={text}" for name, text in texts.items() if text != repr(defaults[name]))
