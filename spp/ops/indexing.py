"""Rows picked by index, and gradients added back where they came from. A row is what one index of axis 0 has."""
from typing import Any

from spp import backend


def take_forward(x: Any, indices: Any, y: Any) -> None:
    """y[i] = x[indices[i]]."""
    backend.of(x).take_rows(x, indices, y)


def take_backward(dy: Any, indices: Any, dx: Any) -> None:
    """dx[indices[i]] += dy[i], in the order of i."""
    backend.of(dx).add_rows(dy, indices, dx)


def embed_forward(indices: Any, weight: Any, bias: Any, y: Any) -> None:
    """y = weight's rows of these indices, + bias, which may be None. y: the shape of indices, then a row's length."""
    device = backend.of(y)
    rows = device.matrix(y, y.ndim - 1, "indexing.rows")
    device.take_rows(weight, indices.reshape(-1), rows)
    if bias is not None:
        rows += bias
    device.store(rows.reshape(y.shape), y)
