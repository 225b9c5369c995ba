"""Rows added and elements written at indices. A row is one index of axis 0."""
import math

import cupy
import numpy as np

from spp.backend.cuda.kernels import launch, launch_blocks
from spp.backend.cuda.layout import load, store


def add_rows(rows: cupy.ndarray, indices: cupy.ndarray, y: cupy.ndarray) -> None:
    """y[indices[i]] += rows[i], in the order of i. indices: int64, of any shape; rows: indices.shape + y.shape[1:].

    Indices out of range are ignored.
    """
    out = load(y)
    launch_blocks("add_rows", indices.size, y.dtype, load(rows), load(indices), out,
                  np.int64(len(y)), math.prod(y.shape[1:]))
    store(out, y)


def put_last(values: cupy.ndarray, indices: cupy.ndarray, y: cupy.ndarray) -> None:
    """y[indices[i]] = values[i]; of several values for one element the last. One axis each; indices: int64.

    Indices out of range are ignored.
    """
    last, size = cupy.full(y.shape, -1, np.int64), np.int64(len(y))
    index, out = load(indices), load(y)
    launch("last_of_index", len(index), y.dtype, index, last, size)
    launch("put_last", len(index), y.dtype, load(values), index, last, out, size)
    store(out, y)
