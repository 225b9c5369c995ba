"""Convolution with fewer multiplications: Winograd's F(4 x 4, 3 x 3), after Lavin & Gray, CVPR 2016.

The output is cut into tiles of 4 x 4 pixels. A tile's 6 x 6 pixels of input, the 3 x 3 weights and the tile of
output are each transformed to 36 values, and there one matrix product for each of the 36 replaces the
convolution: 36 multiplications where 144 were. A 5 x 5 kernel with stride 2 is a 3 x 3 kernel with stride 1 on
four times the channels: those of the four phases that the stride passes over. The sums are rounded otherwise
than those of convolution.py: float32 results lie within 2e-5 of the largest value of those in exact arithmetic.
And what is not finite in one pixel of the input makes a whole tile not finite.

With SPP_EXACT=1 in the environment (read at import) this is never used; nor ever for float64.
All images are C-contiguous N x H x W x C, float32.
"""
import os

import numba
import numpy as np

from spp.backend.host.blas import product
from spp.backend.host.scratch import scratch

EXACT = os.environ.get("SPP_EXACT", "") not in ("", "0")
POINTS = 36                 # values of a transformed tile
PART_BYTES = 16 << 20       # of transformed tiles that one thread works on, forward and for the input's gradient
BATCH_BYTES = 64 << 20      # of transformed tiles that all threads work on, for the gradient of the weights

CHANNELS = 32               # fewer channels, or outputs, gain nothing: the transforms cost as much as they save
TILES_FOR_WEIGHTS = 50      # transforming the weights takes as long as so many tiles

_1, _2, _4, _5, _8 = (np.float32(number) for number in (1, 2, 4, 5, 8))
_6TH, _12TH, _24TH = (_1 / np.float32(number) for number in (6, 12, 24))
_QUARTER = _1 / _4


# Each of the transforms of one axis takes rows x[at], x[at + apart], ... and writes out[to], out[to + step], ...
# Those of outputs and of weights have adjoints, for the gradient of the weights.
# Whole matrices and row numbers, not views: counting references to these would take most of the time.


@numba.njit(cache=True, nogil=True)
def _input_axis(x, at, apart, out, to, step):
    for i in range(x.shape[1]):
        a, b, c = x[at, i], x[at + apart, i], x[at + 2 * apart, i]
        d, e, f = x[at + 3 * apart, i], x[at + 4 * apart, i], x[at + 5 * apart, i]
        out[to, i] = _4 * a - _5 * c + e
        out[to + step, i] = d + e - _4 * (b + c)
        out[to + 2 * step, i] = e - d + _4 * (b - c)
        out[to + 3 * step, i] = e - c + _2 * (d - b)
        out[to + 4 * step, i] = e - c - _2 * (d - b)
        out[to + 5 * step, i] = _4 * b - _5 * d + f


@numba.njit(cache=True, nogil=True)
def _output_axis(x, at, apart, out, to, step):
    for i in range(x.shape[1]):
        a, b, c = x[at, i], x[at + apart, i], x[at + 2 * apart, i]
        d, e, f = x[at + 3 * apart, i], x[at + 4 * apart, i], x[at + 5 * apart, i]
        out[to, i] = a + (b + c) + (d + e)
        out[to + step, i] = (b - c) + _2 * (d - e)
        out[to + 2 * step, i] = (b + c) + _4 * (d + e)
        out[to + 3 * step, i] = (b - c) + _8 * (d - e) + f


@numba.njit(cache=True, nogil=True)
def _output_axis_adjoint(x, at, apart, out, to, step):
    for i in range(x.shape[1]):
        a, b, c, d = x[at, i], x[at + apart, i], x[at + 2 * apart, i], x[at + 3 * apart, i]
        out[to, i] = a
        out[to + step, i] = (a + c) + (b + d)
        out[to + 2 * step, i] = (a + c) - (b + d)
        out[to + 3 * step, i] = (a + _4 * c) + (_2 * b + _8 * d)
        out[to + 4 * step, i] = (a + _4 * c) - (_2 * b + _8 * d)
        out[to + 5 * step, i] = d


@numba.njit(cache=True, nogil=True)
def _weight_axis(x, at, apart, out, to, step):
    for i in range(x.shape[1]):
        a, b, c = x[at, i], x[at + apart, i], x[at + 2 * apart, i]
        out[to, i] = _QUARTER * a
        out[to + step, i] = -_6TH * ((a + c) + b)
        out[to + 2 * step, i] = -_6TH * ((a + c) - b)
        out[to + 3 * step, i] = _24TH * a + _6TH * c + _12TH * b
        out[to + 4 * step, i] = _24TH * a + _6TH * c - _12TH * b
        out[to + 5 * step, i] = c


@numba.njit(cache=True, nogil=True)
def _weight_axis_adjoint(x, at, apart, out, to, step):
    for i in range(x.shape[1]):
        a, b, c = x[at, i], x[at + apart, i], x[at + 2 * apart, i]
        d, e, f = x[at + 3 * apart, i], x[at + 4 * apart, i], x[at + 5 * apart, i]
        out[to, i] = _QUARTER * a - _6TH * (b + c) + _24TH * (d + e)
        out[to + step, i] = _6TH * (c - b) + _12TH * (d - e)
        out[to + 2 * step, i] = _6TH * ((d + e) - (b + c)) + f


@numba.njit(cache=True, nogil=True)
def _load(x, image, top, left, stride, size, tile):
    """size x size pixels, `stride` apart, to the rows of `tile`; those outside of the image are zeros."""
    _, height, width, channels = x.shape
    for i in range(size):
        for j in range(size):
            row, column, to = top + i * stride, left + j * stride, i * size + j
            if 0 <= row < height and 0 <= column < width:
                for c in range(channels):
                    tile[to, c] = x[image, row, column, c]
            else:
                for c in range(channels):
                    tile[to, c] = 0


@numba.njit(cache=True, nogil=True)
def _inputs(x, first, count, grid, stride, pad, v, slot):
    """Tile `first + t` of the input to v[:, slot + t], t below `count`; v: 36 x tiles x phases * channels."""
    channels, phases = x.shape[3], stride * stride
    rows, step = v.reshape(-1, channels), v.shape[1] * phases
    tile, half = np.empty((36, channels), np.float32), np.empty((36, channels), np.float32)
    for t in range(count):
        image, place = (first + t) // (grid[0] * grid[1]), (first + t) % (grid[0] * grid[1])
        for phase in range(phases):
            top = place // grid[1] * 4 * stride + phase // stride - pad[0]
            left = place % grid[1] * 4 * stride + phase % stride - pad[1]
            _load(x, image, top, left, stride, 6, tile)
            for i in range(6):
                _input_axis(tile, 6 * i, 1, half, 6 * i, 1)
            for j in range(6):
                _input_axis(half, j, 6, rows, j * step + (slot + t) * phases + phase, 6 * step)


@numba.njit(cache=True, nogil=True)
def _outputs(m, bias, first, count, grid, stride, pad, y):
    """m[:, t], 36 x tiles x phases * channels, and the bias to tile `first + t` of the output, t below `count`."""
    _, height, width, channels = y.shape
    phases = stride * stride
    rows, step = m.reshape(-1, channels), m.shape[1] * phases
    tile, half = np.empty((16, channels), np.float32), np.empty((24, channels), np.float32)
    for t in range(count):
        image, place = (first + t) // (grid[0] * grid[1]), (first + t) % (grid[0] * grid[1])
        for phase in range(phases):
            for i in range(6):
                _output_axis(rows, 6 * i * step + t * phases + phase, step, half, 4 * i, 1)
            for j in range(4):
                _output_axis(half, j, 4, tile, j, 4)
            top = place // grid[1] * 4 * stride + phase // stride - pad[0]
            left = place % grid[1] * 4 * stride + phase % stride - pad[1]
            for at in range(16):
                row, column = top + at // 4 * stride, left + at % 4 * stride
                if 0 <= row < height and 0 <= column < width:
                    for c in range(channels):
                        y[image, row, column, c] = tile[at, c] + bias[c]


@numba.njit(cache=True, nogil=True)
def _outputs_adjoint(dy, first, count, grid, m, slot):
    """Tile `first + t` of the output's gradient to m[:, slot + t], t below `count`; m: 36 x tiles x channels."""
    channels, step = dy.shape[3], m.shape[1]
    rows = m.reshape(-1, channels)
    tile, half = np.empty((16, channels), np.float32), np.empty((24, channels), np.float32)
    for t in range(count):
        image, place = (first + t) // (grid[0] * grid[1]), (first + t) % (grid[0] * grid[1])
        _load(dy, image, place // grid[1] * 4, place % grid[1] * 4, 1, 4, tile)
        for i in range(4):
            _output_axis_adjoint(tile, 4 * i, 1, half, 6 * i, 1)
        for j in range(6):
            _output_axis_adjoint(half, j, 6, rows, j * step + slot + t, 6 * step)


@numba.njit(cache=True, nogil=True, parallel=True)
def _weights(weight, u):
    """Rows x columns x 9 taps, of any strides, to u: 36 x rows x columns."""
    rows, columns, _ = weight.shape
    matrix = u.reshape(36 * rows, columns)
    for r in numba.prange(rows):
        taps, half = np.empty((9, columns), np.float32), np.empty((18, columns), np.float32)
        for c in range(columns):
            for tap in range(9):
                taps[tap, c] = weight[r, c, tap]
        for i in range(3):
            _weight_axis(taps, 3 * i, 1, half, 6 * i, 1)
        for j in range(6):
            _weight_axis(half, j, 6, matrix, j * rows + r, 6 * rows)


@numba.njit(cache=True, nogil=True, parallel=True)
def _weights_adjoint(du, dweight):
    """Add du, 36 x rows x columns, to dweight, rows x columns x 9 taps, of any strides."""
    _, rows, columns = du.shape
    matrix = du.reshape(36 * rows, columns)
    for r in numba.prange(rows):
        taps, half = np.empty((9, columns), np.float32), np.empty((18, columns), np.float32)
        for i in range(6):
            _weight_axis_adjoint(matrix, 6 * i * rows + r, rows, half, 3 * i, 1)
        for j in range(3):
            _weight_axis_adjoint(half, j, 3, taps, j, 3)
        for c in range(columns):
            for tap in range(9):
                dweight[r, c, tap] += taps[tap, c]


@numba.njit(cache=True, nogil=True, parallel=True)
def _convolve(x, u, bias, y, grid, x_stride, x_pad, y_stride, y_pad, v, m):
    """Each thread does its share of blocks of tiles; v and m, threads x 36 x block x channels, are its buffers."""
    threads, _, block, _ = v.shape
    tiles = y.shape[0] * grid[0] * grid[1]
    blocks = -(-tiles // block)
    for thread in numba.prange(threads):
        for b in range(thread * blocks // threads, (thread + 1) * blocks // threads):
            first, count = b * block, min(block, tiles - b * block)
            _inputs(x, first, count, grid, x_stride, x_pad, v[thread], 0)
            for k in range(POINTS):
                product(v[thread, k, :count], u[k], m[thread, k, :count])
            _outputs(m[thread], bias, first, count, grid, y_stride, y_pad, y)


@numba.njit(cache=True, nogil=True, parallel=True)
def _transform_both(x, dy, first, count, grid, stride, pad, v, m):
    """Tiles from `first` on of the input to v and of the output's gradient to m; a task does eight."""
    for task in numba.prange(-(-count // 8)):
        slot = task * 8
        _inputs(x, first + slot, min(8, count - slot), grid, stride, pad, v, slot)
        _outputs_adjoint(dy, first + slot, min(8, count - slot), grid, m, slot)


@numba.njit(cache=True, nogil=True, parallel=True)
def _multiply_add(v, m, count, du, buffer):
    """du[k] += v[k]^T m[k] over `count` tiles; `buffer` holds one product a thread."""
    threads = buffer.shape[0]
    for thread in numba.prange(threads):
        for k in range(thread * POINTS // threads, (thread + 1) * POINTS // threads):
            product(v[k, :count].T, m[k, :count], buffer[thread])
            for r in range(du.shape[1]):
                for c in range(du.shape[2]):
                    du[k, r, c] += buffer[thread, r, c]


def _taps(weight: np.ndarray) -> np.ndarray:
    """Outputs x channels x 3 x 3 as outputs x channels x 9; 5 x 5 as outputs x 4 phases * channels x 9."""
    outputs, channels, kernel, _ = weight.shape
    if kernel == 3:
        return np.ascontiguousarray(weight).reshape(outputs, channels, 9)
    whole = scratch("winograd.kernel", (outputs, 4, channels, 9), np.float32)
    whole[...] = 0
    for phase in range(4):
        part = weight[:, :, phase // 2::2, phase % 2::2]
        rows, columns = part.shape[2:]
        whole[:, phase].reshape(outputs, channels, 3, 3)[:, :, :rows, :columns] = part
    return whole.reshape(outputs, 4 * channels, 9)


def _convolution(x, taps, bias, y, grid, x_stride, x_pad, y_stride, y_pad) -> None:
    """`taps`: columns of y * phases x columns of x * phases x 9."""
    columns, rows, _ = taps.shape
    u = scratch("winograd.u", (POINTS, rows, columns), np.float32)
    _weights(taps.transpose(1, 0, 2), u)
    threads, tiles = numba.get_num_threads(), len(y) * grid[0] * grid[1]
    most = max(16, PART_BYTES // (4 * POINTS * (rows + columns)))
    rounds = -(-tiles // (threads * most))
    block = -(-tiles // (threads * rounds))
    v = scratch("winograd.v", (threads, POINTS, block, rows), np.float32)
    m = scratch("winograd.m", (threads, POINTS, block, columns), np.float32)
    _convolve(x, u, bias, y, grid, x_stride, x_pad, y_stride, y_pad, v, m)


def _grid(height: int, width: int) -> tuple[int, int]:
    return -(-height // 4), -(-width // 4)


def pays(x: np.ndarray, y: np.ndarray, weight: np.ndarray, geometry: tuple[int, ...], group: int) -> bool:
    """Whether this convolution can be done here, and that is faster: measured with ZF-5, VGG, ResNet, SqueezeNet.

    `x` and `y` are N x H x W x C, or their gradients; `geometry` is that of convolution.py.
    """
    kernel, stride, dilation = geometry[:2], geometry[2:4], geometry[6:]
    if EXACT or x.dtype != np.float32 or group > 1 or dilation != (1, 1):
        return False
    if (kernel, stride) not in (((3, 3), (1, 1)), ((5, 5), (2, 2))):
        return False
    count, height, width, outputs = y.shape
    phases = stride[0] * stride[1]
    if min(x.shape[3] * phases, outputs) < CHANNELS:
        return False
    tiles = count * _grid(height, width)[0] * _grid(height, width)[1]
    saving = 3 / 4          # products here take longer than the few large ones there
    return POINTS * phases * (tiles + TILES_FOR_WEIGHTS) < saving * count * height * width * weight[0, 0].size


def forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, y: np.ndarray, geometry: tuple[int, ...]) -> None:
    """Write to `y`; weight: outputs x channels x 3 x 3 with stride 1, or x 5 x 5 with stride 2."""
    _convolution(x, _taps(weight), bias, y, _grid(*y.shape[1:3]), geometry[2], geometry[4:6], 1, (0, 0))


def backward_data(dy: np.ndarray, weight: np.ndarray, dx: np.ndarray, geometry: tuple[int, ...]) -> None:
    """Write the input's gradient to `dx`: the convolution of `dy` with the weights turned by half a circle."""
    bias = scratch("winograd.bias", (dx.shape[3],), np.float32)
    bias[:] = 0
    turned = _taps(weight)[:, :, ::-1].transpose(1, 0, 2)
    _, height, width, _ = dx.shape
    stride, pad = geometry[2], geometry[4:6]
    if stride == 1:
        _convolution(dy, turned, bias, dx, _grid(height, width), 1, (2 - pad[0], 2 - pad[1]), 1, (0, 0))
    else:
        grid = _grid(-(-(height + pad[0]) // 2), -(-(width + pad[1]) // 2))
        _convolution(dy, turned, bias, dx, grid, 1, (2, 2), stride, pad)


def backward_weights(x: np.ndarray, dy: np.ndarray, dweight: np.ndarray, geometry: tuple[int, ...]) -> None:
    """Add the weights' gradient to `dweight`."""
    stride, pad = geometry[2], geometry[4:6]
    grid, threads = _grid(*dy.shape[1:3]), numba.get_num_threads()
    rows, columns = x.shape[3] * stride * stride, dy.shape[3]
    tiles = len(dy) * grid[0] * grid[1]
    most = max(64, BATCH_BYTES // (4 * POINTS * (rows + columns)))
    batch = -(-tiles // -(-tiles // most))
    v = scratch("winograd.v", (POINTS, batch, rows), np.float32)
    m = scratch("winograd.m", (POINTS, batch, columns), np.float32)
    du = scratch("winograd.u", (POINTS, rows, columns), np.float32)
    buffer = scratch("winograd.product", (threads, rows, columns), np.float32)
    du[...] = 0
    for first in range(0, tiles, batch):
        count = min(batch, tiles - first)
        _transform_both(x, dy, first, count, grid, stride, pad, v, m)
        _multiply_add(v, m, count, du, buffer)
    taps = scratch("winograd.kernel", (columns, rows, 9), np.float32)
    taps[...] = 0
    _weights_adjoint(du, taps.transpose(1, 0, 2))
    if stride == 1:
        dweight += taps.reshape(dweight.shape)
        return
    phases = taps.reshape(columns, 4, x.shape[3], 3, 3)
    for phase in range(4):
        part = dweight[:, :, phase // 2::2, phase % 2::2]
        part += phases[:, phase, :, :part.shape[2], :part.shape[3]]
