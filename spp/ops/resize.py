"""Resizing of maps: bilinear (DeepLab's Interp), by repeating pixels, and back to where Pooling found its maxima."""
from typing import Any

import numpy as np

from spp import backend


def bilinear_axis(first: int, size: int, count: int, dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `count` pixels the two that it lies between, int32, and the weight of the second.

    The input is `size` pixels from `first` on; its corners meet the output's corners. One pixel alone
    takes the first.
    """
    place = np.arange(count) * ((size - 1) / (count - 1) if count > 1 else 0.0)
    low = np.minimum(place.astype(np.int64), size - 1)
    high = np.minimum(low + 1, size - 1)
    return (first + low).astype(np.int32), (first + high).astype(np.int32), (place - low).astype(dtype)


def bilinear_forward(x: Any, rows: Any, columns: Any, y: Any) -> None:
    """y = x between the rows and columns that `bilinear_axis` gives."""
    backend.of(x).bilinear(x, rows, columns, y)


def bilinear_backward(dy: Any, rows: Any, columns: Any, dx: Any) -> None:
    """dx = the sum of dy by the weight that a pixel has in it."""
    backend.of(dy).bilinear_backward(dy, rows, columns, dx)


def repeat_forward(x: Any, y: Any) -> None:
    """Each pixel of x (N x C x h x w) as a block of y (N x C x H x W); H and W are multiples of h and w."""
    xp = backend.of(x).xp
    high, wide = y.shape[2] // x.shape[2], y.shape[3] // x.shape[3]
    y[...] = xp.repeat(xp.repeat(x, high, 2), wide, 3)


def repeat_backward(dy: Any, dx: Any) -> None:
    """dx = the sum of dy over each block."""
    n, c, h, w = dx.shape
    dx[...] = dy.reshape(n, c, h, dy.shape[2] // h, w, dy.shape[3] // w).sum((3, 5))


def unpool_forward(x: Any, place: Any, y: Any) -> None:
    """y = 0, and x at its place h * W + w (integers of x's shape) in y's plane."""
    xp = backend.of(x).xp
    flat = xp.zeros((*y.shape[:2], y.shape[2] * y.shape[3]), y.dtype)
    xp.put_along_axis(flat, place.reshape(*x.shape[:2], -1), x.reshape(*x.shape[:2], -1), 2)
    y[...] = flat.reshape(y.shape)


def unpool_backward(dy: Any, place: Any, dx: Any) -> None:
    """dx = dy at the place."""
    xp = backend.of(dy).xp
    flat = dy.reshape(*dy.shape[:2], -1)
    dx[...] = xp.take_along_axis(flat, place.reshape(*dx.shape[:2], -1), 2).reshape(dx.shape)
