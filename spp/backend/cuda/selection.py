"""Elements and rows selected by index or by size, and written at indices. A row is one index of axis 0."""
import math

import cupy
import numpy as np

from spp.backend.cuda.kernels import launch, launch_blocks
from spp.backend.cuda.layout import load, store


def take_rows(x: cupy.ndarray, indices: cupy.ndarray, y: cupy.ndarray) -> None:
    """y[k] = x[indices[k]]; indices: integers (K), in range. x and y have one dtype and any order of memory."""
    cupy.take(x, indices, 0, out=y)


def take_columns(x: cupy.ndarray, columns: cupy.ndarray, y: cupy.ndarray) -> None:
    """y[r] = x[r, columns[r]]; x: R x C; columns: int64 (R), in range; y: R."""
    y[...] = cupy.take_along_axis(x, columns[:, None], 1)[:, 0]


def largest(x: cupy.ndarray, indices: cupy.ndarray, values: cupy.ndarray) -> None:
    """values = the k largest elements of each row, the largest first; indices (int64) = their columns."""
    count = values.shape[1]
    if count == 1:
        indices[...] = x.shape[1] - 1 - cupy.flip(x, 1).argmax(1)[:, None]
    else:
        indices[...] = cupy.flip(cupy.argsort(x, 1, kind="stable"), 1)[:, :count]
    values[...] = cupy.take_along_axis(x, indices, 1)


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
