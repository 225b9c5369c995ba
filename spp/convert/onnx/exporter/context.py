"""An ONNX graph, built node by node, and the table of the layers' exporters.

A size is an int if it is fixed; otherwise it is the name of an int64 tensor of one element that the graph computes.
"""
import operator
from dataclasses import dataclass
from typing import Any, Callable, Sequence

import numpy as np

from spp.convert.extras import need
from spp.convert.net_builder import unique_name
from spp.convert.onnx.metadata import StoredParameter
from spp.convert.registry import registrar

onnx = need("onnx", "onnx")
helper, numpy_helper, TensorProto = onnx.helper, onnx.numpy_helper, onnx.TensorProto
OPSET, IR_VERSION = 17, 8
END = np.iinfo(np.int64).max        # as the end of a Slice: to the last element
Size = int | str
ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Div": operator.floordiv, "Max": np.maximum,
    "Min": np.minimum}


@dataclass
class Value:
    """A tensor: its name, its shape with None for sizes that vary, and its shape in the net at its own input sizes."""

    name: str
    shape: tuple[int | None, ...]
    now: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass
class Site:
    """A layer (set up and reshaped) with its bottoms, and its tops, which have no tensors yet."""

    layer: Any
    bottoms: list[Value]
    tops: list[Value]

    @property
    def param(self) -> Any:
        return self.layer.param

    @property
    def x(self) -> Value:
        return self.bottoms[0]


def values(blob: Any) -> np.ndarray:
    """A blob's data on the host."""
    return np.asarray(blob.backend.to_host(blob.data))


class OnnxExporter:
    """The nodes and constants of a graph; in the exporters of layers it is called `g`.

    owner: the name of the layer that is being written, which the names of its nodes begin with. parameters: by layer
    and index of a parameter, what `metadata` needs to find its values in the file again.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.owner = ""
        self.parameters: dict[tuple[str, int], StoredParameter] = {}
        self._constants: dict[Any, str] = {}
        self._sizes: dict[tuple[str, int], str] = {}
        self._names: set[str] = set()

    def unique(self, name: str) -> str:
        """The name, with a number appended if a tensor or node has it already."""
        return unique_name(name, self._names, "#")

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        return self.add_many(op, 1, *inputs, **attributes)[0]

    def add_many(self, op: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node; returns its outputs' names."""
        name = self.unique(f"{self.owner}/{op}")
        names = [name if outputs == 1 else self.unique(f"{name}:{i}") for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=name, **attributes))
        return names

    def const(self, values: Any, dtype: Any = np.float32) -> str:
        """A constant tensor; equal constants are one tensor."""
        return self._initializer(np.asarray(values, dtype, order="C"), f"{self.owner}/const")

    def ints(self, *values: int) -> str:
        """A constant int64 tensor of one axis."""
        return self.const(values, np.int64)

    def weight(self, layer: Any, index: int, transposed: bool = False, ones: int = 0, name: str | None = None,
               array: np.ndarray | None = None) -> str:
        """A layer's parameter as a constant, transposed, or with axes of 1 appended.

        array: values of the same shape to write in place of the parameter's own.
        """
        blob = layer.blobs[index]
        array = values(blob) if array is None else array
        array = array.T if transposed else array.reshape(array.shape + (1,) * ones)
        name = f"{layer.name}.{name or ('weight', 'bias', f'param{index}')[min(index, 2)]}"
        tensor = self._initializer(np.asarray(array, np.float32, order="C"), name, id(blob.memory))
        self.parameters[layer.name, index] = StoredParameter(tensor, blob.shape, transposed)
        return tensor

    def _initializer(self, array: np.ndarray, name: str, memory: int = 0) -> str:
        """The initializer of an array; parameters of different memory have their own, so that each can be edited."""
        key = memory, array.dtype, array.shape, array.tobytes()
        if key not in self._constants:
            self._constants[key] = self.unique(name)
            self.initializers.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    # --- sizes

    def size(self, value: Value, axis: int) -> Size:
        """The size of an axis."""
        known = value.shape[axis]
        if known is not None:
            return known
        key = value.name, axis
        if key not in self._sizes:
            self._sizes[key] = self.add("Shape", value.name, start=axis, end=axis + 1)
        return self._sizes[key]

    def compute(self, op: str, a: Any, b: Any) -> Any:
        """Integers a (op) b, for sizes and arrays of sizes; folded if both are known. Div rounds down."""
        if not isinstance(a, str) and not isinstance(b, str):
            return ARITHMETIC[op](a, b)
        return self.add(op, *(v if isinstance(v, str) else self.const(np.atleast_1d(v), np.int64) for v in (a, b)))

    def vector(self, sizes: Sequence[Size]) -> str:
        """Sizes as one int64 tensor."""
        if not any(isinstance(size, str) for size in sizes):
            return self.const(list(sizes), np.int64)
        return self.concat([size if isinstance(size, str) else self.ints(size) for size in sizes], 0)

    def real(self, size: Size) -> str:
        """A size as a float tensor of one element."""
        return self.add("Cast", size, to=TensorProto.FLOAT) if isinstance(size, str) else self.const([size])

    # --- what many layers need

    def reshape(self, x: str, sizes: Sequence[Size]) -> str:
        """x in another shape: 0 copies the size of the same axis of x, -1 is inferred."""
        return self.add("Reshape", x, self.vector(sizes))

    def slice(self, x: str, axes: Sequence[int], starts: Sequence[Size], ends: Sequence[Size],
              steps: Sequence[int] = ()) -> str:
        """The part of x from the starts up to, but without, the ends."""
        more = [self.ints(*steps)] if steps else []
        return self.add("Slice", x, self.vector(starts), self.vector(ends), self.ints(*axes), *more)

    def indices(self, x: str) -> str:
        """x as int64."""
        return self.add("Cast", x, to=TensorProto.INT64)

    def concat(self, parts: Sequence[str], axis: int) -> str:
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=axis)

    def reduce(self, op: str, x: str, axes: Sequence[int], keepdims: int = 1) -> str:
        """ReduceMax and the like over some axes."""
        if op == "ReduceSum":       # its axes are an input
            return self.add(op, x, self.ints(*axes), keepdims=keepdims)
        return self.add(op, x, axes=axes, keepdims=keepdims)

    def scaled(self, x: str, factor: float, summand: float = 0) -> str:
        """factor * x + summand."""
        if factor != 1:
            x = self.add("Mul", x, self.const(factor))
        return self.add("Add", x, self.const(summand)) if summand else x

    def linear(self, x: str, weight: str, bias: str | None) -> str:
        """x times a weight (inputs x outputs) over the last axis, + bias."""
        y = self.add("MatMul", x, weight)
        return self.add("Add", y, bias) if bias else y

    def rename(self, old: str, new: str, since: int) -> None:
        """Rename a tensor in the nodes from number `since` on."""
        for node in self.nodes[since:]:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new


# An exporter returns the tensors of the layer's tops.
Export = Callable[[OnnxExporter, Site], str | list[str]]
EXPORTERS: dict[str, Export] = {}      # by layer type
exports = registrar(EXPORTERS)
