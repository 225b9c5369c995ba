"""The net that an importer builds layer by layer; the importers of torch, ONNX and cuda-convnet derive from it."""
from typing import Any, Collection, Sequence

import numpy as np

from spp.backend.types import Geometry
from spp.proto import arrays, caffe_pb2


def unique_name(name: str, names: set[str], separator: str) -> str:
    """The name, with a number appended if it is in `names` already; adds the result to `names`."""
    result, number = name, 1
    while result in names:
        number += 1
        result = f"{name}{separator}{number}"
    names.add(result)
    return result


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

    def add_layer(self, kind: str, name: str, bottoms: Sequence[str], tops: Sequence[str] | None = None,
                  weights: Sequence[Any] = (), **params: dict[str, Any]) -> Any:
        """Append a layer and return its LayerParameter.

        name: must be unique (see `unique`). tops: one named as the layer if not given. weights: arrays, stored as
        float32. params: the fields of its parameter messages, as convolution_param={"num_output": 96}.
        """
        layer = self.param.layer.add(name=name, type=kind, bottom=bottoms, top=[name] if tops is None else tops)
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


def remove_layers(param: Any, names: Collection[str]) -> None:
    """Remove the layers with these names from a NetParameter."""
    for i in reversed(range(len(param.layer))):
        if param.layer[i].name in names:
            del param.layer[i]


def convolution_param(outputs: int, geometry: Geometry, bias: bool) -> dict[str, Any]:
    """The fields of a ConvolutionParameter that differ from the defaults; sizes that are equal for all axes as one."""
    param: dict[str, Any] = {"num_output": outputs}
    for field, sizes, default in (("kernel_size", geometry.kernel, 0), ("stride", geometry.stride, 1),
                                  ("pad", geometry.pad, 0), ("dilation", geometry.dilation, 1)):
        if any(size != default for size in sizes):
            param[field] = sizes[:1] if len(set(sizes)) == 1 else sizes
    if geometry.group != 1:
        param["group"] = geometry.group
    return param if bias else {**param, "bias_term": False}


def inner_product_param(outputs: int, bias: bool, axis: int) -> dict[str, Any]:
    """The fields of an InnerProductParameter that differ from the defaults."""
    return {"num_output": outputs, **({} if bias else {"bias_term": False}), **({"axis": axis} if axis != 1 else {})}
