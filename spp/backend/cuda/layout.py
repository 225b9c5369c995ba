"""Contiguous arrays for kernels, with three functions: load, empty and store; and arrays to and from the host.

`load` returns a contiguous array with the values of an array; `empty` one for a kernel to write, whose values are
undefined; `store` copies such a result to its array. Where the array is in C order already, all three work on the
array itself and copy nothing. `load_matrix` and `empty_matrix` do the same for matrices.

Temporary memory is from CuPy's pool, which reuses its blocks.
"""
import math
from typing import Any

import cupy
import numpy as np

from spp.backend.cuda.failures import used


def load(array: cupy.ndarray) -> cupy.ndarray:
    """The values of an array in C order."""
    return cupy.ascontiguousarray(array)


def empty(array: cupy.ndarray) -> cupy.ndarray:
    """An array in C order to write the results for `array` to."""
    return array if array.flags.c_contiguous else cupy.empty(array.shape, array.dtype)


def store(result: cupy.ndarray, target: cupy.ndarray) -> None:
    """Copy `result` to the equally shaped `target`, unless it is a view of it."""
    if not cupy.may_share_memory(result, target):
        target[...] = result


def load_matrix(array: cupy.ndarray, axis: int, name: str) -> cupy.ndarray:
    """The values of an array as a C-contiguous matrix: the axes before `axis`, flattened, by all other axes."""
    return _matrix(load(array), axis)


def empty_matrix(array: cupy.ndarray, axis: int, name: str) -> cupy.ndarray:
    """A C-contiguous matrix to write the results for `array` to; its shape is that of `load_matrix`."""
    return _matrix(empty(array), axis)


def _matrix(array: cupy.ndarray, axis: int) -> cupy.ndarray:
    return array.reshape(math.prod(array.shape[:axis]), math.prod(array.shape[axis:]))


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> cupy.ndarray:
    """An uninitialized C-contiguous array of this shape. `name` is that of the buffer on the host."""
    return cupy.empty(shape, dtype)


def scratch_like(name: str, array: cupy.ndarray, dtype: Any = None) -> cupy.ndarray:
    """`scratch` with the array's shape and order of axes in memory, and its dtype unless `dtype` is given."""
    return cupy.empty_like(array, dtype)


def from_host(array: np.ndarray) -> cupy.ndarray:
    """A NumPy array as an array of the current device, with the same order of axes in memory."""
    axes = _axes_by_stride(array)
    return cupy.asarray(np.asarray(array.transpose(axes), order="C")).transpose(_inverse(axes))


def to_host(array: cupy.ndarray) -> np.ndarray:
    """An array of a device as a NumPy array, with the same order of axes in memory; waits for the device.

    Raises SppError if the device has failed.
    """
    axes = _axes_by_stride(array)
    with used(array.device):
        return array.transpose(axes).get().transpose(_inverse(axes))


def _axes_by_stride(array: np.ndarray | cupy.ndarray) -> list[int]:
    """The axes from the longest stride to the shortest."""
    return sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))


def _inverse(axes: list[int]) -> list[int]:
    return [axes.index(axis) for axis in range(len(axes))]
