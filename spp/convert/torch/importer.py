"""torch modules to Caffe: the graph that torch.export traces, as a prototxt with weights.

What is made is built and run: where it does not compute what the module computes, nothing is returned.
"""
import re
from types import SimpleNamespace
from typing import Any, Callable, Iterator, Sequence

import numpy as np
import torch

from spp.errors import ConvertError
from spp.net import Net
from spp.proto import arrays, caffe_pb2

Handle = Callable[["Reader", Any, SimpleNamespace], None]
HANDLERS: dict[str, Handle] = {}
REFUSED: dict[str, str] = {
    "lstm": "Caffe's LSTM wants markers of the sequences' beginnings; write it in the prototxt, and convert its "
            "weights by convert_weights",
    "gelu": "Caffe has no such function",
    "constant_pad_nd": "Caffe pads in convolution and pooling only; give them the padding",
    "scaled_dot_product_attention": "Caffe has no attention",
    "layer_norm": "Caffe's MVN normalises images without a learned scale of each element",
    "group_norm": "Caffe has no normalisation of groups of channels",
    "pixel_shuffle": "Caffe has no layer for it; a Deconvolution can take its place",
}


def handles(*names: str) -> Callable[[Handle], Handle]:
    """Decorator: the function turns calls of these ATen operators (with or without "_", in place) into layers."""
    def enter(function: Handle) -> Handle:
        HANDLERS.update(dict.fromkeys(names, function))
        return function
    return enter


def to_param(module: Any, inputs: Sequence[Any]) -> caffe_pb2.NetParameter:
    """The net of a torch module in eval mode, its layers holding their weights; `inputs`: tensors to trace it with.

    Raises ConvertError that names the operator, where in the module it is, and why Caffe cannot take it; and if the
    outputs for these inputs differ.
    """
    training = module.training
    module.eval()
    try:
        try:
            program = torch.export.export(module, tuple(inputs))
        except Exception as error:      # whatever torch raises for a module that it cannot trace
            reason = str(error).strip().splitlines()[0]
            raise ConvertError(f"torch.export cannot trace the module: {reason}") from error
        with torch.no_grad():
            param = of_program(program, inputs, module(*(value.clone() for value in inputs)))
        param.name = type(module).__name__
        return param
    finally:
        module.train(training)


def of_program(program: Any, inputs: Sequence[Any], outputs: Any) -> caffe_pb2.NetParameter:
    """As `to_param` of a torch.export.ExportedProgram, with what it makes of the inputs."""
    reader = Reader(program)
    param = reader.read()
    net = Net(param, device="cpu")
    expected = [outputs] if isinstance(outputs, torch.Tensor) else \
        list(outputs.values()) if isinstance(outputs, dict) else list(outputs)
    net.forward(**{name: value.numpy() for name, value in zip(net.inputs, inputs)})
    for name, value in zip(reader.outputs, expected):
        found, wanted = net.blobs[name].data, value.numpy()
        if found.shape != wanted.shape or not np.allclose(found, wanted, 1e-3, 1e-4 * (np.abs(wanted).max() + 1e-6)):
            raise ConvertError(f"the net's output {name!r} is not the module's: operators that write into views of "
                               "other tensors cannot be converted; all else is a fault of this conversion")
    return param


def random_inputs(program: Any) -> list[Any]:
    """Inputs for a program: random floats, and zeros where it takes integers; raises ConvertError for no tensor."""
    inputs = []
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name not in _stored(program):
            value = _tensor(node)
            made = torch.randn if value.dtype.is_floating_point else torch.zeros
            inputs.append(made([int(size) for size in value.shape], dtype=value.dtype))
    return inputs


def _stored(program: Any) -> dict[str, str]:
    """The names of the parameters and buffers by their names in the graph."""
    return {**program.graph_signature.inputs_to_parameters, **program.graph_signature.inputs_to_buffers}


def _tensor(node: Any) -> Any:
    """What the graph knows of an input."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        raise ConvertError(f"the module's input {node.name!r} is no tensor; give it a fixed value in the module")
    return value


class Reader:
    """The NetParameter that grows while a graph's nodes are read, and which blob holds what of them."""

    def __init__(self, program: Any) -> None:
        self.program = program
        self.param = caffe_pb2.NetParameter(name="torch")
        self.blobs: dict[Any, str] = {}             # by node
        self.parts: dict[Any, list[str]] = {}       # blobs of a node that is a tuple
        self.constants: dict[str, Any] = {}
        self.outputs: list[str] = []
        self._names: set[str] = set()

    def read(self) -> caffe_pb2.NetParameter:
        """The net, its layers with their weights."""
        state, targets = self.program.state_dict, _stored(self.program)
        for name, target in targets.items():
            value = state[target] if target in state else self.program.constants[target]
            self.constants[name] = value.detach().float().numpy()
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                if node.name not in targets:
                    self._input(node)
            elif node.op == "output":
                self.outputs = [self.blob(value) for value in node.args[0]]
            else:
                self._call(node)
        return self.param

    def _input(self, node: Any) -> None:
        layer = self.layer(node, "Input", [], name=node.name)
        layer.input_param.shape.add().dim.extend(int(size) for size in _tensor(node).shape)

    def _call(self, node: Any) -> None:
        if str(node.target) == "<built-in function getitem>":
            parts, index = self.parts[node.args[0]], node.args[1]
            if index < len(parts):
                self.blobs[node] = parts[index]
            elif node.users:
                raise self.error(node.args[0], "the places of the maxima are read, and SPP does not tell them")
            return
        name = operator_name(node)
        plain = name.rstrip("_")
        if plain not in HANDLERS:
            raise self.error(node, REFUSED.get(plain, "it is not among those that this conversion knows"))
        HANDLERS[plain](self, node, arguments(node))
        if name.endswith("_") and node.args[0] in self.blobs:
            self.blobs[node.args[0]] = self.blobs[node]      # later readers see what was written there

    def error(self, node: Any, reason: str) -> ConvertError:
        """The refusal of a node."""
        place = module_path(node)
        return ConvertError(f"{operator_name(node)}{f' in module {place!r}' if place else ''} cannot be converted to "
                            f"Caffe: {reason}")

    def layer(self, node: Any, kind: str, bottoms: Sequence[str], name: str = "", tops: int = 1,
              weights: Sequence[np.ndarray] = ()) -> Any:
        """Add a layer that makes the node's value (or, with more tops, its parts); returns its LayerParameter."""
        name = self._unique(name or module_path(node) or node.name)
        layer = self.param.layer.add(name=name, type=kind)
        layer.bottom.extend(bottoms)
        layer.top.extend([name] if tops == 1 else [f"{name}_{i}" for i in range(tops)])
        for array in weights:
            layer.blobs.append(arrays.to_proto(np.ascontiguousarray(array, np.float32)))
        if tops == 1:
            self.blobs[node] = name
        else:
            self.parts[node] = list(layer.top)
        return layer

    def blob(self, value: Any) -> str:
        """The blob of a node that depends on the inputs."""
        if value in self.blobs:
            return self.blobs[value]
        raise ConvertError(f"{value} is a constant, and Caffe takes constants as layers' parameters only")

    def constant(self, node: Any, value: Any) -> np.ndarray | None:
        """The values of an argument that is a parameter or buffer; None for None."""
        if value is None:
            return None
        if getattr(value, "name", None) not in self.constants:
            raise self.error(node, "its weights are computed, not stored")
        return self.constants[value.name]

    def _unique(self, name: str) -> str:
        name = re.sub(r"\s+", "_", name)
        found, number = name, 1
        while found in self._names:
            number += 1
            found = f"{name}_{number}"
        self._names.add(found)
        return found


def arguments(node: Any) -> SimpleNamespace:
    """A call's arguments by name, with their defaults."""
    schema = node.target._schema.arguments
    values = {argument.name: argument.default_value for argument in schema}
    values.update(node.kwargs)
    values.update(zip((argument.name for argument in schema), node.args))
    return SimpleNamespace(**values)


def operator_name(node: Any) -> str:
    """conv2d of aten.conv2d.default."""
    return str(node.target).split(".")[1] if str(node.target).count(".") >= 2 else str(node.target)


def module_path(node: Any) -> str:
    """The path of the torch.nn module that a node belongs to; "" for what the user's own modules compute."""
    *_, (path, kind) = [("", ""), *_stack(node)]
    return path if ".nn.modules." in str(kind) or ".nn." in str(kind) and "container" not in str(kind) else ""


def _stack(node: Any) -> Iterator[tuple[str, Any]]:
    for path, kind in node.meta.get("nn_module_stack", {}).values():
        yield path, kind


def shape(node: Any) -> tuple[int, ...]:
    """The sizes of a node's value."""
    return tuple(int(size) for size in node.meta["val"].shape)
