"""Convolution without cuDNN: receptive fields laid out as columns (im2col), then products of matrices (cuBLAS).

Over any number of spatial axes, none included, and for any number of groups; a share of the batch at a time.
Everything is added up in one order: the same result every time.
"""
import itertools
import math
from typing import Any, Iterator

import cupy

from spp.backend.cuda import im2col
from spp.backend.cuda.blas import product

COLUMN_BYTES = 256 << 20        # of columns, at a time

Numbers = tuple[int, ...]


def forward(x: Any, weight: Any, y: Any, stride: Numbers, pad: Numbers, dilation: Numbers, group: int,
            precision: str) -> None:
    """Write to `y`, without a bias; see convolution.convolution_forward."""
    matrices = _matrices(weight, group)
    for images in _shares(x, weight, y):
        columns = _im2col(x[images], weight, y.shape[2:], stride, pad, dilation).reshape(group, matrices.shape[2], -1)
        out = cupy.empty((len(weight), *_batch_shape(y[images])), y.dtype)
        for matrix, column, rows in zip(matrices, columns, _matrices(out, group)):
            product(matrix, column, rows, precision)
        y[images] = cupy.swapaxes(out, 0, 1)


def backward_data(dy: Any, weight: Any, dx: Any, stride: Numbers, pad: Numbers, dilation: Numbers, group: int,
                  precision: str) -> None:
    """Write to `dx`; see convolution.convolution_backward_data."""
    matrices = _matrices(weight, group)
    for images in _shares(dx, weight, dy):
        gradient = cupy.ascontiguousarray(cupy.swapaxes(dy[images], 0, 1))
        columns = cupy.empty((dx.shape[1], *weight.shape[2:], *gradient.shape[1:]), dx.dtype)
        for matrix, rows, column in zip(matrices, _matrices(gradient, group),
                                        columns.reshape(group, matrices.shape[2], -1)):
            product(matrix.T, rows, column, precision)
        _col2im(columns, dx[images], weight.shape[2:], stride, pad, dilation)


def backward_weights(x: Any, dy: Any, dweight: Any, stride: Numbers, pad: Numbers, dilation: Numbers, group: int,
                     precision: str) -> None:
    """Add to `dweight`; see convolution.convolution_backward_weights."""
    total = cupy.ascontiguousarray(dweight)
    sums = _matrices(total, group)
    for images in _shares(x, dweight, dy):
        columns = _im2col(x[images], dweight, dy.shape[2:], stride, pad, dilation).reshape(group, sums.shape[2], -1)
        gradient = cupy.ascontiguousarray(cupy.swapaxes(dy[images], 0, 1))
        for rows, column, matrix in zip(_matrices(gradient, group), columns, sums):
            product(rows, column.T, matrix, precision, add=True)
    if total is not dweight:
        dweight[...] = total


def _shares(x: Any, weight: Any, y: Any) -> Iterator[slice]:
    """Parts of the batch whose columns take at most COLUMN_BYTES, or single images."""
    one = x.shape[1] * math.prod(weight.shape[2:]) * math.prod(y.shape[2:]) * x.itemsize
    share = max(1, COLUMN_BYTES // max(1, one))
    return (slice(first, first + share) for first in range(0, len(x), share))


def _matrices(array: Any, group: int) -> Any:
    """outputs x ... as groups x outputs of a group x all the rest."""
    return cupy.ascontiguousarray(array).reshape(group, len(array) // group, math.prod(array.shape[1:]))


def _batch_shape(y: Any) -> Numbers:
    """Images and windows."""
    return (len(y), *y.shape[2:])


def _taps(kernel: Numbers, out: Numbers, stride: Numbers, dilation: Numbers) -> Iterator[tuple[Numbers, tuple]]:
    """A kernel's taps, and the index of the pixels of the padded input that each meets."""
    for tap in itertools.product(*map(range, kernel)):
        yield tap, (..., *(slice(t * d, t * d + (o - 1) * s + 1, s)
                           for t, d, o, s in zip(tap, dilation, out, stride)))


def _padded(shape: Numbers, dtype: Any, kernel: Numbers, out: Numbers, stride: Numbers, pad: Numbers,
            dilation: Numbers) -> tuple[Any, tuple]:
    """Zeros for an input of this shape, its pad, and all that the last windows reach; and where the input lies."""
    sizes = (max(n + 2 * p, (o - 1) * s + (k - 1) * d + 1)
             for n, k, o, s, p, d in zip(shape[2:], kernel, out, stride, pad, dilation))
    return cupy.zeros((*shape[:2], *sizes), dtype), (..., *(slice(p, p + n) for n, p in zip(shape[2:], pad)))


def _im2col(x: Any, weight: Any, out: Numbers, stride: Numbers, pad: Numbers, dilation: Numbers) -> Any:
    """channels x taps x N x windows: what each tap of each window meets."""
    kernel = weight.shape[2:]
    columns = cupy.empty((x.shape[1], *kernel, len(x), *out), x.dtype)
    if x.ndim == 4:
        im2col.im2col(x, columns, stride, pad, dilation)
        return columns
    padded, inside = _padded(x.shape, x.dtype, kernel, out, stride, pad, dilation)
    padded[inside] = x
    for tap, pixels in _taps(kernel, out, stride, dilation):
        columns[(slice(None), *tap)] = cupy.swapaxes(padded[pixels], 0, 1)
    return columns


def _col2im(columns: Any, dx: Any, kernel: Numbers, stride: Numbers, pad: Numbers, dilation: Numbers) -> None:
    """Write to `dx` the sum of what all taps of all windows hand back to a pixel."""
    if dx.ndim == 4:
        im2col.col2im(columns, dx, stride, pad, dilation)
        return
    out = columns.shape[2 + len(kernel):]
    padded, inside = _padded(dx.shape, dx.dtype, kernel, out, stride, pad, dilation)
    for tap, pixels in _taps(kernel, out, stride, dilation):
        padded[pixels] += cupy.swapaxes(columns[(slice(None), *tap)], 0, 1)
    dx[...] = padded[inside]
