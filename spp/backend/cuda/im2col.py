"""The windows of a two-dimensional convolution laid out as columns."""
import math

import cupy

from spp.backend.cuda.kernels import OUT, launch_into
from spp.backend.types import Geometry


def im2col(x: cupy.ndarray, columns: cupy.ndarray, geometry: Geometry) -> None:
    """columns = the pixels under each tap of each window; pixels outside of x are zero.

    x: N x C x H x W; columns, in C order: C x kernel's height x its width x N x rows and columns of windows.
    """
    windows = x.shape[1] * math.prod(columns.shape[3:])
    launch_into(columns, "im2col", windows, x, OUT, *x.shape[1:], *columns.shape[1:], *geometry.stride, *geometry.pad,
                *geometry.dilation)


def col2im(columns: cupy.ndarray, x: cupy.ndarray, geometry: Geometry) -> None:
    """x = the sum, for each pixel, of its values in the columns, which are laid out as by `im2col`."""
    launch_into(x, "col2im", x.size, columns, OUT, *x.shape[1:], *columns.shape[1:], *geometry.stride, *geometry.pad,
                *geometry.dilation)
