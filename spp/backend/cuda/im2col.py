"""The windows of a two-dimensional convolution laid out as columns."""
import math

import cupy

from spp.backend.cuda.kernels import launch
from spp.backend.cuda.layout import empty, load, store

Numbers = tuple[int, ...]


def im2col(x: cupy.ndarray, columns: cupy.ndarray, stride: Numbers, pad: Numbers, dilation: Numbers) -> None:
    """columns = the pixels that each tap of each window meets; what lies outside of x is zero.

    x: N x C x H x W; columns, in C order: C x kernel's height x its width x N x rows and columns of windows.
    """
    windows = x.shape[1] * math.prod(columns.shape[3:])
    launch("im2col", windows, x.dtype, load(x), columns, *x.shape[1:], *columns.shape[1:], *stride, *pad,
           *dilation)


def col2im(columns: cupy.ndarray, x: cupy.ndarray, stride: Numbers, pad: Numbers, dilation: Numbers) -> None:
    """x = the sum over the columns, as `im2col` lays them out, of what came from there."""
    out = empty(x)
    launch("col2im", x.size, x.dtype, columns, out, *x.shape[1:], *columns.shape[1:], *stride, *pad, *dilation)
    store(out, x)
