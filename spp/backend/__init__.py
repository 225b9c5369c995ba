"""The only storey with two versions of anything: one sub-package a device, all offering the same functions.

`host` computes with NumPy and Numba, `cuda` with CuPy, which only this storey imports, and only when a device is
asked for that may be a GPU. The array decides its backend: ops call `of(array)`; there is no global mode.
"""
import functools
import logging
import os
from types import ModuleType
from typing import Any, Callable

import numpy as np

from spp.errors import SppError, too_little_memory

log = logging.getLogger("spp.backend")

# Threads that wait for the next kernel sleep instead of spinning, or they would take the cores from the
# threads that read data, and from other programs: four times as fast at batch 1 beside another busy process.
# Read when OpenMP starts, at the first kernel.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Numba looks at its own variable only; users know this one. Like OpenMP: the first of a list, and nothing if wrong.
_threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
if _threads.isdecimal() and int(_threads):
    os.environ.setdefault("NUMBA_NUM_THREADS", _threads)

# No algorithmic shortcuts that round otherwise than the direct sums: Winograd, a batch normalization in the pass of
# the convolution before it.
EXACT = os.environ.get("SPP_EXACT", "") not in ("", "0")


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

    "auto" takes the first GPU where one works, else the host; where CuPy is installed, the log then says once why.
    Raises SppError where the device is not to be had.
    """
    name, _, index = device.partition(":")
    if device == "auto":
        if not _missing(0):
            return _on(0)
        _say_why_not()
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


def explained(error: Exception) -> Exception:
    """What an error means, as an SppError: too little memory, or a GPU that has failed; another error is itself."""
    if _cuda is not None:
        return _cuda.failures.explained(error)
    return too_little_memory(error) if isinstance(error, MemoryError) else error


NO_CUPY = 'CuPy is not installed; pip install "spp[cuda13]" (or "spp[cuda12]", as the driver is)'
LONGEST = 300           # characters of an error's text that are shown
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
            return NO_CUPY
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
    try:
        with cupy.cuda.Device(index):
            (cupy.zeros(1, "float32") > 0).any().get()      # the latter with more of CUDA's headers
            cupy.cuda.get_cublas_handle()
    except Exception as error:      # of compilers and loaders, each with types of its own
        return (f'CuPy cannot compile, or lacks a library ({_line(error)}); pip install "spp[cuda13]" (or '
                '"spp[cuda12]", as the driver is) into an environment without packages of another CUDA')
    return ""


@functools.cache
def _say_why_not() -> None:
    if _missing(0) != NO_CUPY:
        log.info("Computing on the CPU: %s", _missing(0))


def _line(error: Exception) -> str:
    """An error's text on one line, of which a compiler's log is too much."""
    text = " ".join(str(error).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def forget() -> None:
    """Look for GPUs anew when a device is next asked for."""
    global _cuda
    _cuda = None
    _missing.cache_clear()
    _say_why_not.cache_clear()
