"""Rows added, and elements written, where an index says. A row is all that one index of axis 0 has."""
import numpy as np


def add_rows(rows: np.ndarray, indices: np.ndarray, y: np.ndarray) -> None:
    """y[indices[i]] += rows[i], in the order of i. indices: int64, of any shape; rows: that shape, then a row's."""
    np.add.at(y, indices, rows)


def put_last(values: np.ndarray, indices: np.ndarray, y: np.ndarray) -> None:
    """y[indices[i]] = values[i]; of several for one element the last. One axis each; indices: int64."""
    y[indices] = values
