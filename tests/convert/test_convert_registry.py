"""The converters' tables, and what importing the package costs."""
import subprocess
import sys
from typing import Callable

import pytest

from spp.convert.registry import registrar


def test_a_name_is_registered_once():
    table: dict[str, Callable] = {}
    register = registrar(table)

    @register("a", "b")
    def first():
        pass

    assert table == {"a": first, "b": first}
    with pytest.raises(ValueError, match="'b' is registered already, as first"):
        register("c", "b")(lambda: None)


def test_the_package_imports_neither_torch_nor_onnx():
    code = ("import sys, spp.convert, spp.convert.cuda_convnet, spp.convert.onnx, spp.convert.torch, "
            "spp_tools.convert_net\n"
            "print(sorted({'torch', 'onnx', 'onnxruntime', 'safetensors'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
