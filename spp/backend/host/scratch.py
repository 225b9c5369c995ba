"""Temporary buffers that kernels reuse, so that a net allocates nothing in steady state."""
import math
import threading
from typing import Any

import numpy as np

_local = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised C-contiguous array of this shape: the calling thread's one buffer of this name and dtype.

    The buffer only grows. Every call with the same name and dtype, in the same thread, returns the same memory:
    so a name belongs to one kernel, and the values are valid only during the kernel's call.
    """
    buffers = _local.__dict__.setdefault("buffers", {})
    key = name, np.dtype(dtype)
    size = math.prod(shape)
    flat = buffers.get(key)
    if flat is None or flat.size < size:
        flat = buffers[key] = np.empty(size, dtype)
    return flat[:size].reshape(shape)


def scratch_like(name: str, array: np.ndarray, dtype: Any = None) -> np.ndarray:
    """`scratch` with the array's shape and order of axes in memory, and with its dtype unless `dtype` is passed."""
    axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    buffer = scratch(name, tuple(array.shape[axis] for axis in axes), dtype or array.dtype)
    return buffer.transpose([axes.index(axis) for axis in range(array.ndim)])
