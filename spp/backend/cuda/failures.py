"""What the errors of CUDA and its libraries mean: too little memory, or a GPU that is lost to this process."""
import re
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import cupy

from spp.errors import DeviceError, SppError, too_little_memory

# In the words of the driver, the runtime, cuBLAS and cuDNN; and what libraries may say, too, where hardly any is left.
_TOO_LITTLE = re.compile("out of memory|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|"
                         "CU(BLAS|DNN)_STATUS_\\w*ALLOC", re.I)
_PERHAPS = re.compile("CU(BLAS|DNN)_STATUS_(NOT_INITIALIZED|INTERNAL_ERROR)")
HARDLY_ANY = 256 << 20      # bytes


def lacks_memory(error: BaseException) -> bool:
    """Whether the error says that memory could not be had."""
    if not isinstance(error, RuntimeError):
        return isinstance(error, MemoryError)
    text = str(error)
    return bool(_TOO_LITTLE.search(text)
                or _PERHAPS.search(text) and cupy.cuda.runtime.memGetInfo()[0] < HARDLY_ANY)


def with_room(call: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """call(*args, **named); again, where there is too little memory, with what CuPy's pool keeps unused given back.

    For what takes memory by itself: libraries, and kernels when they are loaded. CuPy does so for its arrays.
    """
    try:
        return call(*args, **named)
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
    cupy.get_default_memory_pool().free_all_blocks()
    return call(*args, **named)


def lost() -> str:
    """What the current device says if it is lost: then it says so at every call from now on."""
    try:
        cupy.cuda.runtime.deviceSynchronize()
    except RuntimeError as error:
        return line(error)
    return ""


def explained(error: Exception) -> Exception:
    """What an error on the current device means, as an SppError, or the error itself: it is not a failure's."""
    if isinstance(error, MemoryError):
        return too_little_memory(error)
    if not isinstance(error, RuntimeError) or isinstance(error, SppError):
        return error
    index = cupy.cuda.runtime.getDevice()
    said = lost()
    if said:
        return DeviceError(f"GPU {index} has failed and is lost to this process, by this or by work begun earlier "
                           f"({said}); go on from the last snapshot, with CUDA_LAUNCH_BLOCKING=1 to learn where it is")
    if not lacks_memory(error):
        return error
    free, total = cupy.cuda.runtime.memGetInfo()
    return too_little_memory(MemoryError(f"{line(error)}; of the {total:,} bytes of GPU {index} {free:,} are free"))


@contextmanager
def used(device: Any) -> Iterator[None]:
    """The block's current device; raises SppError where it fails or lacks memory, outside of any layer."""
    with device:
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            told = explained(error)
            if told is error:
                raise
            if isinstance(told, DeviceError):       # names the GPU
                raise told from error
            raise type(told)(f"cuda:{device.id}: {told}") from error


def line(error: BaseException) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__
