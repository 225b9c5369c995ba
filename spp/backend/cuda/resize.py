"""Bilinear resizing: every output pixel is interpolated between two rows and two columns of the input.

`rows` and `columns` have one entry for each row and column of the output. In both, first and second ascend, and
second is first or first + 1.
Arrays are N x C x H x W, of one floating dtype.
"""
import cupy

from spp.backend.cuda.kernels import launch
from spp.backend.cuda.layout import empty, load, store
from spp.backend.types import Interpolation


def bilinear(x: cupy.ndarray, rows: Interpolation, columns: Interpolation, y: cupy.ndarray) -> None:
    """y = x, interpolated between its rows and columns."""
    out = empty(y)
    launch("bilinear", y.size, x.dtype, load(x), *rows, *columns, out, *x.shape[2:], *y.shape[2:])
    store(out, y)


def bilinear_backward(dy: cupy.ndarray, rows: Interpolation, columns: Interpolation, dx: cupy.ndarray) -> None:
    """dx = the sum of dy, each times the weight of this position in it."""
    out = empty(dx)
    launch("bilinear_backward", dx.size, dx.dtype, load(dy), *rows, *columns, out, *dx.shape[2:],
           *dy.shape[2:])
    store(out, dx)
