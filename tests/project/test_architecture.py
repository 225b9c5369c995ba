"""Imports point down only, and each foreign library has one door."""
import ast
import os

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LEVELS = [{"tools"}, {"spp.pycaffe", "spp.convert"}, {"spp.solver"},
          {"spp.net", "spp.training.snapshot", "spp.training.update_rules", "spp.training.loss_scale"},
          {"spp.weights", "spp.graph", "spp.memory", "spp.fusion", "spp.training.learnable", "spp.inspection"},
          {"spp.layers"}, {"spp.host_copy"}, {"spp.blob", "spp.filler"}, {"spp.data"}, {"spp.ops"}, {"spp.boxes"},
          {"spp.proto"}, {"spp.backend"},
          {"spp.atomic", "spp.paths", "spp.training.policies", "spp.training.reporting", "spp.training"},
          {"spp.errors", "spp"}]
DOORS = {"lmdb": "spp/data/", "google": "spp/proto/", "numba": "spp/backend/", "cupy": "spp/backend/",
         "cupyx": "spp/backend/", "cudnn": "spp/backend/", "mpi4py": "spp/parallel.py", "torch": "spp/convert/",
         "onnx": "spp/convert/",
         "safetensors": "spp/convert/", "cv2": "spp/data/",
         "cffi": "spp/backend/"}


def sources():
    for top in ("spp", "tools"):
        for folder, _, names in os.walk(os.path.join(ROOT, top)):
            for name in names:
                path = os.path.relpath(os.path.join(folder, name), ROOT).replace(os.sep, "/")
                if name.endswith(".py") and not name.endswith("_pb2.py"):
                    yield path


def level_of(module):
    named = [(len(name), level) for level, names in enumerate(LEVELS) for name in names
             if module == name or module.startswith(name + ".") and name != "spp"]
    return max(named)[1] if named else len(LEVELS) - 1


def imported(path):
    """Modules that a file imports, wherever in it, as dotted names."""
    with open(os.path.join(ROOT, path)) as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            base = node.module or ""
            for alias in node.names:
                dotted = f"{base}.{alias.name}"
                is_module = os.path.exists(os.path.join(ROOT, *dotted.split("."))) or os.path.exists(
                    os.path.join(ROOT, *dotted.split(".")) + ".py")
                yield dotted if is_module else base


@pytest.mark.parametrize("path", list(sources()))
def test_imports(path):
    mine = path[:-3].replace("/", ".").removesuffix(".__init__")
    for module in imported(path):
        top = module.split(".")[0]
        if top in DOORS:
            door = DOORS[top]
            allowed = path.startswith(door) or path.startswith("tools/") and top == "cv2"
            assert allowed, f"{path} imports {module}: only {door} may"
        if top in ("spp", "tools", "spp_tools") and level_of(module) != level_of(mine):
            assert level_of(module) > level_of(mine), f"{path} imports {module}, which lies above it"


def test_a_file_is_short():
    long = []
    for path in sources():
        with open(os.path.join(ROOT, path)) as file:
            lines = len(file.readlines())
        if lines > 420:
            long.append(f"{path}: {lines} lines")
    assert not long
