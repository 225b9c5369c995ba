"""Libraries that only converters need, installed by extras of spp."""
import importlib
from typing import Any

from spp.errors import ConvertError


def need(module: str, extra: str) -> Any:
    """The imported module; raises ConvertError that names the extra of spp which installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        raise ConvertError(f"this conversion needs {error.name}, which is not installed; "
                           f"pip install 'spp[{extra}]'") from error
