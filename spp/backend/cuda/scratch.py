"""Temporary memory: from CuPy's pool, which reuses its blocks."""
from typing import Any

import cupy


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> cupy.ndarray:
    """An uninitialized C-contiguous array of this shape. `name` is that of the buffer on the host."""
    return cupy.empty(shape, dtype)


def scratch_like(name: str, array: cupy.ndarray, dtype: Any = None) -> cupy.ndarray:
    """`scratch` with the array's shape and order of axes in memory, and its dtype unless `dtype` is given."""
    return cupy.empty_like(array, dtype)
