"""What the errors of CUDA and its libraries mean: too little memory, or a GPU that is lost to this process."""
import re
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import cupy

from spp.errors import DeviceError, SppError, too_little_memory

# As the driver, the runtime, cuBLAS and cuDNN word it; and what libraries may also say if hardly any memory is left.
_TOO_LITTLE = re.compile("out of memory|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|"
                         "CU(BLAS|DNN)_STATUS_\\w*ALLOC", re.I)
_PERHAPS = re.compile("CU(BLAS|DNN)_STATUS_(NOT_INITIALIZED|INTERNAL_ERROR)")
HARDLY_ANY = 256 << 20      # bytes


def lacks_memory(error: BaseException) -> bool:
    """Whether the error means that memory could not be allocated."""
    if not isinstance(error, RuntimeError):
        return isinstance(error, MemoryError)
    text = str(error)
    return bool(_TOO_LITTLE.search(text)
                or _PERHAPS.search(text) and cupy.cuda.runtime.memGetInfo()[0] < HARDLY_ANY)


def with_free_memory(call: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """call(*args, **named); if memory is short, free the unused blocks of CuPy's pool and retry once.

    For libraries, and for kernels when they are loaded, which allocate memory by themselves. CuPy does the same for
    its arrays.
    """
    try:
        return call(*args, **named)
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
    cupy.get_default_memory_pool().free_all_blocks()
    return call(*args, **named)


def device_error() -> str:
    """The error of the current device if it is lost, which every later call repeats; else an empty string."""
    try:
        cupy.cuda.runtime.deviceSynchronize()
    except RuntimeError as error:
        return one_line(error)
    return ""


def as_spp_error(error: Exception) -> Exception:
    """What an error on the current device means, as an SppError; or the error unchanged if the GPU did not fail."""
    if isinstance(error, MemoryError):
        return too_little_memory(error)
    if not isinstance(error, RuntimeError) or isinstance(error, SppError):
        return error
    index = cupy.cuda.runtime.getDevice()
    reason = device_error()
    if reason:
        return DeviceError(f"GPU {index} has failed and is lost to this process, by this or by work begun earlier ("
                           f"{reason}); go on from the last snapshot, with CUDA_LAUNCH_BLOCKING=1 to learn where it "
                           "is")
    if not lacks_memory(error):
        return error
    free, total = cupy.cuda.runtime.memGetInfo()
    return too_little_memory(MemoryError(f"{one_line(error)}; of the {total:,} bytes of GPU {index} {free:,} are "
                                         "free"))


@contextmanager
def used(device: Any) -> Iterator[None]:
    """Make a device current. Raises SppError, outside of any layer, if the device fails or lacks memory."""
    with device:
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            meaning = as_spp_error(error)
            if meaning is error:
                raise
            if isinstance(meaning, DeviceError):        # its message names the GPU
                raise meaning from error
            raise type(meaning)(f"cuda:{device.id}: {meaning}") from error


def one_line(error: BaseException) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__
