"""Rows added, and elements written, where an index says. A row is all that one index of axis 0 has."""
import math

import cupy
import numpy as np

from spp.backend.cuda.kernels import in_c_order, launch, launch_blocks
from spp.backend.cuda.layout import store


def add_rows(rows: cupy.ndarray, indices: cupy.ndarray, y: cupy.ndarray) -> None:
    """y[indices[i]] += rows[i], in the order of i. indices: int64, of any shape; rows: that shape, then a row's.

    An index out of range is passed over.
    """
    out = in_c_order(y)
    launch_blocks("add_rows", indices.size, y.dtype, in_c_order(rows), in_c_order(indices), out,
                  np.int64(len(y)), math.prod(y.shape[1:]))
    store(out, y)


def put_last(values: cupy.ndarray, indices: cupy.ndarray, y: cupy.ndarray) -> None:
    """y[indices[i]] = values[i]; of several for one element the last. One axis each; indices: int64.

    An index out of range is passed over.
    """
    last, size = cupy.full(y.shape, -1, np.int64), np.int64(len(y))
    index, out = in_c_order(indices), in_c_order(y)
    launch("last_of_index", len(index), y.dtype, index, last, size)
    launch("put_last", len(index), y.dtype, in_c_order(values), index, last, out, size)
    store(out, y)
