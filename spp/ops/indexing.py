"""Rows selected by index (Caffe's Filter, BatchReindex and Embed), and their gradients. A row is one index of axis 0.

Indices are int64, in range.
"""
from spp import backend
from spp.backend.types import Array


def take_forward(x: Array, indices: Array, y: Array) -> None:
    """y[i] = x[indices[i]]."""
    backend.of(x).take_rows(x, indices, y)


def take_backward(dy: Array, indices: Array, dx: Array) -> None:
    """dx[indices[i]] += dy[i], in the order of i."""
    backend.of(dx).add_rows(dy, indices, dx)


def embed_forward(indices: Array, weight: Array, bias: Array | None, y: Array) -> None:
    """y = the rows of weight (rows x length) at the indices, + bias (length, or None). y: indices.shape + (length)."""
    device = backend.of(y)
    rows = device.empty_matrix(y, y.ndim - 1, "indexing.rows")
    device.take_rows(weight, indices.reshape(-1), rows)
    if bias is not None:
        rows += bias
    device.store(rows.reshape(y.shape), y)
