"""A net simplified: layers in place, no Flatten before InnerProduct, Bias as part of Scale."""
from collections import Counter
from typing import Any

from spp.convert.net_builder import remove_layers

IN_PLACE = {"ReLU", "Dropout", "BatchNorm", "Scale", "Bias", "PReLU", "ELU", "Sigmoid", "TanH"}


def tidy(net: Any, outputs: set[str]) -> None:
    """Simplify a NetParameter in which no layer works in place, without changing what it computes."""
    _drop_flatten(net, outputs)
    _merge_scales(net, outputs)
    _work_in_place(net, outputs)


def _readers(net: Any, outputs: set[str]) -> Counter[str]:
    readers = Counter(name for layer in net.layer for name in layer.bottom)
    readers.update(outputs)
    return readers


def _drop_flatten(net: Any, outputs: set[str]) -> None:
    """Remove a Flatten that only an InnerProduct reads: InnerProduct flattens its bottom."""
    readers = _readers(net, outputs)
    flat = {layer.top[0]: layer for layer in net.layer if layer.type == "Flatten" and layer.flatten_param.axis == 1
            and layer.flatten_param.end_axis == -1 and readers[layer.top[0]] == 1}
    dropped = []
    for layer in net.layer:
        if layer.type == "InnerProduct" and layer.inner_product_param.axis == 1 and layer.bottom[0] in flat:
            dropped.append(flat[layer.bottom[0]].name)
            layer.bottom[0] = flat[layer.bottom[0]].bottom[0]
    remove_layers(net, dropped)


def _merge_scales(net: Any, outputs: set[str]) -> None:
    """A Bias after a Scale of the same axes becomes the bias of the Scale."""
    readers = _readers(net, outputs)
    scales = {layer.top[0]: layer for layer in net.layer if layer.type == "Scale" and len(layer.bottom) == 1
              and not layer.scale_param.bias_term and readers[layer.top[0]] == 1}
    dropped = []
    for layer in net.layer:
        scale = scales.get(layer.bottom[0]) if layer.type == "Bias" and len(layer.bottom) == 1 else None
        if scale is None or (scale.scale_param.axis, scale.scale_param.num_axes) != (
                layer.bias_param.axis, layer.bias_param.num_axes):
            continue
        scale.scale_param.bias_term = True
        scale.blobs.extend(layer.blobs)
        scale.top[:] = layer.top
        dropped.append(layer.name)
    remove_layers(net, dropped)


def _work_in_place(net: Any, outputs: set[str]) -> None:
    """Let layers that are the only readers of their bottoms work in place; the blob gets the top's name.

    A layer whose top is an output of the net does not work in place.
    """
    readers = _readers(net, outputs)
    inputs = {name for layer in net.layer if layer.type == "Input" for name in layer.top}
    renamed: dict[str, str] = {}
    for layer in net.layer:
        if layer.type in IN_PLACE and len(layer.bottom) == 1 and layer.top[0] not in outputs:
            if readers[layer.bottom[0]] == 1 and layer.bottom[0] not in inputs:
                renamed[layer.bottom[0]] = layer.top[0]
    for layer in net.layer:
        for names in (layer.bottom, layer.top):
            for i, name in enumerate(names):
                while name in renamed:
                    name = renamed[name]
                names[i] = name
