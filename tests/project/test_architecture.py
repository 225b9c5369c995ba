"""The rules of ARCHITECTURE.md: imports point down, foreign libraries have one door, both backends offer the same."""
import ast
import functools
import importlib
import inspect
import operator
import re
from typing import Any, Iterator

import pytest

from folders import ROOT
from spp.backend.protocol import Backend
from spp.layers import layer_class, types

# From the top: a module may import modules of its own level and below. A name stands for all modules in it.
LEVELS = [{"tools", "spp_tools"}, {"spp.pycaffe", "spp.convert", "spp.testing", "spp"}, {"spp.solver"},
          {"spp.net", "spp.training.snapshot", "spp.training.update_rules", "spp.training.loss_scale"},
          {"spp.weights", "spp.graph", "spp.fusion", "spp.memory", "spp.training.learnable", "spp.inspection"},
          {"spp.layers"}, {"spp.host_copy"}, {"spp.blob", "spp.filler"}, {"spp.data"}, {"spp.ops"}, {"spp.boxes"},
          {"spp.proto"}, {"spp.backend"},
          {"spp.atomic", "spp.paths", "spp.training.policies", "spp.training.reporting", "spp.training"},
          {"spp.errors"}]
DOORS = {"lmdb": "spp/data/", "cv2": "spp/data/", "google": "spp/proto/", "numba": "spp/backend/",
         "cupy": "spp/backend/", "cupyx": "spp/backend/", "cudnn": "spp/backend/", "cffi": "spp/backend/",
         "torch": "spp/convert/", "onnx": "spp/convert/", "safetensors": "spp/convert/"}
LONGEST = 400           # lines of a file
MOST_POSITIONAL = 7     # parameters of a function


def files(*folders: str) -> list[str]:
    """Python files written by hand, relative to the repository."""
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in paths if not path.name.endswith("_pb2.py"))


@functools.cache
def parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def module_of(path: str) -> str:
    return path[:-3].replace("/", ".").removesuffix(".__init__")


def level_of(module: str) -> int:
    matches = [(len(name), level) for level, names in enumerate(LEVELS) for name in names
               if module == name or module.startswith(name + ".") and name != "spp"]
    assert matches, f"{module} has no level: add it to LEVELS in {__file__}, and to the table in ARCHITECTURE.md"
    return max(matches)[1]


def is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def imported(path: str) -> Iterator[str]:
    """Modules that a file imports, wherever in it, as dotted names."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            base = node.module or ""
            for alias in node.names:
                yield f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}") else base


# --- imports

@pytest.mark.parametrize("path", files("spp", "tools"))
def test_imports_point_down(path):
    for module in imported(path):
        if module.split(".")[0] in ("spp", "tools", "spp_tools"):
            assert level_of(module) >= level_of(module_of(path)), f"{path} imports {module}, which is above it"


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_one_door(library):
    door = DOORS[library]
    assert (ROOT / door).is_dir(), f"{door} is no more: remove the door of {library}"
    others = [path for path in files("spp", "tools") if library in {name.split(".")[0] for name in imported(path)}
              and not path.startswith((door, "tools/") if library == "cv2" else door)]
    assert not others, f"{others} import {library}: only {door} may"


@pytest.mark.parametrize("path", files("tests"))
def test_no_test_imports_another(path):
    tests = {module for module in imported(path) if module.startswith("test_")}
    assert not tests, f"{path} imports {sorted(tests)}: move what both need to tests/support"


# --- the two backends

def tree(device, name="__init__"):
    path = f"spp/backend/{device}/{name}"
    return parsed(f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py")


def offered(device):
    """The interface as a backend has it: parameters of functions and methods, None for values. Imports nothing."""
    top = tree(device)
    definitions: dict[str, Any] = {}
    for node in top.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"spp.backend.{device}."):
            module = tree(device, str(node.module).removeprefix(f"spp.backend.{device}.").replace(".", "/"))
            mine = {alias.name for alias in node.names}
            definitions |= {n.name: n for n in module.body
                            if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name in mine}
        elif isinstance(node, ast.FunctionDef):
            definitions[node.name] = node
        elif isinstance(node, ast.Assign):
            target = node.targets[0]
            assert isinstance(target, ast.Name)
            definitions[target.id] = None
    return {name: described(definitions[name]) for name in vars(Backend) if name[0] != "_"}


def described(node):
    if node is None:
        return None
    if isinstance(node, ast.ClassDef):
        methods = {n.name: described(n) for n in node.body if isinstance(n, ast.FunctionDef)
                   and (n.name == "__init__" or n.name[0] != "_")}
        return {"__init__": (["self"], []), **methods}
    arguments = node.args
    assert not arguments.vararg and not arguments.kwarg and not arguments.posonlyargs
    defaults = [ast.unparse(d) for d in (*arguments.defaults, *arguments.kw_defaults) if d]
    return [a.arg for a in arguments.args] + [f"{a.arg}=" for a in arguments.kwonlyargs], defaults


def test_both_backends_offer_the_same_functions_with_the_same_parameters():
    host, cuda = offered("host"), offered("cuda")
    assert {name: cuda[name] for name in host if host[name] != cuda[name]} == {}
    assert len(host) > 40 and host["relu"] == (["x", "y", "negative_slope"], [])
    assert host["inner_product_forward"] == (["x", "weight", "y", "transpose", "epilogue", "precision"],
                                             ["Epilogue()", "'fp32'"])


# --- files and functions

@pytest.mark.parametrize("path", files("spp", "tools", "tests"))
def test_a_file_is_short(path):
    lines = len((ROOT / path).read_text().splitlines())
    assert lines <= LONGEST, f"{path} has {lines} lines, more than {LONGEST}: split it"


def functions(path: str) -> Iterator[tuple[str, Any]]:
    """Names with their classes' ("Net.forward") and nodes of a file's functions, without nested functions."""
    for node in parsed(path).body:
        for inner in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(inner, ast.FunctionDef):
                yield f"{node.name}.{inner.name}" if isinstance(node, ast.ClassDef) else inner.name, inner


def is_kernel(function: Any) -> bool:
    """Whether Numba compiles the function."""
    return any(re.match(r"(numba\.)?(n?jit|intrinsic|extending)", ast.unparse(decorator))
               for decorator in function.decorator_list)


@pytest.mark.parametrize("path", files("spp", "tools"))
def test_few_positional_parameters(path):
    many = {}
    for name, function in functions(path):
        names = [a.arg for a in (*function.args.posonlyargs, *function.args.args) if a.arg not in ("self", "cls")]
        if len(names) > MOST_POSITIONAL and not is_kernel(function):
            many[name] = len(names)
    assert not many, f"{path}: more than {MOST_POSITIONAL} positional parameters: {many}; group them, as Geometry does"


@pytest.mark.parametrize("path", files("spp/layers", "spp/ops"))
def test_public_functions_have_docstrings(path):
    """A method may have that of the base class: setup, reshape, forward, backward ..."""
    module = importlib.import_module(module_of(path))
    public = [name for name, function in functions(path)
              if not re.search(r"(^|\.)_", name) and not is_kernel(function)]
    without = [name for name in public if not inspect.getdoc(operator.attrgetter(name)(module))]
    assert not without, f"{path}: no docstring in {without}"


# --- the map

def test_the_table_of_layer_types_is_the_registry():
    rows = re.findall(r"^\| `(\w+)` \| `(spp/layers/[\w/]+\.py)` \|", (ROOT / "ARCHITECTURE.md").read_text(), re.M)
    expected = [(name, layer_class(name).__module__.replace(".", "/") + ".py") for name in types()]
    assert sorted(rows) == sorted(expected), "write the table anew: python tests/support/layer_table.py"
