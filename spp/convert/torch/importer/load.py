"""torch modules in files: loaded, given their weights, and converted."""
import importlib
import importlib.util
import os
import sys
from typing import Any, Sequence

import torch

from spp.convert.torch import tensor_files
from spp.convert.torch.importer import program
from spp.errors import ConvertError


def read(model: str, weights: str | None, shapes: Sequence[Sequence[int]]) -> Any:
    """See spp.convert.torch.read."""
    torch.manual_seed(0)
    if model.endswith(".pt2"):
        if weights or shapes:
            raise ConvertError(f"{model} has its own weights and shapes; leave out --weights and --shape")
        try:
            exported = torch.export.load(model)
        except Exception as error:      # whatever torch raises for a file of another kind
            raise ConvertError(f"{model}: torch.export.save did not write it: {str(error).splitlines()[0]}") from error
        inputs = program.random_inputs(exported)
        with torch.no_grad():
            return program.of_program(exported, inputs, exported.module()(*(value.clone() for value in inputs)))
    if not shapes:
        raise ConvertError("a module needs the shapes of its inputs: --shape 1,3,224,224, once per input")
    module = _instance(model)
    if weights:
        arrays, _ = tensor_files.read(weights)
        try:
            module.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
        except RuntimeError as error:
            raise ConvertError(f"{weights} are not the weights of {model}: {' '.join(str(error).split())}") from error
    return program.to_param(module, [torch.randn(list(shape)) for shape in shapes])


def _instance(model: str) -> Any:
    place, _, name = model.rpartition(":")
    if not place or not name:
        raise ConvertError(f"--model {model}: give a .pt2 file, or MODULE:NAME or FILE.py:NAME of a torch module")
    try:
        module = getattr(_loaded(place), name)()
    except (ImportError, AttributeError, TypeError, OSError) as error:
        raise ConvertError(f"--model {model}: cannot create the module: {error}") from error
    if not isinstance(module, torch.nn.Module):
        raise ConvertError(f"--model {model}: is of type {type(module).__name__}, not a torch.nn.Module")
    return module


def _loaded(place: str) -> Any:
    """The Python module of a file's path or a dotted name."""
    if not place.endswith(".py"):
        sys.path.append(os.getcwd())
        try:
            return importlib.import_module(place)
        finally:
            sys.path.remove(os.getcwd())
    spec = importlib.util.spec_from_file_location("spp_convert_source", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
