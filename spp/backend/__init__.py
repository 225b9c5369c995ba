"""Devices: one sub-package per kind of device, all with the same functions, those of protocol.Backend.

`host` computes with NumPy and Numba, `cuda` with CuPy. CuPy is imported only here, and only when a device that may be
a GPU is requested. The array determines its backend: ops call `of(array)`; there is no global mode.
"""
import functools
import logging
import os
from typing import Any, Callable, cast

import numpy as np

from spp.backend.protocol import Backend
from spp.errors import SppError, too_little_memory

log = logging.getLogger("spp.backend")

# Both variables are read once: by OpenMP when the first kernel starts, by Numba when it is imported. So they are set
# here, before any kernel module is imported, and only if the user has not set them.
# Threads that wait for the next kernel sleep instead of spinning. Spinning would take the cores from the threads that
# read data and from other processes: at batch 1 beside another busy process sleeping is four times as fast.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Numba reads only its own variable, but users know OpenMP's. As in OpenMP, the first number of a list counts, and a
# wrong value is ignored.
_threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
if _threads.isdecimal() and int(_threads):
    os.environ.setdefault("NUMBA_NUM_THREADS", _threads)

# No algorithms that round differently from the direct sums: no Winograd convolution, and no batch normalization in the
# epilogue of the convolution before it.
EXACT = os.environ.get("SPP_EXACT", "") not in ("", "0")


def of(array: Any) -> Backend:
    """The backend of an array. Raises TypeError if it is neither NumPy's nor, once a GPU is in use, CuPy's."""
    if isinstance(array, np.ndarray):
        from spp.backend import host
        return host
    if _cuda is not None and isinstance(array, _cuda.xp.ndarray):
        return _cuda
    raise TypeError(f"no backend for arrays of type {type(array).__module__}.{type(array).__name__}")


def select(device: str) -> Backend:
    """The backend of a device name: "auto", "cpu", "cuda" or "cuda:<index>"; its new arrays are stored on the device.

    "auto" selects GPU 0 if it works, else the host; if CuPy is installed, the log then says once why.
    Raises SppError if the name is unknown or the device cannot be used.
    """
    name, _, index = device.partition(":")
    if device == "auto":
        if not _missing_for_gpu(0):
            return _gpu(0)
        _log_why_no_gpu()
    if device in ("auto", "cpu"):
        from spp.backend import host
        return host
    if name != "cuda" or device != "cuda" and not index.isdigit():
        raise SppError(f"unknown device {device!r}: expected auto, cpu, cuda or cuda:<index>")
    missing = _missing_for_gpu(int(index or 0))
    if missing:
        raise SppError(f"device {device!r}: {missing}; or use --device cpu")
    return _gpu(int(index or 0))


def on_compilation(callback: Callable[[], Any]) -> None:
    """Call `callback` when the host first has to compile a kernel that no run on this machine has used before."""
    from spp.backend.host import compiling
    compiling.on_compilation(callback)


def set_threads(count: int) -> None:
    """Let the host, including its BLAS, compute with `count` threads for the calling thread's nets.

    Raises SppError if `count` is below 1 or above the number at the start: OMP_NUM_THREADS, else one per core.
    """
    from spp.backend.host import threads
    threads.set_threads(count)


def as_spp_error(error: Exception) -> Exception:
    """An SppError that explains the error if memory is short or a GPU has failed; other errors unchanged."""
    if _cuda is not None:
        return _cuda.failures.as_spp_error(error)
    return too_little_memory(error) if isinstance(error, MemoryError) else error


NO_CUPY = 'CuPy is not installed; pip install "spp[cuda13]" (or "spp[cuda12]", as the driver is)'
LONGEST = 300           # characters of an error's text in a message
_cuda: Any = None       # spp.backend.cuda, once a GPU has been requested and works


def _gpu(index: int) -> Backend:
    global _cuda
    from spp.backend import cuda
    _cuda = cuda
    return cast(Backend, cuda.device_backend(index))


@functools.cache
def _missing_for_gpu(index: int) -> str:
    """What is missing for work on GPU `index`, and the remedy; an empty string if it works."""
    try:
        import cupy
    except ImportError as error:
        if error.name == "cupy":
            return NO_CUPY
        return (f'CuPy cannot be imported: {_one_line(error)}; pip install --force-reinstall "spp[cuda13]" (or '
                '"spp[cuda12]")')
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:
        return (f"no NVIDIA driver works here ({_one_line(error)}); install one, or the CuPy that suits it "
                '(pip install "spp[cuda12]" for an older one)')
    if index >= count:
        names = ", ".join(f"cuda:{i}" for i in range(count))
        return f"this machine has {names}; choose one of them" if count else "this machine has no NVIDIA GPU"
    try:
        with cupy.cuda.Device(index):
            cupy.zeros(1, "float32").get()
    except (RuntimeError, MemoryError, OSError) as error:
        return f"GPU {index} does not work ({_one_line(error)}); is it in use by another program?"
    try:
        with cupy.cuda.Device(index):
            (cupy.zeros(1, "float32") > 0).any().get()      # `any` needs more of CUDA's headers
            cupy.cuda.get_cublas_handle()
    except Exception as error:      # compilers and loaders raise types of their own
        return (f'CuPy cannot compile, or lacks a library ({_one_line(error)}); pip install "spp[cuda13]" (or '
                '"spp[cuda12]", as the driver is) into an environment without packages of another CUDA')
    return ""


@functools.cache
def _log_why_no_gpu() -> None:
    if _missing_for_gpu(0) != NO_CUPY:
        log.info("Computing on the CPU: %s", _missing_for_gpu(0))


def _one_line(error: Exception) -> str:
    """The error's text on one line, truncated to LONGEST characters: a compiler's log is too long."""
    text = " ".join(str(error).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def forget_devices() -> None:
    """Look for GPUs anew when a device is next requested."""
    global _cuda
    _cuda = None
    _missing_for_gpu.cache_clear()
    _log_why_no_gpu.cache_clear()
