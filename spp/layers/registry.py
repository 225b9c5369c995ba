"""From a type name in a prototxt to the class that computes it."""
import difflib
from typing import Any, Callable

from spp.errors import NetError
from spp.layers.base import Context, Layer

_classes: dict[str, type[Layer]] = {}


def register(type_name: str) -> Callable[[type[Layer]], type[Layer]]:
    """Class decorator: make `type: "<type_name>"` mean this class. A name can be taken once."""
    def enter(cls: type[Layer]) -> type[Layer]:
        if type_name in _classes:
            raise ValueError(f"layer type {type_name!r} is registered already, as {_classes[type_name].__name__}")
        _classes[type_name] = cls
        return cls
    return enter


def types() -> list[str]:
    """All registered type names, sorted."""
    return sorted(_classes)


def layer_class(type_name: str) -> type[Layer]:
    """The class of a type name; raises NetError that names the nearest known types."""
    if type_name not in _classes:
        near = difflib.get_close_matches(type_name, _classes, 3, 0.6)
        if near:
            hint = f"did you mean {' or '.join(repr(n) for n in near)}?"
        else:
            hint = f"known types: {', '.join(types())}"
        raise NetError(f"unknown layer type {type_name!r}; {hint}")
    return _classes[type_name]


def create(param: Any, context: Context) -> Layer:
    """The layer that a LayerParameter describes."""
    return layer_class(param.type)(param, context)
