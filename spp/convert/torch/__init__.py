"""Conversions to and from torch, which is imported when one of them runs."""
import importlib
from typing import Any, Sequence

from spp.convert.extras import need


def module(net: Any) -> Any:
    """A torch.nn.Module, in eval mode, with the function and the weights of a Net of phase TEST.

    It takes the net's inputs in their order and returns a dict of its outputs, as tensors by blob name. Raises
    ConvertError for a layer that it cannot compute, and if torch is not installed.
    """
    return _loaded("exporter.module").module(net)


def source(net: Any) -> str:
    """The Python source, which needs torch only, of the class that `module` creates; raises as `module` does."""
    return _loaded("exporter.module").source(net)


def export(net: Any, output: str) -> str:
    """Write a Net as a Python file that needs torch only, and its weights beside it; returns the weights' path.

    Raises ConvertError, and writes nothing, for a layer that torch cannot compute.
    """
    return _loaded("exporter.module").export(net, output)


def read(model: str, weights: str | None, shapes: Sequence[Sequence[int]]) -> Any:
    """The net of a torch module as a NetParameter whose layers hold their weights.

    model: a file of torch.export.save (.pt2), or MODULE:NAME or FILE.py:NAME, where NAME, called without arguments,
    returns the torch.nn.Module. weights: the file of a state_dict for the module. shapes: of its inputs, which are
    float32. Raises ConvertError for a model that cannot be loaded or converted.
    """
    return _loaded("importer.load").read(model, weights, shapes)


def _loaded(name: str) -> Any:
    """A module of this package that imports torch; raises ConvertError if torch is not installed."""
    need("torch", "torch")
    return importlib.import_module(f"spp.convert.torch.{name}")
