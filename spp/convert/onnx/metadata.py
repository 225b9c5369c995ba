"""The net in the metadata of an ONNX file, so that spp reads exactly the net that it wrote.

Keys of metadata_props: `spp.prototxt`, the text of the net; `spp.parameters`, JSON that names for each parameter the
initializer with its values, or holds the values if no initializer has them; `spp.digest`, a hash of these two and of
the graph without the values of those initializers. Values that were edited in the file count; a file whose graph was
changed has another hash, and its metadata is not used.
"""
import hashlib
import json
import logging
from typing import Any, Mapping, NamedTuple

import numpy as np

from spp.convert.batch_norm import decode, encode, sums
from spp.convert.extras import need
from spp.convert.net_builder import set_weights
from spp.net import Net
from spp.proto import parse_net, to_text

onnx = need("onnx", "onnx")
log = logging.getLogger("spp.convert")

PROTOTXT, PARAMETERS, DIGEST = "spp.prototxt", "spp.parameters", "spp.digest"


class StoredParameter(NamedTuple):
    """The initializer that holds a parameter, the parameter's shape, and whether the initializer is its transpose."""

    tensor: str
    shape: tuple[int, ...]
    transposed: bool


def write(model: Any, net: Net, stored: Mapping[tuple[str, int], StoredParameter]) -> None:
    """Add the metadata to the model of a net. stored: the parameters that are initializers, by layer and index."""
    tensors: dict[int, set[str]] = {}       # by memory: layers may share a parameter in two shapes
    for (name, i), parameter in stored.items():
        tensors.setdefault(id(net.params[name][i].memory), set()).add(parameter.tensor)
    parameters = {layer.name: [_entry(layer, i, stored.get((layer.name, i)), tensors) for i in range(len(layer.blobs))]
                  for layer in net.layers if layer.blobs}
    properties = {PROTOTXT: _prototxt(net), PARAMETERS: json.dumps(parameters)}
    for key, value in {**properties, DIGEST: _digest(model, properties, _editable(parameters))}.items():
        model.metadata_props.add(key=key, value=value)


def read(model: Any) -> Any:
    """The NetParameter that a model was written from, with the values of its initializers.

    Returns None for a file that spp did not write, and, with a line in the log, for one whose graph was changed.
    """
    properties = {entry.key: entry.value for entry in model.metadata_props}
    if DIGEST not in properties:
        return None
    try:
        parameters = json.loads(properties[PARAMETERS])
        if _digest(model, properties, _editable(parameters)) != properties[DIGEST]:
            raise ValueError("another digest")
        param = parse_net(properties[PROTOTXT])
    except (KeyError, TypeError, ValueError):
        log.warning("the graph, or the net in its metadata, was changed after spp wrote the file: the net is "
                    "converted from its operators")
        return None
    tensors = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}
    for layer in param.layer:
        set_weights(layer, _values(layer, parameters.get(layer.name, []), tensors))
    return param


def _entry(layer: Any, index: int, stored: StoredParameter | None, tensors: Mapping[int, set[str]]) -> dict[str, Any]:
    """The JSON entry of a parameter. A BatchNorm has its sums there, as well as the means in initializers."""
    blob = layer.blobs[index]
    entry: dict[str, Any] = {"shape": list(blob.shape)}
    if stored is not None:
        entry.update(tensor=stored.tensor, transposed=stored.transposed,
                     editable=len(tensors[id(blob.memory)]) == 1)
    if stored is None or layer.type == "BatchNorm" and index < 3:
        entry["values"] = encode(np.asarray(blob.backend.to_host(blob.data)))
    return entry


def _values(layer: Any, entries: list[dict[str, Any]], tensors: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The parameters of a layer."""
    arrays = []
    for entry in entries:
        array = tensors[entry["tensor"]] if "tensor" in entry else decode(entry["values"])
        arrays.append((array.T if entry.get("transposed") else array).reshape(entry["shape"]))
    if layer.type == "BatchNorm" and "tensor" in entries[0]:
        stored = [decode(entry["values"]) for entry in entries[:3]]
        arrays[:3] = sums(arrays[:2], stored, layer.batch_norm_param.moving_average_fraction)
    return arrays


def _editable(parameters: Mapping[str, list[dict[str, Any]]]) -> set[str]:
    """The initializers that alone hold a parameter of the net."""
    return {entry["tensor"] for entries in parameters.values() for entry in entries if entry.get("editable")}


def _digest(model: Any, properties: Mapping[str, str], editable: set[str]) -> str:
    """A hash of the graph and of the net, without the values of the initializers in `editable`."""
    graph = model.graph
    parts = [properties[PROTOTXT].encode(), properties[PARAMETERS].encode()]
    parts += [entry.SerializeToString(deterministic=True) for entry in [
        *model.opset_import, *model.functions, *graph.sparse_initializer, *graph.node, *graph.input, *graph.output]]
    for entry in sorted(graph.initializer, key=lambda entry: entry.name):
        parts.append(repr((entry.name, entry.data_type, list(entry.dims))).encode())
        if entry.name not in editable:
            parts.append(onnx.numpy_helper.to_array(entry).tobytes())
    return hashlib.sha256(b"".join(b"%d:%s" % (len(part), part) for part in parts)).hexdigest()


def _prototxt(net: Net) -> str:
    """The text of the net's layers in its phase, without weights, and without layers and fields that Net adds."""
    param = type(net.param)()
    param.CopyFrom(net.param)
    param.ClearField("state")
    del param.layer[:]
    source: dict[str, str] = {}     # by a Split's top, the blob that is split
    for original in net.param.layer:
        if original.type == "Split" and original.name.endswith("_split") and not original.loss_weight:
            source.update(dict.fromkeys(original.top, original.bottom[0]))
            continue
        layer = param.layer.add()
        layer.CopyFrom(original)
        layer.bottom[:] = [source.get(name, name) for name in layer.bottom]
        del layer.blobs[:]
        if layer.type == "BatchNorm" and all(spec == type(spec)(lr_mult=0) for spec in layer.param):
            del layer.param[:]          # the layer's setup adds them
        if layer.type in ("ConvolutionDepthwise", "DepthwiseConvolution"):
            layer.convolution_param.ClearField("group")     # the layer's setup sets it
        if net.param.state.level or net.param.state.stage:      # the reader of the text would have to know them
            layer.ClearField("include")
            layer.ClearField("exclude")
    return to_text(param)
