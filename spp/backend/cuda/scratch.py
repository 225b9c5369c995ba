"""Temporary memory: CuPy's pool, which hands the same blocks out again."""
from typing import Any

import cupy


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> cupy.ndarray:
    """An uninitialised C-contiguous array of this shape. `name` says what for; on the host it is the buffer's."""
    return cupy.empty(shape, dtype)


def scratch_like(name: str, array: cupy.ndarray, dtype: Any = None) -> cupy.ndarray:
    """`scratch` of the array's shape, of its dtype unless another is given, with its order of axes in memory."""
    return cupy.empty_like(array, dtype)
