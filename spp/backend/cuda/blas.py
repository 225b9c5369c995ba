"""Products of matrices by cuBLAS, at a chosen precision."""
from typing import Any

import cupy
import numpy as np

from spp.backend.cuda.failures import with_free_memory

# The types of cuBLAS's factors, for float32 matrices, which are rounded to them; the products are summed in float32.
_COMPUTE = {"fp32": "CUBLAS_COMPUTE_32F", "tf32": "CUBLAS_COMPUTE_32F_FAST_TF32",
            "bf16": "CUBLAS_COMPUTE_32F_FAST_16BF", "fp16": "CUBLAS_COMPUTE_32F_FAST_16F"}


def product(a: cupy.ndarray, b: cupy.ndarray, out: cupy.ndarray, precision: str = "fp32", add: bool = False) -> None:
    """out = a b, or out += a b: matrices of one dtype, float32 or float64; out is C-contiguous.

    a and b may be transposed views of C-contiguous matrices, else they are copied. float64 is computed in float64
    whatever the precision.
    """
    from cupy.cuda import cublas, get_cublas_handle, runtime
    (m, k), n = a.shape, b.shape[1]
    if not out.size or not k:
        if not add:
            out[...] = 0
        return
    single = out.dtype == np.float32
    kind = runtime.CUDA_R_32F if single else runtime.CUDA_R_64F
    compute = getattr(cublas, _COMPUTE[precision] if single else "CUBLAS_COMPUTE_64F")
    # cuBLAS reads matrices column by column, and so reads a row-major one as its transpose: it computes
    # out^T = b^T a^T
    b, transpose_b, step_b = _operand(b)
    a, transpose_a, step_a = _operand(a)
    factors = np.array([1, add], out.dtype)
    cublas.gemmEx(with_free_memory(get_cublas_handle), transpose_b, transpose_a, n, m, k, factors.ctypes.data,
                  b.data.ptr, kind, step_b, a.data.ptr, kind, step_a, factors.ctypes.data + factors.itemsize,
                  out.data.ptr, kind, n, compute, cublas.CUBLAS_GEMM_DEFAULT)


def _operand(matrix: cupy.ndarray) -> tuple[Any, int, int]:
    """The matrix, cuBLAS's operation on the transpose that it reads, and the leading dimension."""
    from cupy.cuda import cublas
    if matrix.flags.c_contiguous:
        return matrix, cublas.CUBLAS_OP_N, matrix.shape[1]
    if matrix.flags.f_contiguous:
        return matrix, cublas.CUBLAS_OP_T, matrix.shape[0]
    return cupy.ascontiguousarray(matrix), cublas.CUBLAS_OP_N, matrix.shape[1]
