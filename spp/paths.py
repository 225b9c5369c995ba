"""Search for files that other files name."""
import os
from pathlib import Path

from spp.errors import SppError


def find(name: str, named_in: str | None) -> str:
    """The path of the file `name`, which the file `named_in` names.

    The search starts from the current folder, as in Caffe, then from the folder of `named_in` and the folders above
    it: a solver finds its net whatever the current folder is. Raises SppError if there is no such file.
    """
    if os.path.isabs(name) or named_in is None or os.path.exists(name):
        if not os.path.exists(name):
            raise SppError(f"File not found: {name}; check the path; the current folder is {os.getcwd()}")
        return name
    start, *above = Path(os.path.abspath(named_in)).parents
    for folder in (start, *above):
        if os.path.exists(os.path.join(folder, name)):
            return os.path.join(folder, name)
    raise SppError(f"File not found: {name} (named in {named_in}); looked for it in the current folder "
                   f"{os.getcwd()}, in {start} and above")
