"""The net that an importer builds layer by layer; the importers of torch, ONNX and cuda-convnet derive from it."""
from typing import Any, Sequence

import numpy as np

from spp.convert.unique import unique_name
from spp.proto import arrays, caffe_pb2


class NetBuilder:
    """A NetParameter that grows layer by layer.

    param: the net so far, with weights in its layers.
    """

    def __init__(self, name: str) -> None:
        self.param = caffe_pb2.NetParameter(name=name)
        self._names: set[str] = set()

    def unique(self, name: str) -> str:
        """The name, with a number appended if a layer or blob has it already."""
        return unique_name(name, self._names, "_")

    def add_layer(self, kind: str, name: str, bottoms: Sequence[str], tops: Sequence[str],
                  weights: Sequence[Any] = (), **params: dict[str, Any]) -> Any:
        """Append a layer and return its LayerParameter.

        name: must be unique (see `unique`). weights: arrays, stored as float32. params: the fields of its parameter
        messages, as convolution_param={"num_output": 96}.
        """
        layer = self.param.layer.add(name=name, type=kind, bottom=bottoms, top=tops)
        for field, values in params.items():
            message = getattr(layer, field)
            message.SetInParent()
            message.MergeFrom(type(message)(**values))
        set_weights(layer, weights)
        return layer


def set_weights(layer: Any, weights: Sequence[Any]) -> None:
    """Replace the blobs of a LayerParameter by these arrays, as float32."""
    del layer.blobs[:]
    layer.blobs.extend(arrays.to_proto(np.asarray(weight, np.float32, order="C")) for weight in weights)
