"""The net that an ONNX graph becomes, and the table of the operators' importers."""
from contextlib import suppress
from typing import Any, Callable, Iterator, Mapping, Sequence

import numpy as np

from spp.convert.net_builder import NetBuilder
from spp.convert.onnx.importer.graph import FoldedGraph, Shape, described, node_error
from spp.convert.registry import registrar
from spp.errors import ConvertError


class OnnxImporter(NetBuilder):
    """The net that is built from a model's nodes.

    folded: the graph at the inputs' sizes, with its shape, const and readers; others: the same graph at larger sizes,
    where they may vary. fixed: whether the net may be right for the given sizes alone. blobs: the blob of each tensor.
    pads: for the output of a Pad, its input, the number of elements before and after each axis, and their value.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Shape], varying: Sequence[Mapping[str, Shape]],
                 fixed: bool) -> None:
        super().__init__(model.graph.name or "net")
        self.fixed = fixed
        self.folded = FoldedGraph(model, inputs)
        self.shape, self.const, self.readers = self.folded.shape, self.folded.const, self.folded.readers
        self.others = list(_graphs_that_fold(model, varying))
        self.blobs: dict[str, str] = {}
        self.pads: dict[str, tuple[str, np.ndarray, float]] = {}

    def blob(self, tensor: str, node: Any) -> str:
        """The blob of a tensor that depends on the inputs' values."""
        if tensor in self.pads:
            raise ConvertError(f"{described(node)} reads a padded map, and Caffe has padding in convolution and "
                               "pooling only")
        if tensor not in self.blobs:
            raise node_error(node, f"its input {tensor!r} is a constant, and the layers for this operator read blobs")
        return self.blobs[tensor]

    def bottoms(self, node: Any) -> list[str]:
        """The blobs of all inputs of a node."""
        return [self.blob(tensor, node) for tensor in node.input]

    def weights(self, node: Any) -> list[np.ndarray]:
        """The values of the node's inputs after the first, which must be constants."""
        for name in node.input[1:]:
            if self.const(name) is None:
                raise node_error(node, f"its weights {name!r} are computed from the inputs")
        return [self.folded.constants[name] for name in node.input[1:]]

    def add(self, kind: str, node: Any, bottoms: Sequence[str] = (), top: str | None = None,
            weights: Sequence[Any] = (), **params: Any) -> Any:
        """Append a layer; its top is the tensor, or blob, `top`. Defaults: the node's first input and first output."""
        bottoms, top = bottoms or [self.blob(node.input[0], node)], top or node.output[0]
        self.blobs[top] = top
        return self.add_layer(kind, self.unique(node.name or node.output[0]), bottoms, [top], weights, **params)

    def within(self, node: Any) -> str:
        """The name of a blob between the layers that one node becomes."""
        return self.unique(f"{node.output[0]}/part")


def _graphs_that_fold(model: Any, varying: Sequence[Mapping[str, Shape]]) -> Iterator[FoldedGraph]:
    """The graph at those sizes that it accepts; with a fully connected layer it may accept its own only."""
    for shapes in varying:
        with suppress(ConvertError):
            yield FoldedGraph(model, shapes)


Import = Callable[[OnnxImporter, Any], None]
IMPORTERS: dict[str, Import] = {}      # by operator; called with the importer and a node
imports = registrar(IMPORTERS)
