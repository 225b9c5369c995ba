"""Nets to torch: a prototxt as the source of a torch.nn.Module that needs torch only, and its weights.

`convert_net` writes the source that torch_module runs.
"""
import itertools
import linecache
import os
import textwrap
from typing import Any

import numpy as np
import torch

from spp.atomic import replacing
from spp.convert.registry import import_modules
from spp.convert.torch import state_dict, tensor_files
from spp.convert.torch.exporter.context import EXPORTERS, TorchExporter, library_functions
from spp.convert.torch.names import tensors
from spp.errors import ConvertError, SppError
from spp.layers import TEST

import_modules("spp.convert.torch.exporter")

REASONS = {
    "DetectionOutput": "torch has no function with its rules of suppression; end the net before it",
    "Python": "it is Python code of its own; end the net before it, or write that layer in torch",
    "Accuracy": "it measures and computes nothing; give the deploy prototxt",
    "HDF5Output": "it writes a file; give the deploy prototxt",
}
LOSS = "a loss is for training; give the deploy prototxt, and in torch add torch.nn.functional's loss"
DATA = "it reads data, which in torch the program does; give the deploy prototxt, with an Input layer"
_number = itertools.count()


def module(net: Any) -> Any:
    """See spp.convert.torch.module."""
    text = source(net)
    name = f"<torch module {next(_number)} of net {net.name!r}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)    # for tracebacks
    names: dict[str, Any] = {"__name__": "spp.convert.generated"}
    exec(compile(text, name, "exec"), names)
    result = names["Net"]()
    if net.context.dtype == np.float64:
        result.double()
    arrays, _ = state_dict.from_net(net)
    result.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
    return result.eval()


def export(net: Any, output: str) -> str:
    """See spp.convert.torch.export."""
    weights = os.path.splitext(output)[0] + ".pt"
    text = source(net, os.path.basename(weights))
    arrays, metadata = state_dict.from_net(net)
    tensor_files.write(weights, arrays, metadata)
    with replacing(output, ConvertError) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    return weights


def source(net: Any, weights: str = "") -> str:
    """The Python source of the module's class; its docstring shows how to load the file `weights`, if given."""
    if net.phase != TEST:
        raise ConvertError(f"net {net.name!r} is of phase TRAIN; build it with phase TEST")
    exporter = TorchExporter(net)
    for layer in net.layers:
        _write_layer(exporter, layer)
    shared = _shared_parameters(exporter)
    inputs = [exporter.variables[name] for name in net.inputs]
    outputs = ", ".join(f"{name!r}: {exporter.variables[name]}" for name in net.outputs)
    body = "\n".join([*exporter.modules, *shared, *exporter.lines])
    helpers = "".join(f"\n\n{text}" for text in library_functions(body))
    load = (f"\n\n    net = Net()\n    net.load_state_dict(torch.load({weights!r}, weights_only=True))\n"
            "    net.eval()\n" if weights else "")
    used = f"{helpers}{body}"
    imports = ["import math\n\n" if "math." in used else "", "import torch\n", "from torch import nn\n",
               "from torch.nn import functional as F\n" if "F." in used else ""]
    lines = [f'"""{_plain(net.name) or "A net"}, converted from Caffe by spp; needs torch only.{load}"""\n',
             *imports, helpers, f'\n\nclass Net(nn.Module):\n    """{_signature(net)}"""\n\n',
             "    def __init__(self):\n        super().__init__()\n",
             *(f"        {line}\n" for line in [*exporter.modules, *shared]),
             f"\n    def forward({', '.join(['self', *inputs])}):\n", *(_wrapped(line) for line in exporter.lines),
             f"        return {{{outputs}}}\n"]
    return "".join(lines)


def _write_layer(exporter: TorchExporter, layer: Any) -> None:
    if layer.type == "Input":
        exporter.variables.update((top, exporter.variable(top)) for top in layer.param.top)
        return
    where = f"layer {layer.name!r} ({layer.type}) cannot be converted to torch"
    if layer.type not in EXPORTERS:
        kind = LOSS if layer.is_loss else "" if layer.param.bottom else DATA
        reason = REASONS.get(layer.type) or kind or "torch has no function of this kind"
        raise ConvertError(f"{where}: {reason}")
    try:
        bottoms = [exporter.variables[name] for name in layer.param.bottom]
        result = EXPORTERS[layer.type](exporter, layer, bottoms)
        exporter.assign(layer, [result] if isinstance(result, str) else result)
    except SppError as error:
        raise ConvertError(f"{where}: {error}") from error


def _shared_parameters(exporter: TorchExporter) -> list[str]:
    """Lines that make parameters with shared memory one parameter in torch."""
    lines: list[str] = []
    owners: dict[int, tuple[str, Any]] = {}
    named = {scale.name: name for name, scale in exporter.scales.items()}
    for layer in exporter.net.layers:
        attribute = exporter.attributes[named.get(layer.name, layer.name)]
        names = (["running_mean", "running_var", "", "weight", "bias"] if layer.type == "BatchNorm"
                 else tensors(layer))
        kind = layer.type if layer.type in ("LSTM", "BatchNorm") else ""
        common = [id(blob.memory) in owners for blob in layer.blobs[:3]]
        if layer.type == "BatchNorm" and any(common) and not all(common):
            raise ConvertError(f"layer {layer.name!r} (BatchNorm) cannot be converted to torch: it shares some of its "
                               "three statistics with another layer; share all, or none")
        for blob, name in zip(layer.blobs, names):
            entry = f"self.{attribute}{'.' if name else ''}{name}", (kind, blob.shape)
            owner = owners.setdefault(id(blob.memory), entry)
            if owner is entry or layer.type == "BatchNorm" and not name:
                continue
            if owner[1] != entry[1]:
                raise ConvertError(f"layer {layer.name!r} ({layer.type}) cannot be converted to torch: it shares its "
                                   f"parameter {name!r} with one of another shape or kind; give it one of its own")
            lines.append(f"{entry[0]} = {owner[0]}    # one parameter")
    return lines


def _signature(net: Any) -> str:
    inputs = ", ".join(f"{name} {' x '.join(map(str, net.blobs[name].shape))}" for name in net.inputs)
    return f"Takes {inputs or 'nothing'}; returns a dict of tensors: {', '.join(net.outputs)}.".replace("\\", "/")


def _plain(name: str) -> str:
    return " ".join(name.replace("\\", "/").replace('"', "'").split())


def _wrapped(line: str) -> str:
    if len(line) + 8 <= 119:
        return f"        {line}\n"
    target, _, value = line.partition(" = ")
    return "\n".join(textwrap.wrap(f"{target} = ({value})", 119, initial_indent=" " * 8, subsequent_indent=" " * 12,
                                   break_long_words=False, break_on_hyphens=False)) + "\n"
