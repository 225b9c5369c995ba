"""Bilinear resizing: every output pixel is interpolated between two rows and two columns of the input.

As in spp.backend.host.resize; in `rows` and in `columns`, first and second ascend, and second is first or first + 1.
"""
import cupy

from spp.backend.cuda.kernels import OUT, launch_into
from spp.backend.types import Interpolation


def bilinear(x: cupy.ndarray, rows: Interpolation, columns: Interpolation, y: cupy.ndarray) -> None:
    """y = x, interpolated between its rows and columns."""
    launch_into(y, "bilinear", y.size, x, *rows, *columns, OUT, *x.shape[2:], *y.shape[2:])


def bilinear_backward(dy: cupy.ndarray, rows: Interpolation, columns: Interpolation, dx: cupy.ndarray) -> None:
    """dx = the sum of dy, each times the weight of this position in it."""
    launch_into(dx, "bilinear_backward", dx.size, dy, *rows, *columns, OUT, *dx.shape[2:], *dy.shape[2:])
