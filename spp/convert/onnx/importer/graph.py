"""An ONNX graph at one size of its inputs: constants are folded, and the shapes of all tensors are known."""
from collections import Counter
from typing import Any, Mapping

import numpy as np

from spp.convert.extras import need
from spp.errors import ConvertError

onnx = need("onnx", "onnx")
Shape = tuple[int, ...]


class FoldedGraph:
    """The nodes of a model that depend on the values of its inputs, for one size of each input.

    Raises ConvertError for a node whose shape does not follow from them.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Shape]) -> None:
        self.model = model
        self.opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self.inputs = dict(inputs)
        self.outputs = [entry.name for entry in model.graph.output]
        self.constants = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}
        self.types: dict[str, Any] = {}
        for name, shape in inputs.items():
            self._type(name, onnx.TensorProto.FLOAT, shape)
        for name, array in self.constants.items():
            self._type(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        self.nodes: list[Any] = []
        for node in model.graph.node:
            self._add(node)
        self.readers = Counter(name for node in self.nodes for name in node.input)
        self.readers.update(self.outputs)
        self.producer = {name: node for node in self.nodes for name in node.output}

    def shape(self, name: str) -> Shape:
        """A tensor's shape."""
        return tuple(dim.dim_value for dim in self.types[name].tensor_type.shape.dim)

    def const(self, name: str) -> np.ndarray | None:
        """A tensor's values, if they do not depend on the inputs' values."""
        return self.constants.get(name)

    def _type(self, name: str, kind: int, shape: Shape) -> None:
        self.types[name] = onnx.helper.make_tensor_type_proto(kind, shape)

    def _add(self, node: Any) -> None:
        if node.domain not in ("", "ai.onnx"):
            raise ConvertError(f"{described(node)} is of the domain {node.domain!r}; only ONNX's own operators can be "
                               "read")
        if node.op_type == "Shape" and node.input[0] in self.types:
            sizes = self.shape(node.input[0])
            attrs = attributes(node)
            self._constant(node, [np.array(sizes[attrs.get("start", 0):attrs.get("end")], np.int64)])
        elif node.op_type == "Constant" or all(name in self.constants or not name for name in node.input):
            self._constant(node, self._evaluate(node))
        else:
            self._infer(node)
            self.nodes.append(node)

    def _constant(self, node: Any, values: list[np.ndarray]) -> None:
        for name, value in zip(node.output, values):
            self.constants[name] = value = np.asarray(value)
            self._type(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)

    def _evaluate(self, node: Any) -> list[np.ndarray]:
        info = onnx.helper.make_empty_tensor_value_info
        graph = onnx.helper.make_graph([node], "constant", [info(name) for name in node.input if name],
                                       [info(name) for name in node.output if name])
        model = onnx.helper.make_model(graph, opset_imports=self.model.opset_import,
                                       ir_version=self.model.ir_version)
        try:
            evaluator = need("onnx.reference", "onnx").ReferenceEvaluator(model)
            return list(evaluator.run(None, {n: self.constants[n] for n in node.input if n}))
        except Exception as error:       # onnx has no base class of its errors
            raise node_error(node, f"its constant value cannot be computed: {error}") from error

    def _infer(self, node: Any) -> None:
        """Determine the types of a node's outputs."""
        if any(entry.type == onnx.AttributeProto.GRAPH for entry in node.attribute):
            raise node_error(node, "operators that contain a graph cannot be converted")
        schema = onnx.defs.get_schema(node.op_type, self.opset)
        data = {name: onnx.numpy_helper.from_array(self.constants[name], name) for name in node.input
                if name in self.constants and self.constants[name].size < 4096}
        try:
            types = onnx.shape_inference.infer_node_outputs(
                schema, node, {name: self.types[name] for name in node.input if name}, data,
                opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        except Exception as error:
            raise ConvertError(f"{described(node)} does not accept the shapes of its inputs, "
                               f"{', '.join(str(self.shape(n)) for n in node.input if n)}: {error}") from error
        for name in filter(None, node.output):
            dims = types[name].tensor_type.shape.dim if name in types else None
            if dims is None or not types[name].tensor_type.HasField("shape") or any(
                    not dim.HasField("dim_value") for dim in dims):
                raise node_error(node, f"the shape of its output {name!r} depends on values; the shapes of Caffe's "
                                       "blobs do not")
            self.types[name] = types[name]


def attributes(node: Any) -> dict[str, Any]:
    """A node's attributes as Python values; strings as str."""
    values = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def described(node: Any) -> str:
    """A node, for messages."""
    name = node.name or next(filter(None, node.output), "")
    return f"node {name!r} ({node.op_type})"


def node_error(node: Any, reason: str) -> ConvertError:
    """An error that says why a node cannot be converted."""
    return ConvertError(f"{described(node)}: {reason}")
