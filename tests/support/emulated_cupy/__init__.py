"""A stand-in for CuPy on NumPy, as strict as CuPy: what passes with it will most probably run on a GPU.

`installed()` makes `import cupy` mean it. Two devices; arrays must be on the current one. No implicit conversion
to NumPy arrays, no mixing with them, reductions give arrays of no axes, new memory holds NaN. What is not here,
CuPy may have; what is here, CuPy has: test_cuda_backend.py compares it with the real one. Kernels run through
cuda_cpu.
"""
import sys
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Iterator

import numpy as np

from emulated_cupy import cuda, functions, memory
from emulated_cupy.arrays import ndarray

__all__ = ["installed", "memory", "module", "ndarray"]


def _module(name: str, **content: Any) -> ModuleType:
    result = ModuleType(name)
    result.__dict__.update(content)
    return result


def module() -> dict[str, ModuleType]:
    """The modules by name: cupy, cupyx and their submodules."""
    runtime = _module("cupy.cuda.runtime", **cuda.RUNTIME)
    cublas = _module("cupy.cuda.cublas", **cuda.CUBLAS)
    inner = _module("cupy.cuda", Device=memory.Device, Event=cuda.Event, Stream=cuda.Stream, runtime=runtime,
                    cublas=cublas, get_current_stream=cuda.get_current_stream,
                    get_cublas_handle=lambda: 1, memory=_module("cupy.cuda.memory",
                                                                OutOfMemoryError=memory.OutOfMemoryError))
    offered = {name: value for name, value in vars(functions).items()
               if isinstance(value, functions.ufunc) or getattr(value, "__module__", "") == functions.__name__}
    for private in [name for name in offered if name.startswith("_")]:
        del offered[private]
    cupy = _module("cupy", __version__="emulated", **offered, ndarray=ndarray, cuda=inner, RawModule=cuda.RawModule,
                   get_default_memory_pool=cuda.get_default_memory_pool, newaxis=None, inf=np.inf, nan=np.nan,
                   **{name: getattr(np, name) for name in cuda.TYPES})
    cupyx = _module("cupyx", empty_pinned=cuda.empty_pinned, zeros_pinned=cuda.zeros_pinned)
    return {"cupy": cupy, "cupy.cuda": inner, "cupy.cuda.runtime": runtime, "cupy.cuda.cublas": cublas,
            "cupy.cuda.memory": inner.memory, "cupyx": cupyx}


@contextmanager
def installed() -> Iterator[ModuleType]:
    """While the block runs, `import cupy` means the emulation, and spp finds a GPU that works."""
    mine = {name: value for name, value in sys.modules.items()
            if name.split(".")[0] in ("cupy", "cupyx", "cupy_backends") or name.startswith("spp.backend.cuda")}
    from spp import backend
    for name in mine:
        del sys.modules[name]
    backend.__dict__.pop("cuda", None)
    backend.forget_devices()
    modules = module()
    sys.modules.update(modules)
    try:
        with np.errstate(all="ignore"):         # a GPU does not warn
            yield modules["cupy"]
    finally:
        for name in [name for name in sys.modules if name in modules or name.startswith("spp.backend.cuda")]:
            del sys.modules[name]
        sys.modules.update(mine)
        backend.__dict__.pop("cuda", None)
        backend.forget_devices()
