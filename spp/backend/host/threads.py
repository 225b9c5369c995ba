"""The number of threads that the host computes with."""
import functools
from typing import Any, Callable, TypeVar

import numba

from spp.backend.host import blas
from spp.errors import SppError

SHORT = 120.0       # microseconds; waking a sleeping thread takes about half of it, more than it would save
Function = TypeVar("Function", bound=Callable[..., Any])


def set_threads(count: int) -> None:
    """Let kernels that the calling thread starts, and NumPy's BLAS, use `count` threads.

    Raises SppError for less than 1, or more than Numba had at its import.
    """
    most: int = getattr(numba.config, "NUMBA_NUM_THREADS")      # as it was when Numba was imported
    if not 1 <= count <= most:
        raise SppError(f"cannot compute with {count} threads: this process may use 1 to {most}, the value of "
                       "OMP_NUM_THREADS when it started or else the number of cores")
    numba.set_num_threads(count)
    blas.set_numpy_threads(count)


def channel_blocks(images: int, channels: int) -> int:
    """The number of blocks into which channels are divided, so that a small batch keeps all threads busy."""
    return max(1, min(channels // 16, 2 * numba.get_num_threads() // max(images, 1)))


def by_one_if_short(microseconds: Callable[..., float]) -> Callable[[Function], Function]:
    """Decorate a function that starts parallel kernels: the calling thread alone computes what takes less than SHORT.

    `microseconds` estimates the time of one thread from the function's positional arguments.
    """
    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            threads = numba.get_num_threads()
            if threads == 1 or microseconds(*args) > SHORT:
                return function(*args, **kwargs)
            numba.set_num_threads(1)
            try:
                return function(*args, **kwargs)
            finally:
                numba.set_num_threads(threads)
        return run      # type: ignore[return-value]
    return decorate
