"""Rows, x[i] along axis 0, selected by int64 indices in range: Caffe's Filter, BatchReindex and Embed; gradients."""
from spp import backend
from spp.backend.types import Array


def outside(values: Array, size: int) -> Array:
    """Which integers are not 0 to size - 1: booleans in a scratch buffer."""
    device = backend.of(values)
    below, above = (device.scratch_like(f"indexing.{name}", values, bool) for name in ("below", "above"))
    device.xp.less(values, 0, out=below)
    device.xp.greater_equal(values, size, out=above)
    below |= above
    return below


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
