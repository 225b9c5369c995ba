"""Depthwise convolution over two spatial axes: each channel has a kernel of its own (group = channels = outputs).

Direct sums with the channels innermost, as they are in memory; a matrix product per group would do one column.
Images are N x H x W x C, C-contiguous unless said otherwise, of one floating dtype. `geometry` is
Geometry.flat in the kernels.
"""
import numba
import numpy as np

from spp.backend.host.convolution.im2row import blocks_of
from spp.backend.host.layout import flat_pixels
from spp.backend.host.scratch import scratch
from spp.backend.types import Array, Geometry, Numbers


@numba.njit(cache=True, nogil=True, parallel=True)
def _forward(x: Array, weight: Array, epilogue: Array, y: Array, shape: Numbers, pixel_stride: int, geometry: Numbers,
             minimum: np.floating) -> None:
    """`weight` is taps x channels; `epilogue` has rows of bias, scale and shift; smaller values become `minimum`.

    `y` is flat, of images x height x width pixels (`shape`), `pixel_stride` elements from one to the next.
    """
    bias, scale, shift = epilogue[0], epilogue[1], epilogue[2]
    kh, kw, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w = geometry
    _, height, width, channels = x.shape
    count, out_height, out_width = shape
    for task in numba.prange(count * out_height):
        image, oy = task // out_height, task % out_height
        for ox in range(out_width):
            start = (task * out_width + ox) * pixel_stride
            total = y[start:start + channels]
            for c in range(channels):
                total[c] = bias[c]
            for i in range(kh):
                iy = oy * stride_h - pad_h + i * dilation_h
                if iy < 0 or iy >= height:
                    continue
                for j in range(kw):
                    ix = ox * stride_w - pad_w + j * dilation_w
                    if ix < 0 or ix >= width:
                        continue
                    source, taps = x[image, iy, ix], weight[i * kw + j]
                    for c in range(channels):
                        total[c] += source[c] * taps[c]
            for c in range(channels):
                value = total[c] * scale[c] + shift[c]
                total[c] = minimum if value <= minimum else value


@numba.njit(cache=True, nogil=True, parallel=True)
def _backward_data(dy: Array, weight: Array, dx: Array, geometry: Numbers) -> None:
    kh, kw, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w = geometry
    count, height, width, channels = dx.shape
    _, out_height, out_width, _ = dy.shape
    for task in numba.prange(count * height):
        image, iy = task // height, task % height
        for ix in range(width):
            total = dx[image, iy, ix]
            for c in range(channels):
                total[c] = 0
            for i in range(kh):
                y = iy + pad_h - i * dilation_h
                if y < 0 or y % stride_h or y >= out_height * stride_h:
                    continue
                for j in range(kw):
                    x = ix + pad_w - j * dilation_w
                    if x < 0 or x % stride_w or x >= out_width * stride_w:
                        continue
                    source, taps = dy[image, y // stride_h, x // stride_w], weight[i * kw + j]
                    for c in range(channels):
                        total[c] += source[c] * taps[c]


@numba.njit(cache=True, nogil=True, parallel=True)
def _backward_weights(x: Array, dy: Array, dweight: Array, dbias: Array, geometry: Numbers) -> None:
    """Write a sum per part of the rows of `dy`: `dweight`, parts x taps x channels, and `dbias`, parts x channels."""
    kh, kw, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w = geometry
    _, height, width, channels = x.shape
    count, out_height, out_width, _ = dy.shape
    parts, tasks = len(dweight), count * out_height
    for part in numba.prange(parts):
        dweight[part] = 0
        dbias[part] = 0
        # sums of their own per row: the error grows less than in one long sum
        row_weight, row_bias = np.empty_like(dweight[part]), np.empty_like(dbias[part])
        for task in range(part * tasks // parts, (part + 1) * tasks // parts):
            image, oy = task // out_height, task % out_height
            row_weight[:] = 0
            row_bias[:] = 0
            for ox in range(out_width):
                gradient = dy[image, oy, ox]
                for c in range(channels):
                    row_bias[c] += gradient[c]
                for i in range(kh):
                    iy = oy * stride_h - pad_h + i * dilation_h
                    if iy < 0 or iy >= height:
                        continue
                    for j in range(kw):
                        ix = ox * stride_w - pad_w + j * dilation_w
                        if ix < 0 or ix >= width:
                            continue
                        source, taps = x[image, iy, ix], row_weight[i * kw + j]
                        for c in range(channels):
                            taps[c] += source[c] * gradient[c]
            dweight[part] += row_weight
            dbias[part] += row_bias


def _taps_first(weight: np.ndarray) -> np.ndarray:
    """Transpose channels x 1 x kh x kw to taps x channels."""
    return np.ascontiguousarray(weight.reshape(len(weight), -1).T)


def forward(x: np.ndarray, weight: np.ndarray, epilogue: np.ndarray, y: np.ndarray, geometry: Geometry,
            minimum: np.floating) -> None:
    """Write to `y`, as `pixels` returns it, at least `minimum`; `epilogue`: rows of bias, scale and shift."""
    _forward(x, _taps_first(weight), epilogue, *flat_pixels(y), geometry.flat, minimum)


def backward_data(dy: np.ndarray, weight: np.ndarray, dx: np.ndarray, geometry: Geometry) -> None:
    """Write the input's gradient to `dx`."""
    _backward_data(dy, _taps_first(weight), dx, geometry.flat)


def backward_weights(x: np.ndarray, dy: np.ndarray, dweight: np.ndarray, dbias: np.ndarray | None,
                     geometry: Geometry) -> None:
    """Add the parameters' gradients to `dweight`, and to `dbias` unless it is None."""
    channels = len(dweight)
    parts, _ = blocks_of(dy.size // channels)
    sums = np.empty((parts, dweight.size // channels, channels), dweight.dtype)
    bias_sums = scratch("convolution.dbias", (parts, channels), x.dtype)
    _backward_weights(x, dy, sums, bias_sums, geometry.flat)
    dweight += sums.sum(0).T.reshape(dweight.shape)
    if dbias is not None:
        dbias += bias_sums.sum(0)
