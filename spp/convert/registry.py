"""Tables of converters: the function that converts each layer type, operator or section, found by its name."""
import importlib
import pkgutil
from typing import Any, Callable, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def registrar(table: dict[str, Function]) -> Callable[..., Callable[[Function], Function]]:
    """The decorator that enters a function into `table` under the names of what it converts.

    The decorator raises ValueError for a name that is registered already.
    """
    def names_of(*names: str) -> Callable[[Function], Function]:
        def enter(function: Function) -> Function:
            for name in names:
                if name in table:
                    raise ValueError(f"{name!r} is registered already, as {table[name].__name__}")
                table[name] = function
            return function
        return enter
    return names_of


def import_modules(package: str) -> None:
    """Import every module of a package, so that their decorators fill its table."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
