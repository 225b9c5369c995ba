"""Whole conversions between files: a prototxt and its weights to Python source and .pt, a torch module back."""
import importlib
import importlib.util
import os
import sys
from typing import Any, Sequence

from spp.atomic import replacing
from spp.convert.extras import need
from spp.errors import ConvertError
from spp.net import Net


def export(net: Net, output: str) -> str:
    """Write a net as a Python file that needs torch only, and its weights beside it; returns the weights' path.

    Raises ConvertError, and writes nothing, for a layer that torch cannot compute.
    """
    need("torch", "torch")
    from spp.convert.torch import state_dict
    from spp.convert.torch import export as torch_export
    from spp.convert.torch import files as torch_files
    weights = os.path.splitext(output)[0] + ".pt"
    text = torch_export.source(net, os.path.basename(weights))
    arrays, metadata = state_dict.from_net(net)
    torch_files.write(weights, arrays, metadata)
    with replacing(output, ConvertError) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    return weights


def read(model: str, weights: str | None, shapes: Sequence[Sequence[int]]) -> Any:
    """The net, weights in its layers, of a torch module: a torch.export file (.pt2), MODULE:NAME or FILE.py:NAME.

    Returns a NetParameter. NAME, called without arguments, gives the torch.nn.Module (a class, as a rule); weights: a
    state_dict for it; shapes: those of its inputs, float32. Raises ConvertError for what cannot be loaded or
    converted.
    """
    torch = need("torch", "torch")
    from spp.convert.torch import importer as torch_import
    from spp.convert.torch import operators as torch_import_ops     # noqa: F401 fill the table
    torch.manual_seed(0)
    if model.endswith(".pt2"):
        if weights or shapes:
            raise ConvertError(f"{model} has its own weights and shapes; leave out --weights and --shape")
        try:
            program = torch.export.load(model)
        except Exception as error:      # whatever torch raises for a file of another kind
            raise ConvertError(f"{model}: torch.export.save did not write it: {str(error).splitlines()[0]}") from error
        inputs = torch_import.random_inputs(program)
        with torch.no_grad():
            return torch_import.of_program(program, inputs, program.module()(*(value.clone() for value in inputs)))
    if not shapes:
        raise ConvertError("a module needs the shapes of its inputs: --shape 1,3,224,224, once an input")
    module = _made(model, torch.nn.Module)
    if weights:
        from spp.convert.torch import files as torch_files
        arrays, _ = torch_files.read(weights)
        try:
            module.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
        except RuntimeError as error:
            raise ConvertError(f"{weights} are not the weights of {model}: {' '.join(str(error).split())}") from error
    return torch_import.to_param(module, [torch.randn(list(shape)) for shape in shapes])


def _made(model: str, kind: type) -> Any:
    place, _, name = model.rpartition(":")
    if not place or not name:
        raise ConvertError(f"--model {model}: give a .pt2 file, or MODULE:NAME or FILE.py:NAME of a torch module")
    try:
        found = getattr(_loaded(place), name)()
    except (ImportError, AttributeError, TypeError, OSError) as error:
        raise ConvertError(f"--model {model}: cannot make the module: {error}") from error
    if not isinstance(found, kind):
        raise ConvertError(f"--model {model}: gives a {type(found).__name__}, not a torch.nn.Module")
    return found


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
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
