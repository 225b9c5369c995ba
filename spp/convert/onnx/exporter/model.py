"""Nets to ONNX: a prototxt and its weights as a file of standard operators (opset 17).

Sizes of the inputs that may vary in the net, usually batch, height and width, vary in the file too. Which sizes may
vary is determined by reshaping the net; a size for which this fails is fixed.
"""
from typing import Any, Iterator, Mapping, Sequence

import numpy as np

from spp import graph
from spp.atomic import replacing
from spp.convert.onnx import metadata
from spp.convert.onnx.exporter.context import (
    EXPORTERS, IR_VERSION, OPSET, OnnxExporter, Site, TensorProto, Value, helper, onnx)
from spp.convert.registry import import_modules
from spp.errors import ConvertError, NetError, SppError
from spp.layers import TEST
from spp.layers.registry import layer_class
from spp.net import Net
from spp.proto import read_net

import_modules("spp.convert.onnx.exporter")

REASONS = {
    "DetectionOutput": "no standard operator has its rule of suppression (top_k before, keep_top_k of all classes "
                       "after); end the net before it",
    "Python": "a Python layer is code of its own; end the net before it, or replace it by Caffe's layers",
}
LOSS = "a loss belongs to training; export the deploy prototxt"
DATA = "a data layer reads files; export the deploy prototxt, which has an Input"
BATCHES, STEPS = (1, 2, -1), tuple(range(-33, 34))


def export(net: Any, weights: str | Sequence[str] | None, output: str, notes: Mapping[str, str] | None) -> None:
    """See spp.convert.onnx.export."""
    if not isinstance(net, Net):
        _check_types(graph.filter_net(read_net(net), TEST).layer, net)      # before data layers ask for their files
        net = Net(net, weights=weights, device="cpu")
    model = to_model(net, notes)
    try:
        content = model.SerializeToString()
    except ValueError as error:
        raise ConvertError(f"{output}: not written: a model in one file has at most 2 GB ({error})") from error
    with replacing(output, ConvertError) as temporary, open(temporary, "wb") as file:
        file.write(content)


def to_model(net: Net, notes: Mapping[str, str] | None = None) -> Any:
    """See spp.convert.onnx.to_model."""
    if net.phase != TEST:
        raise ConvertError("an ONNX file is for inference; build the net in phase TEST")
    _check_types([layer.param for layer in net.layers], net.source)
    names = _outputs(net)
    if not names:
        raise ConvertError(f"{net.source or net.name}: no layer makes an output of the net, which an ONNX graph needs")
    dimensions, shapes = _trials(net)
    exporter = OnnxExporter()
    tensors = _write_layers(net, exporter, shapes, names)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dimensions[name]) for name in net.inputs]
    outputs = [helper.make_tensor_value_info(tensors[name], TensorProto.FLOAT, [
        f"{name}_{axis}" if size is None else size for axis, size in enumerate(shapes[name])])
        for name in names]
    model = helper.make_model(
        helper.make_graph(exporter.nodes, net.name or "net", inputs, outputs, exporter.initializers),
        opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="spp")
    sizes = {f"input.{name}": "x".join(map(str, net.blobs[name].shape)) for name in net.inputs}
    helper.set_model_props(model, {**sizes, **(notes or {})})
    metadata.write(model, net, exporter.parameters)
    onnx.checker.check_model(model, full_check=True)
    return model


def _check_types(params: Sequence[Any], source: str | None) -> None:
    """Raise ConvertError for a layer whose type has no exporter."""
    for param in params:
        if param.type not in EXPORTERS and param.type != "Input":
            facts = layer_class(param.type)
            reason = LOSS if facts.is_loss or param.type == "Accuracy" else DATA if facts.bottoms == (0, 0) else \
                "no combination of standard operators is known for it"
            raise ConvertError(_refusal(source, param, REASONS.get(param.type, reason)))


def _refusal(source: str | None, layer: Any, reason: str) -> str:
    place = f"{source}: " if source else ""
    return f"{place}layer {layer.name!r} ({layer.type}) cannot be expressed in ONNX: {reason}"


def _outputs(net: Net) -> list[str]:
    """The blobs that layers compute and no later layer reads, in order; without the inputs."""
    left: dict[str, None] = {}
    for layer in net.layers:
        for name in layer.param.bottom:
            left.pop(name, None)
        if layer.type != "Input":
            left.update(dict.fromkeys(layer.param.top))
    return list(left)


def _write_layers(net: Net, g: OnnxExporter, shapes: dict[str, tuple[int | None, ...]],
                  outputs: Sequence[str]) -> dict[str, str]:
    """Write all layers; returns the tensor of every blob."""
    last = {top: i for i, layer in enumerate(net.layers) for top in layer.param.top}
    tensors = {name: g.unique(name) for name in net.inputs}
    for name, i in last.items():        # reserved: no other tensor gets the blob's own name
        if net.layers[i].type != "Input":
            tensors[f"final {name}"] = g.unique(name)
    for i, layer in enumerate(net.layers):
        if layer.type == "Input":
            continue
        param = layer.param
        since, g.owner = len(g.nodes), layer.name
        site = Site(layer, *([Value(tensors.get(name, ""), shapes[name], net.blobs[name].shape) for name in names]
                             for names in (param.bottom, param.top)))
        try:
            result = EXPORTERS[layer.type](g, site)
        except SppError as error:
            raise ConvertError(_refusal(net.source, layer, str(error))) from error
        for name, tensor in zip(param.top, [result] if isinstance(result, str) else result):
            new = {output for node in g.nodes[since:] for output in node.output}
            if tensor not in new and name not in outputs:
                tensors[name] = tensor      # a bottom, unchanged
                continue
            if tensor not in new:
                tensor = g.add("Identity", tensor)
            final = tensors[f"final {name}"] if last[name] == i else g.unique(f"{name}@{layer.name}")
            g.rename(tensor, final, since)
            tensors[name] = final
        if len(g.nodes) == since + 1:
            g.nodes[since].name = layer.name
    return tensors


# --- which sizes vary

def _trials(net: Net) -> tuple[dict[str, list[int | str]], dict[str, tuple[int | None, ...]]]:
    """For each input its sizes, with a name for those that vary; for each blob its sizes, with None for those."""
    original = {name: net.blobs[name].shape for name in net.inputs}
    shapes: dict[str, list[int | None]] = {name: list(blob.shape) for name, blob in net.blobs.items()}
    dimensions: dict[str, list[int | str]] = {name: list(shape) for name, shape in original.items()}
    for name, axis in _axes(net):
        tied = [other for other in net.inputs if axis < len(original[other])
                and original[other][axis] == original[name][axis]]
        for group in ([name], tied):
            if _varies(net, original, group, axis, shapes):
                letter = "nchw"[axis] if len(original[name]) == 4 else str(axis)
                dimensions[name][axis] = f"{group[0]}_{letter}"
                break
    _vary_rows(net, shapes)
    for name, shape in original.items():
        net.blobs[name].reshape(shape)
    net.reshape()
    return dimensions, {name: tuple(shape) for name, shape in shapes.items()}


def _axes(net: Net) -> Iterator[tuple[str, int]]:
    """The inputs and axes that may vary: all but the channels of maps."""
    layers: list[Any] = net.layers
    sliding = any(layer.type == "SPP" and layer.rule == "SLIDING" for layer in layers)     # an error at some sizes
    counted = {layer.axis for layer in layers if layer.type == "Im2col"}       # it has a kernel for each channel
    for name in net.inputs:
        rank = len(net.blobs[name].shape)
        for axis in set(range(rank)) - counted:
            if rank < 4 or axis == 0 or axis > 1 and not sliding:
                yield name, axis


def _varies(net: Net, original: dict[str, tuple[int, ...]], group: Sequence[str], axis: int,
            shapes: dict[str, list[int | None]]) -> bool:
    """Whether the net accepts another size of this axis; marks in `shapes` the sizes that change with it."""
    size = original[group[0]][axis]
    accepted = False
    for other in sorted({size + step for step in (STEPS if axis else BATCHES)} | {2 * size, 3 * size}):
        if other < 1 or other == size:
            continue
        for name, shape in original.items():
            net.blobs[name].reshape(shape[:axis] + (other,) + shape[axis + 1:] if name in group else shape)
        try:
            net.reshape()
        except NetError:
            continue
        accepted = True
        _mark(net, shapes)
    return accepted


def _vary_rows(net: Net, shapes: dict[str, list[int | None]]) -> None:
    """Mark the sizes that change with the number of rows that a Filter selects."""
    filters: list[Any] = [layer for layer in net.layers if layer.type == "Filter"]
    for layer in filters:
        rows, layer.rows = layer.rows, np.arange(0)
        try:
            net.reshape()
            _mark(net, shapes)
        finally:
            layer.rows = rows


def _mark(net: Net, shapes: dict[str, list[int | None]]) -> None:
    for name, blob in net.blobs.items():
        shapes[name] = [size if size == now else None for size, now in zip(shapes[name], blob.shape)]
