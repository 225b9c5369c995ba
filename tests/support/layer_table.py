"""The table of layer types in ARCHITECTURE.md, generated from the registry: `python tests/support/layer_table.py`.

It has one row per type: the file of the layer's class, and the files of the ops that the class names (or, if it names
none, the nearest base class that does).
"""
import ast
import inspect
import re
import sys
from pathlib import Path

from folders import ROOT
from spp.layers import Layer, layer_class, types

PAGE = ROOT / "ARCHITECTURE.md"
FUSION = "spp.ops.affine"       # many layers name it for the sake of fusion
HEAD = "| type | layer | ops |\n|---|---|---|\n"


def table() -> str:
    """The table as Markdown."""
    return HEAD + "".join(f"| `{name}` | `{_path(layer_class(name))}` | {_ops_files(layer_class(name))} |\n"
                          for name in types())


def _path(cls: type) -> str:
    return Path(inspect.getfile(cls)).relative_to(ROOT).as_posix()


def _ops_files(cls: type) -> str:
    bases = [base for base in cls.__mro__ if base.__module__.startswith("spp.layers.") and base is not Layer]
    modules = next(filter(None, map(_ops_of, bases)), set())
    return ", ".join(f"`{module.replace('.', '/')}.py`" for module in sorted(modules)) or "–"


def _ops_of(cls: type) -> set[str]:
    """The modules of spp.ops that the source of a class names."""
    imported: dict[str, str] = {}
    for node in ast.walk(ast.parse(Path(inspect.getfile(cls)).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("spp.ops"):
            for alias in node.names:
                module = f"spp.ops.{alias.name}" if node.module == "spp.ops" else str(node.module)
                imported[alias.asname or alias.name] = module
    names = {node.id for node in ast.walk(ast.parse(inspect.getsource(cls))) if isinstance(node, ast.Name)}
    return {module for name, module in imported.items() if name in names and module != FUSION}


def main() -> None:
    """Replace the table in ARCHITECTURE.md."""
    text = PAGE.read_text()
    rows = re.compile(re.escape(HEAD) + r"(\| .*\n)*")
    if not rows.search(text):
        sys.exit(f"{PAGE}: no table that begins with {HEAD!r}")
    PAGE.write_text(rows.sub(lambda match: table(), text))


if __name__ == "__main__":
    main()
