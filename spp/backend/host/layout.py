"""The order in which arrays lie in memory."""
import numpy as np

from spp.backend.host.scratch import scratch


def channels_last(x: np.ndarray) -> np.ndarray:
    """An N x C x H x W array as a C-contiguous N x H x W x C array: a view where it lies so, else a copy."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def store(result: np.ndarray, target: np.ndarray) -> None:
    """Copy `result` to the equally shaped `target`, unless it is a view of it already."""
    if not np.may_share_memory(result, target):
        target[...] = result


def matrix(x: np.ndarray, rows: int, name: str) -> np.ndarray:
    """`x` as a C-contiguous matrix of `rows` rows, its elements in Caffe's order.

    A view where `x` lies so in memory, else a copy in the thread's scratch buffer `name`.
    """
    if x.flags.c_contiguous:
        return x.reshape(rows, -1)
    copy = scratch(name, x.shape, x.dtype)
    copy[...] = x
    return copy.reshape(rows, -1)
