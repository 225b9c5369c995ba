"""Rows added and elements written at indices. A row is one index of axis 0."""
import numpy as np


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
