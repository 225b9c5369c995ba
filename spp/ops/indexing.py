"""Rows picked by index, and gradients added back where they came from. A row is what one index of axis 0 has."""
from typing import Any

from spp import backend


def take_forward(x: Any, indices: Any, y: Any) -> None:
    """y[i] = x[indices[i]]; the indices may have any shape."""
    y[...] = x[indices]


def take_backward(dy: Any, indices: Any, dx: Any) -> None:
    """dx[indices[i]] += dy[i]."""
    backend.of(dx).xp.add.at(dx, indices, dy)


def embed_forward(indices: Any, weight: Any, bias: Any, y: Any) -> None:
    """y = weight's rows of these indices, + bias, which may be None. y: the shape of indices, then a row's length."""
    y[...] = weight[indices]
    if bias is not None:
        y += bias
