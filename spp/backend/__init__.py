"""The only storey with two versions of anything: one sub-package a device, all offering the same functions.

`host` computes with NumPy and Numba, `cuda` with CuPy, which only this storey imports, and only when a device is
asked for that may be a GPU. The array decides its backend: ops call `of(array)`; there is no global mode.
"""
import functools
import os
from types import ModuleType
from typing import Any, Callable

import numpy as np

from spp.errors import SppError

# Threads that wait for the next kernel sleep instead of spinning, or they would take the cores from the
# threads that read data, and from other programs: four times as fast at batch 1 beside another busy process.
# Read when OpenMP starts, at the first kernel.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Numba looks at its own variable only; users know this one. Like OpenMP: the first of a list, and nothing if wrong.
_threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
if _threads.isdecimal() and int(_threads):
    os.environ.setdefault("NUMBA_NUM_THREADS", _threads)


def of(array: Any) -> ModuleType:
    """The backend whose arrays `array` is one of."""
    if isinstance(array, np.ndarray):
        from spp.backend import host
        return host
    if _cuda is not None and isinstance(array, _cuda.xp.ndarray):
        return _cuda
    raise TypeError(f"no backend for arrays of type {type(array).__module__}.{type(array).__name__}")


def select(device: str) -> ModuleType:
    """The backend of a device name: "auto", "cpu", "cuda" or "cuda:<index>"; it makes its arrays on that device.

    "auto" takes the first GPU where one works, else the host. Raises SppError where the device is not to be had.
    """
    name, _, index = device.partition(":")
    if device == "auto" and not _missing(0):
        return _on(0)
    if device in ("auto", "cpu"):
        from spp.backend import host
        return host
    if name != "cuda" or device != "cuda" and not index.isdigit():
        raise SppError(f"unknown device {device!r}: expected auto, cpu, cuda or cuda:<index>")
    missing = _missing(int(index or 0))
    if missing:
        raise SppError(f"device {device!r}: {missing}; or use --device cpu")
    return _on(int(index or 0))


def on_compilation(tell: Callable[[], Any]) -> None:
    """Call `tell` when the host first has to compile a kernel that no run on this machine has used before."""
    from spp.backend.host import compiling
    compiling.on_compilation(tell)


def set_threads(count: int) -> None:
    """Let the host compute with `count` threads for the calling thread's nets, BLAS among them.

    At most those at the start: OMP_NUM_THREADS, else one a core. Raises SppError for another count.
    """
    from spp.backend.host import threads
    threads.set_threads(count)


_cuda: Any = None       # spp.backend.cuda, once a GPU has been asked for and works


def _on(index: int) -> ModuleType:
    global _cuda
    from spp.backend import cuda
    _cuda = cuda
    return cuda.on(index)


@functools.cache
def _missing(index: int) -> str:
    """What is missing for work on GPU `index`, and the remedy; nothing where it works."""
    try:
        import cupy
    except ImportError as error:
        if error.name == "cupy":
            return 'CuPy is not installed; pip install "spp[cuda13]" (or "spp[cuda12]", as the driver is)'
        return (f'CuPy cannot be imported: {_line(error)}; pip install --force-reinstall "spp[cuda13]" (or '
                '"spp[cuda12]")')
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:
        return (f"no NVIDIA driver works here ({_line(error)}); install one, or the CuPy that suits it "
                '(pip install "spp[cuda12]" for an older one)')
    if index >= count:
        found = ", ".join(f"cuda:{i}" for i in range(count)) or "no GPU"
        return f"this machine has {found}; choose one of them" if count else "this machine has no NVIDIA GPU"
    try:
        with cupy.cuda.Device(index):
            cupy.zeros(1, "float32").get()
    except (RuntimeError, MemoryError, OSError) as error:
        return f"GPU {index} does not work ({_line(error)}); is it in use by another program?"
    return ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def forget() -> None:
    """Look for GPUs anew when a device is next asked for."""
    global _cuda
    _cuda = None
    _missing.cache_clear()
