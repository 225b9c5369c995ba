"""torch modules to Caffe: the graph that torch.export traces, as a prototxt with weights.

The net is built, run, and compared with the module before it is returned.
"""
from typing import Any, Sequence

import numpy as np
import torch

from spp.convert.registry import import_modules
from spp.convert.torch.importer.context import TorchImporter, input_value, stored_tensors
from spp.errors import ConvertError
from spp.net import Net
from spp.proto import caffe_pb2

import_modules("spp.convert.torch.importer")


def to_param(module: Any, inputs: Sequence[Any]) -> caffe_pb2.NetParameter:
    """The net of a torch module in eval mode, with weights in its layers; `inputs`: tensors to trace it with.

    Raises ConvertError for an operator that Caffe cannot express, with its place in the module and the reason, and if
    the outputs for these inputs differ.
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
    """As `to_param`, of a torch.export.ExportedProgram, its inputs and its outputs for them."""
    importer = TorchImporter(program)
    param = importer.read()
    net = Net(param, device="cpu")
    expected = [outputs] if isinstance(outputs, torch.Tensor) else \
        list(outputs.values()) if isinstance(outputs, dict) else list(outputs)
    net.forward(**{name: value.numpy() for name, value in zip(net.inputs, inputs)})
    for name, value in zip(importer.outputs, expected):
        data, array = net.blobs[name].data, value.numpy()
        if data.shape != array.shape or not np.allclose(data, array, 1e-3, 1e-4 * (np.abs(array).max() + 1e-6)):
            raise ConvertError(f"the net's output {name!r} is not the module's: operators that write into views of "
                               "other tensors cannot be converted; anything else is an error of this conversion")
    return param


def random_inputs(program: Any) -> list[Any]:
    """Inputs for a program: random floats, zeros for integers. Raises ConvertError for an input that is no tensor."""
    inputs = []
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name not in stored_tensors(program):
            value = input_value(node)
            create = torch.randn if value.dtype.is_floating_point else torch.zeros
            inputs.append(create([int(size) for size in value.shape], dtype=value.dtype))
    return inputs
