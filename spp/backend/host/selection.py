"""Elements and rows selected by index or by size, and written at indices. A row is one index of axis 0."""
import numpy as np
from numba import njit, prange

from spp.backend.host.threads import by_one_if_short
from spp.backend.types import Array


def take_rows(x: np.ndarray, indices: np.ndarray, y: np.ndarray) -> None:
    """y[k] = x[indices[k]]; indices: integers (K), in range. x and y have one dtype and any order of memory."""
    if x.flags.c_contiguous and y.flags.c_contiguous:
        np.take(x, indices, 0, out=y, mode="clip")      # any other mode makes a copy of y
    else:
        for row, index in zip(y, indices):
            row[...] = x[index]


def take_columns(x: np.ndarray, columns: np.ndarray, y: np.ndarray) -> None:
    """y[r] = x[r, columns[r]]; x: R x C; columns: int64 (R), in range; y: R."""
    _take_columns(x, columns, y)


@by_one_if_short(lambda x, *_: x.size / 400)
def largest(x: np.ndarray, indices: np.ndarray, values: np.ndarray) -> None:
    """values = the k largest elements of each row, the largest first; indices (int64) = their columns.

    x: R x C; indices, values: R x k. All are C-contiguous. Of equal elements the last comes first. NaN counts as
    largest.
    """
    _largest(x, indices, values)


def add_rows(rows: np.ndarray, indices: np.ndarray, y: np.ndarray) -> None:
    """y[indices[i]] += rows[i], in the order of i. indices: int64, of any shape; rows: indices.shape + y.shape[1:].

    Raises IndexError for an index out of range.
    """
    np.add.at(y, indices, rows)


def put_last(values: np.ndarray, indices: np.ndarray, y: np.ndarray) -> None:
    """y[indices[i]] = values[i]; of several values for one element the last. One axis each; indices: int64.

    Raises IndexError for an index out of range.
    """
    y[indices] = values


@njit(cache=True, nogil=True)
def _take_columns(x: Array, columns: Array, y: Array) -> None:
    for row in range(len(x)):
        y[row] = x[row, columns[row]]


@njit(parallel=True, cache=True, nogil=True)
def _largest(x: Array, indices: Array, values: Array) -> None:
    count = values.shape[1]
    for row in prange(len(x)):
        best, where = values[row], indices[row]
        for i in range(x.shape[1]):
            value = x[row, i]
            place = min(i, count)       # after the largest elements so far
            while place > 0 and (value >= best[place - 1] or value != value):
                place -= 1
            for k in range(min(i, count - 1), place, -1):
                best[k], where[k] = best[k - 1], where[k - 1]
            if place < count:
                best[place], where[place] = value, i
