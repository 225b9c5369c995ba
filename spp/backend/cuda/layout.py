"""The order in which arrays lie in memory."""
import math

import cupy
import numpy as np

from spp.backend.cuda.failures import used
from spp.backend.cuda.scratch import scratch


def from_host(array: np.ndarray) -> cupy.ndarray:
    """A NumPy array as an array of the current device, with its order of axes in memory."""
    laid, axes = _in_order(array)
    return cupy.asarray(np.asarray(laid, order="C")).transpose(_inverse(axes))


def to_host(array: cupy.ndarray) -> np.ndarray:
    """An array of a device as a NumPy array, with its order of axes in memory; waits for the device."""
    laid, axes = _in_order(array)
    with used(array.device):
        return laid.get().transpose(_inverse(axes))


def store(result: cupy.ndarray, target: cupy.ndarray) -> None:
    """Copy `result` to the equally shaped `target`, unless it is a view of it already."""
    if not cupy.may_share_memory(result, target):
        target[...] = result


def matrix(array: cupy.ndarray, axis: int, name: str) -> cupy.ndarray:
    """A C-contiguous matrix for the array's elements in Caffe's order: axes before `axis` by those from it on.

    A view where the array lies so, else new memory, uninitialised.
    """
    laid = array if array.flags.c_contiguous else scratch(name, array.shape, array.dtype)
    return laid.reshape(math.prod(array.shape[:axis]), math.prod(array.shape[axis:]))


def load_matrix(array: cupy.ndarray, axis: int, name: str) -> cupy.ndarray:
    """As `matrix`, with the array's values."""
    loaded = matrix(array, axis, name)
    store(array, loaded.reshape(array.shape))
    return loaded


def _in_order(array):
    """The array with its axes from the longest stride to the shortest, and which axes these are."""
    axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    return array.transpose(axes), axes


def _inverse(axes: list[int]) -> list[int]:
    return [axes.index(axis) for axis in range(len(axes))]
