"""Convolution without cuDNN: receptive fields laid out as columns (im2col), then products of matrices (cuBLAS).

Over any number of spatial axes, none included, and for any number of groups; a share of the batch at a time.
Everything is added up in one order: the same result every time.
"""
import math
from typing import Iterator

import cupy

from spp.backend import windows
from spp.backend.cuda.blas import product
from spp.backend.cuda.kernels import OUT, launch_into
from spp.backend.types import Array, Geometry, Numbers

COLUMN_BYTES = 256 << 20        # of columns, at a time


def forward(x: Array, weight: Array, y: Array, geometry: Geometry, precision: str) -> None:
    """Write to `y`, without an epilogue; see convolution.convolution_forward."""
    group = geometry.group
    matrices = _matrices(weight, group)
    for images in _shares(x, weight, y):
        columns = im2col(x[images], y.shape[2:], geometry).reshape(group, matrices.shape[2], -1)
        out = cupy.empty((len(weight), len(y[images]), *y.shape[2:]), y.dtype)
        for matrix, column, rows in zip(matrices, columns, _matrices(out, group)):
            product(matrix, column, rows, precision)
        y[images] = cupy.swapaxes(out, 0, 1)


def backward_data(dy: Array, weight: Array, dx: Array, geometry: Geometry, precision: str) -> None:
    """Write to `dx`; see convolution.convolution_backward_data."""
    group = geometry.group
    matrices = _matrices(weight, group)
    for images in _shares(dx, weight, dy):
        gradient = cupy.ascontiguousarray(cupy.swapaxes(dy[images], 0, 1))
        columns = cupy.empty((dx.shape[1], *geometry.kernel, *gradient.shape[1:]), dx.dtype)
        for matrix, rows, column in zip(matrices, _matrices(gradient, group),
                                        columns.reshape(group, matrices.shape[2], -1)):
            product(matrix.T, rows, column, precision)
        col2im(columns, dx[images], geometry)


def backward_weights(x: Array, dy: Array, dweight: Array, geometry: Geometry, precision: str) -> None:
    """Add to `dweight`; see convolution.convolution_backward_weights."""
    group = geometry.group
    total = cupy.ascontiguousarray(dweight)
    sums = _matrices(total, group)
    for images in _shares(x, dweight, dy):
        columns = im2col(x[images], dy.shape[2:], geometry).reshape(group, sums.shape[2], -1)
        gradient = cupy.ascontiguousarray(cupy.swapaxes(dy[images], 0, 1))
        for rows, column, matrix in zip(_matrices(gradient, group), columns, sums):
            product(rows, column.T, matrix, precision, add=True)
    if total is not dweight:
        dweight[...] = total


def _shares(x: Array, weight: Array, y: Array) -> Iterator[slice]:
    """Parts of the batch whose columns take at most COLUMN_BYTES, or single images."""
    image = x.shape[1] * math.prod(weight.shape[2:]) * math.prod(y.shape[2:]) * x.itemsize
    share = max(1, COLUMN_BYTES // max(1, image))
    return (slice(first, first + share) for first in range(0, len(x), share))


def _matrices(array: Array, group: int) -> Array:
    """outputs x ... as groups x outputs of a group x all other axes."""
    return cupy.ascontiguousarray(array).reshape(group, len(array) // group, math.prod(array.shape[1:]))


def im2col(x: Array, size: Numbers, geometry: Geometry) -> Array:
    """channels x taps x N x windows: the pixels under each tap of each window; `size`: windows along each axis.

    Pixels outside of x are zero.
    """
    columns = cupy.empty((x.shape[1], *geometry.kernel, len(x), *size), x.dtype)
    if x.ndim == 4:
        launch_into(columns, "im2col", x.shape[1] * len(x) * math.prod(size), x, OUT, *x.shape[1:], *columns.shape[1:],
                    *geometry.stride, *geometry.pad, *geometry.dilation)
    else:
        windows.im2col(x, _images_first(columns, geometry), geometry, _zeros(x, size, geometry))
    return columns


def col2im(columns: Array, dx: Array, geometry: Geometry) -> None:
    """Write to `dx` the sum of all columns' values at each pixel."""
    if dx.ndim == 4:
        launch_into(dx, "col2im", dx.size, columns, OUT, *dx.shape[1:], *columns.shape[1:], *geometry.stride,
                    *geometry.pad, *geometry.dilation)
    else:
        size = columns.shape[2 + len(geometry.kernel):]
        windows.col2im(_images_first(columns, geometry), dx, geometry, _zeros(dx, size, geometry))


def _images_first(columns: Array, geometry: Geometry) -> Array:
    """A view N x channels x taps x windows."""
    return cupy.moveaxis(columns, 1 + len(geometry.kernel), 0)


def _zeros(x: Array, size: Numbers, geometry: Geometry) -> Array:
    """Zeros for `x` with its padding."""
    return cupy.zeros((*x.shape[:2], *windows.padded_size(x.shape[2:], size, geometry)), x.dtype)
