"""The net that the graph of a torch.export.ExportedProgram becomes, and the table of the operators' importers."""
import re
from types import SimpleNamespace
from typing import Any, Callable, Sequence

import numpy as np
import torch

from spp.convert.net_builder import NetBuilder
from spp.convert.registry import registrar
from spp.errors import ConvertError
from spp.proto import caffe_pb2

REASONS = {
    "lstm": "Caffe's LSTM needs markers of the sequences' starts; write it in the prototxt, and convert its "
            "weights by convert_weights",
    "gelu": "Caffe has no such function",
    "constant_pad_nd": "Caffe pads in convolution and pooling only; give them the padding",
    "scaled_dot_product_attention": "Caffe has no attention",
    "layer_norm": "Caffe's MVN normalises images without a learned scale of each element",
    "group_norm": "Caffe has no normalisation of groups of channels",
    "pixel_shuffle": "Caffe has no layer for it; a Deconvolution can take its place",
}


class TorchImporter(NetBuilder):
    """The net that is built while a graph's nodes are read.

    blobs: the blob of each node. parts: the blobs of a node whose value is a tuple. constants: parameters and buffers
    by their names in the graph. outputs: the blobs of the graph's outputs.
    """

    def __init__(self, program: Any) -> None:
        super().__init__("torch")
        self.program = program
        self.blobs: dict[Any, str] = {}
        self.parts: dict[Any, list[str]] = {}
        self.constants: dict[str, Any] = {}
        self.outputs: list[str] = []

    def read(self) -> caffe_pb2.NetParameter:
        """The net, its layers with their weights."""
        state, targets = self.program.state_dict, stored_tensors(self.program)
        for name, target in targets.items():
            value = state[target] if target in state else self.program.constants[target]
            self.constants[name] = value.detach().float().numpy()
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                if node.name not in targets:
                    sizes = [int(size) for size in input_value(node).shape]
                    self.layer(node, "Input", [], node.name, input_param={"shape": [{"dim": sizes}]})
            elif node.op == "output":
                self.outputs = [self.blob(value) for value in node.args[0]]
            else:
                self._call(node)
        return self.param

    def _call(self, node: Any) -> None:
        if str(node.target) == "<built-in function getitem>":
            parts, index = self.parts[node.args[0]], node.args[1]
            if index < len(parts):
                self.blobs[node] = parts[index]
            elif node.users:
                raise self.error(node.args[0], "the indices of the maxima are read, and SPP does not return them")
            return
        name = operator_name(node)
        plain = name.rstrip("_")
        if plain not in IMPORTERS:
            raise self.error(node, REASONS.get(plain, "it is not among the operators that this conversion knows"))
        IMPORTERS[plain](self, node, arguments(node))
        if name.endswith("_") and node.args[0] in self.blobs:
            self.blobs[node.args[0]] = self.blobs[node]      # later readers see what was written there

    def error(self, node: Any, reason: str) -> ConvertError:
        """An error that says why a node cannot be converted."""
        place = module_path(node)
        return ConvertError(f"{operator_name(node)}{f' in module {place!r}' if place else ''} cannot be converted to "
                            f"Caffe: {reason}")

    def layer(self, node: Any, kind: str, inputs: Sequence[Any], name: str = "", tops: int = 1,
              weights: Sequence[np.ndarray] = (), **params: dict[str, Any]) -> Any:
        """Append a layer that computes the node's value (with several tops: its parts); returns its LayerParameter.

        inputs: nodes, or names of blobs. weights, params: as in add_layer.
        """
        name = self.unique(re.sub(r"\s+", "_", name or module_path(node) or node.name))
        bottoms = [value if isinstance(value, str) else self.blob(value) for value in inputs]
        layer = self.add_layer(kind, name, bottoms, [name] if tops == 1 else [f"{name}_{i}" for i in range(tops)],
                               weights, **params)
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

    def weights(self, node: Any, *values: Any) -> list[np.ndarray]:
        """The values of arguments that are parameters or buffers, without those that are None."""
        stored = [value for value in values if value is not None]
        if any(getattr(value, "name", None) not in self.constants for value in stored):
            raise self.error(node, "its weights are computed, not stored")
        return [self.constants[value.name] for value in stored]


Import = Callable[[TorchImporter, Any, SimpleNamespace], None]
IMPORTERS: dict[str, Import] = {}      # by ATen operator, without the "_" of one that works in place
imports = registrar(IMPORTERS)


def arguments(node: Any) -> SimpleNamespace:
    """A call's arguments by name, with their defaults."""
    schema = node.target._schema.arguments
    defaults = {argument.name: argument.default_value for argument in schema}
    return SimpleNamespace(**{**defaults, **node.kwargs, **dict(zip(defaults, node.args))})


def operator_name(node: Any) -> str:
    """The operator's plain name: conv2d of aten.conv2d.default."""
    return str(node.target).split(".")[1] if str(node.target).count(".") >= 2 else str(node.target)


def module_path(node: Any) -> str:
    """The path of the torch.nn module that a node belongs to; "" if it belongs to a module of the user's own class."""
    path, kind = [("", ""), *node.meta.get("nn_module_stack", {}).values()][-1]
    return path if ".nn.modules." in str(kind) or ".nn." in str(kind) and "container" not in str(kind) else ""


def shape(node: Any) -> tuple[int, ...]:
    """The sizes of a node's value."""
    return tuple(int(size) for size in node.meta["val"].shape)


def stored_tensors(program: Any) -> dict[str, str]:
    """The names of the parameters and buffers by their names in the graph."""
    return {**program.graph_signature.inputs_to_parameters, **program.graph_signature.inputs_to_buffers}


def input_value(node: Any) -> Any:
    """The traced tensor of an input; raises ConvertError for an input of another type."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        raise ConvertError(f"the module's input {node.name!r} is no tensor; give it a fixed value in the module")
    return value
