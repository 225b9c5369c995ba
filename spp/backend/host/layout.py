"""The order in which arrays lie in memory."""
import math

import numpy as np

from spp.backend.host.scratch import scratch


def channels_last(x: np.ndarray, name: str) -> np.ndarray:
    """An N x C x H x W array as a C-contiguous N x H x W x C array.

    A view where it lies so, else a copy in the thread's scratch buffer `name`.
    """
    last = x.transpose(0, 2, 3, 1)
    if last.flags.c_contiguous:
        return last
    copy = scratch(name, last.shape, x.dtype)
    copy[...] = last
    return copy


def store(result: np.ndarray, target: np.ndarray) -> None:
    """Copy `result` to the equally shaped `target`, unless it is a view of it already."""
    if not np.may_share_memory(result, target):
        target[...] = result


def matrix(array: np.ndarray, axis: int, name: str) -> np.ndarray:
    """A C-contiguous matrix for the array's elements in Caffe's order: axes before `axis` by those from it on.

    A view where the array lies so, else the thread's scratch buffer `name`, uninitialised.
    """
    laid = array if array.flags.c_contiguous else scratch(name, array.shape, array.dtype)
    return laid.reshape(math.prod(array.shape[:axis]), math.prod(array.shape[axis:]))


def load_matrix(array: np.ndarray, axis: int, name: str) -> np.ndarray:
    """As `matrix`, with the array's values."""
    loaded = matrix(array, axis, name)
    store(array, loaded.reshape(array.shape))
    return loaded


def flat_alike(*arrays: np.ndarray) -> list[np.ndarray] | None:
    """One-dimensional views of equally shaped arrays, elements in one order; None unless all lie densely in it."""
    axes = sorted(range(arrays[0].ndim), key=lambda axis: -abs(arrays[0].strides[axis]))
    laid = [array.transpose(axes) for array in arrays]
    return [array.reshape(-1) for array in laid] if all(array.flags.c_contiguous for array in laid) else None
