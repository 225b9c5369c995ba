"""The net that an ONNX graph becomes, layer by layer, and the table of the functions that read operators."""
from typing import Any, Callable, Iterator, Mapping, Sequence

import numpy as np

from spp.convert.onnx.importer.graph import Folded, Shape, described
from spp.errors import ConvertError
from spp.proto import arrays, caffe_pb2


class Importer:
    """The net that a model becomes; handlers of operators add layers to it.

    `folded` is the graph at the inputs' sizes, `others` the same at larger ones where they may vary, and `fixed`
    says that the net need not take those. A handler is called with the importer and a node; `blob` gives the blob of
    an input, `add` appends a layer.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Shape], varying: Sequence[Mapping[str, Shape]],
                 fixed: bool) -> None:
        self.fixed = fixed
        self.folded = Folded(model, inputs)
        self.others = list(_that_fold(model, varying))
        self.net = caffe_pb2.NetParameter(name=model.graph.name or "net")
        self.blobs: dict[str, str] = {}         # tensor to blob
        self.pads: dict[str, tuple[str, np.ndarray, float]] = {}    # of tensors that a Pad makes: tensor, sizes, value
        self.taken: set[str] = set()

    def blob(self, tensor: str, node: Any) -> str:
        """The blob of a tensor that the inputs' values go into."""
        if tensor in self.pads:
            raise ConvertError(f"{described(node)} reads a padded map, and Caffe has padding in convolution and "
                               "pooling only")
        if tensor not in self.blobs:
            raise ConvertError(f"{described(node)}: its input {tensor!r} is a constant, and the layers that could "
                               "take its place read blobs")
        return self.blobs[tensor]

    def shape(self, tensor: str) -> Shape:
        return self.folded.shape(tensor)

    def const(self, tensor: str) -> np.ndarray | None:
        return self.folded.const(tensor)

    def at_all_sizes(self, *tensors: str) -> list[tuple[Shape, ...]]:
        """The tensors' shapes at the inputs' sizes, and at the larger ones."""
        return [tuple(folded.shape(tensor) for tensor in tensors) for folded in [self.folded, *self.others]]

    def sole(self, tensor: str) -> bool:
        """Whether one node reads a tensor, and it is no output."""
        return self.folded.readers[tensor] == 1

    def add(self, kind: str, node: Any, bottoms: Sequence[str], top: str | None = None, weights: Sequence[Any] = (),
            **params: Any) -> Any:
        """Append a layer that makes the tensor, or blob, `top` (default: the node's output); returns it."""
        top = top or node.output[0]
        name = node.name or node.output[0]
        layer = self.net.layer.add(name=self.unique(name), type=kind)
        layer.bottom.extend(bottoms)
        layer.top.append(top)
        self.blobs[top] = top
        for field, values in params.items():
            message = getattr(layer, field)
            message.SetInParent()
            for key, value in values.items():
                if isinstance(value, (list, tuple)):
                    getattr(message, key).extend(value)
                else:
                    setattr(message, key, value)
        layer.blobs.extend(arrays.to_proto(np.asarray(weight, np.float32, order="C")) for weight in weights)
        return layer

    def within(self, node: Any) -> str:
        """The name of a blob between the several layers that a node becomes."""
        return self.unique(f"{node.output[0]}/part")

    def unique(self, wanted: str) -> str:
        """A layer's or blob's name that no other layer has."""
        name, number = wanted, 1
        while name in self.taken:
            number += 1
            name = f"{wanted}_{number}"
        self.taken.add(name)
        return name

    def replace_top(self, layer: Any, old: str, new: str, weights: Sequence[Any]) -> None:
        """Let a layer, whose top is the tensor `old`, make `new` instead, with these weights."""
        del layer.blobs[:]
        layer.blobs.extend(arrays.to_proto(np.asarray(weight, np.float32, order="C")) for weight in weights)
        layer.top[0] = new
        del self.blobs[old]
        self.blobs[new] = new

    def alias(self, tensor: str, source: str) -> None:
        """A tensor that is another one, handed on."""
        self.blobs[tensor] = source


def _that_fold(model: Any, varying: Sequence[Mapping[str, Shape]]) -> Iterator[Folded]:
    """The graph at those sizes that it takes: one with a fully connected layer may take no other than its own."""
    for shapes in varying:
        try:
            yield Folded(model, shapes)
        except ConvertError:
            continue


Handler = Callable[[Importer, Any], None]
HANDLERS: dict[str, Handler] = {}


def reads(*ops: str) -> Callable[[Handler], Handler]:
    """Decorator: the function turns nodes of these operators into layers."""
    def enter(function: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(ops, function))
        return function
    return enter
