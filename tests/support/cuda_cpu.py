"""CUDA C++ on the CPU: a module with the interface of cupy.RawModule, compiled by g++ with cuda_cpu.h before it.

Stricter than a GPU: a launch whose arguments do not have exactly the types of the kernel's parameters, or that no
GPU would take, raises. Arrays are NumPy's.
"""
import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from typing import Any

import numpy as np

from folders import ROOT

HERE = os.path.dirname(os.path.abspath(__file__))
COMPILER = shutil.which("g++")
FLAGS: tuple[str, ...] = ()      # more for g++, such as a sanitizer's
MISSING = "g++ is not installed: kernels.cu cannot be run on the CPU"
_FUNCTION = re.compile(r"^(?!//|#|\s)[^;{}\n]*?\b(\w+)\(([^;{}]*?)\)\s*\{\n(.*?)^\}", re.M | re.S)


class Module:
    """The kernels of `source`. options: as for NVRTC; options that define a macro (-D) apply, the others are ignored.

    Raises RuntimeError with g++'s messages if it does not compile.
    """

    def __init__(self, source: str, options: tuple[str, ...] = ()) -> None:
        names = kernel_names(source)
        waiting = _waiting(source)
        # after the header, whose names they would change
        defines = "".join(f"#define {option[2:].replace('=', ' ')}\n" for option in options if option.startswith("-D"))
        glue = "".join(_GLUE.format(name=name, waits=int(name in waiting)) for name in names)
        text = f'#include "cuda_cpu.h"\n{defines}#line 1 "kernels.cu"\n{source}{glue}'
        library = ctypes.PyDLL(_build(text))     # PyDLL: one launch at a time, of all threads
        self._kernels = {name: Kernel(library, name) for name in names}

    def get_function(self, name: str) -> "Kernel":
        return self._kernels[name]

    @property
    def names(self) -> list[str]:
        return list(self._kernels)


class Kernel:
    """A kernel: called as cupy.RawKernel is, with arrays and NumPy scalars."""

    def __init__(self, library: ctypes.PyDLL, name: str) -> None:
        self.name = name
        self._launch = getattr(library, f"launch_{name}")
        self._launch.restype = ctypes.c_char_p
        signature = getattr(library, f"signature_{name}")
        signature.restype = ctypes.c_char_p
        self.parameters: list[str] = signature().decode().split()

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple, shared_mem: int = 0) -> None:
        """Run all blocks; raises TypeError for arguments that do not fit, ValueError for an impossible launch."""
        grid, block = (tuple(sizes) + (1,) * (3 - len(sizes)) for sizes in (grid, block))
        if min(grid + block) < 1 or np.prod(block) > 1024 or grid[0] >= 2 ** 31 or max(grid[1:]) > 65535:
            raise ValueError(f"{self.name}: no GPU takes grid {grid} and block {block}")
        assert shared_mem == 0, "no kernel has dynamic shared memory"
        if len(args) != len(self.parameters):
            raise TypeError(f"{self.name} takes {len(self.parameters)} arguments, found {len(args)}")
        values = [self._value(i, arg) for i, arg in enumerate(args)]
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        error = self._launch((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), pointers)
        if error:
            raise RuntimeError(f"{self.name}: {error.decode()}")

    def _value(self, i: int, arg: Any) -> np.ndarray:
        """An array of one element: the argument, or the address of an array."""
        expected = self.parameters[i]
        if isinstance(arg, np.ndarray):
            kind, value = "*" + arg.dtype.str[1:], np.array(arg.ctypes.data, np.uintp)
        else:
            value = np.asarray(arg)
            kind = value.dtype.str[1:]
        if kind != expected:
            raise TypeError(f"{self.name}: parameter {i} is {expected}, and the argument {kind}")
        return value


_GLUE = """
extern "C" const char *launch_{name}(const unsigned *grid, const unsigned *block, void **args) {{
    return cpu::run([](void **values) {{ cpu::call({name}, values); }}, {waits}, grid, block, args);
}}
extern "C" const char *signature_{name}() {{ static std::string text = cpu::signature({name}); return text.c_str(); }}
"""


def kernel_names(source: str) -> list[str]:
    return re.findall(r'^extern "C" __global__ void (\w+)\(', source, re.M)


def _waiting(source: str) -> set[str]:
    """The functions in which threads wait for each other: by __syncthreads, or by a call of such a function."""
    bodies = {name: body for name, _, body in _FUNCTION.findall(source)}
    waiting: set[str] = {"__syncthreads"}
    while True:
        more = {name for name, body in bodies.items() if any(re.search(rf"\b{f}\b", body) for f in waiting)} - waiting
        if not more:
            return waiting
        waiting |= more


def _build(text: str) -> str:
    """The path of the shared library of a C++ text, from an earlier run if there is one."""
    if COMPILER is None:
        raise RuntimeError(MISSING)
    command = [COMPILER, "-std=c++17", "-O1", "-U_FORTIFY_SOURCE", "-ffp-contract=off", "-shared", "-fPIC", *FLAGS]
    with open(os.path.join(HERE, "cuda_cpu.h")) as file:
        key = hashlib.sha256("\0".join([text, file.read(), *command]).encode()).hexdigest()[:16]
    folder = os.path.join(ROOT, "build", "cuda_cpu")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{key}.so")
    if not os.path.exists(path):
        with tempfile.TemporaryDirectory(dir=folder) as work:
            source, library = os.path.join(work, "kernels.cpp"), os.path.join(work, "kernels.so")
            with open(source, "w") as out:
                out.write(text)
            result = subprocess.run([*command, "-I", HERE, source, "-o", library], capture_output=True, text=True)
            if result.returncode:
                raise RuntimeError(f"g++ does not compile the kernels:\n{result.stderr[:4000]}")
            os.replace(library, path)
    return path
