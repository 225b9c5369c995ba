"""Bilinear resizing: pixels between two rows and two columns.

`rows` is (first, second, weight of the second) for each row of the output: int32, int32 and floats; so is
`columns`. First and second ascend, and second is first or the next. Arrays are N x C x H x W.
"""
from typing import Any

import cupy

from spp.backend.cuda.kernels import in_c_order, launch, room_for
from spp.backend.cuda.layout import store


def bilinear(x: cupy.ndarray, rows: Any, columns: Any, y: cupy.ndarray) -> None:
    """y = x between its rows and columns."""
    out = room_for(y)
    launch("bilinear", y.size, x.dtype, in_c_order(x), *rows, *columns, out, *x.shape[2:], *y.shape[2:])
    store(out, y)


def bilinear_backward(dy: cupy.ndarray, rows: Any, columns: Any, dx: cupy.ndarray) -> None:
    """dx = the sum of dy by the weight that a pixel has in it."""
    out = room_for(dx)
    launch("bilinear_backward", dx.size, dx.dtype, in_c_order(dy), *rows, *columns, out, *dx.shape[2:],
           *dy.shape[2:])
    store(out, dx)
