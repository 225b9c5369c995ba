"""cupy.cuda, RawModule and cupyx, as far as they are used."""
import ctypes
from typing import Any

import numpy as np

import cuda_cpu
from emulated_cupy import memory
from emulated_cupy.arrays import ndarray, unwrap

TYPES = ("bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
         "float64", "dtype", "generic")


class Stream:
    """cupy.cuda.Stream: everything is done at once."""

    ptr = 0

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None:
        pass

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def use(self) -> "Stream":
        return self

    def synchronize(self) -> None:
        memory.waits()

    def record(self, event: Any = None) -> "Event":
        return event or Event()

    def wait_event(self, event: Any) -> None:
        pass


class Event:
    """cupy.cuda.Event."""

    done = True

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        pass

    def synchronize(self) -> None:
        memory.check()  # of an event the host waits for, not for all that was begun after it


def get_current_stream() -> Stream:
    return Stream()


class RawModule:
    """cupy.RawModule: kernels on the CPU, compiled by g++ at the first get_function."""

    def __init__(self, code: str, *, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        self._made: Any = None
        self._code, self._options = code, options

    def get_function(self, name: str) -> Any:
        if self._made is None:
            self._made = cuda_cpu.Module(self._code, self._options)
        kernel = self._made.get_function(name)

        def launch(grid: tuple, block: tuple, args: tuple, *, shared_mem: int = 0) -> None:
            memory.check()
            for arg in args:
                if isinstance(arg, np.ndarray):
                    raise TypeError(f"Unsupported type {type(arg)}")
                if isinstance(arg, ndarray) and not arg.flags.c_contiguous:
                    raise ValueError(f"{name}: an array is not in C order, which is what a kernel reads")
            kernel(grid, block, tuple(unwrap(arg) if isinstance(arg, ndarray) else arg for arg in args),
                   shared_mem=shared_mem)

        return launch


class _Pool:
    """cupy.cuda.MemoryPool."""

    def free_all_blocks(self) -> None:
        memory.State.freed += 1

    def used_bytes(self) -> int:
        return 0

    def total_bytes(self) -> int:
        return 0


def get_default_memory_pool() -> _Pool:
    return _Pool()


def empty_pinned(shape: Any, dtype: Any = float, order: Any = "C") -> np.ndarray:
    return np.full(shape, 77, dtype, order)


def zeros_pinned(shape: Any, dtype: Any = float, order: Any = "C") -> np.ndarray:
    return np.zeros(shape, dtype, order)


def _gemm_ex(handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, a: int, atype: int, lda: int,
             b: int, btype: int, ldb: int, beta: int, c: int, ctype: int, ldc: int, compute: int, algo: int) -> None:
    """cublasGemmEx on column-major matrices, CUDA_R_32F or CUDA_R_64F; computes in that type whatever `compute`."""
    assert atype == btype == ctype and compute in ((68, 74, 75, 77) if atype == 0 else (70,))
    real = {0: ctypes.c_float, 1: ctypes.c_double}[atype]

    def matrix(address: int, rows: int, columns: int, ld: int) -> np.ndarray:
        assert ld >= max(1, rows)
        # the last column ends with its last row
        flat = np.ctypeslib.as_array((real * (ld * (columns - 1) + rows)).from_address(address))
        return np.lib.stride_tricks.as_strided(flat, (rows, columns), (flat.itemsize, ld * flat.itemsize))

    left = matrix(a, k, m, lda).T if transa else matrix(a, m, k, lda)
    right = matrix(b, n, k, ldb).T if transb else matrix(b, k, n, ldb)
    out = matrix(c, m, n, ldc)
    one, old = (real.from_address(address).value for address in (alpha, beta))
    out[...] = one * (left @ right) + (old * out if old else 0)


def _properties(device: int) -> dict[str, Any]:
    return {"name": b"Emulated GPU", "totalGlobalMem": 1 << 34, "major": 9, "minor": 0}


RUNTIME = {"getDeviceCount": lambda: memory.DEVICES, "getDevice": memory.current,
           "CUDARuntimeError": memory.CUDARuntimeError, "getDeviceProperties": _properties,
           "memGetInfo": lambda: (1 << 33, 1 << 34), "deviceSynchronize": memory.waits, "CUDA_R_32F": 0,
           "CUDA_R_64F": 1}
CUBLAS = {"gemmEx": _gemm_ex, "CUBLAS_OP_N": 0, "CUBLAS_OP_T": 1, "CUBLAS_COMPUTE_32F": 68, "CUBLAS_COMPUTE_64F": 70,
          "CUBLAS_COMPUTE_32F_FAST_16F": 74, "CUBLAS_COMPUTE_32F_FAST_16BF": 75, "CUBLAS_COMPUTE_32F_FAST_TF32": 77,
          "CUBLAS_GEMM_DEFAULT": -1}
