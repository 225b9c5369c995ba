"""The transforms of Winograd's F(4 x 4, 3 x 3): kernels for winograd.py, which describes where tiles are in images."""
import numba
import numpy as np

from spp.backend.types import Array, Numbers

_1, _2, _4, _5, _8 = (np.float32(number) for number in (1, 2, 4, 5, 8))
_6TH, _12TH, _24TH = (_1 / np.float32(number) for number in (6, 12, 24))
_QUARTER = _1 / _4


# Each of the transforms of one axis reads rows x[at], x[at + stride], ... and writes out[to], out[to + step], ...
# Those of outputs and of weights have adjoints, for the gradient of the weights.
# Whole matrices and row numbers, not views: counting references to these would take most of the time.


@numba.njit(cache=True, nogil=True)
def _input_axis(x: Array, at: int, stride: int, out: Array, to: int, step: int) -> None:
    for i in range(x.shape[1]):
        a, b, c = x[at, i], x[at + stride, i], x[at + 2 * stride, i]
        d, e, f = x[at + 3 * stride, i], x[at + 4 * stride, i], x[at + 5 * stride, i]
        out[to, i] = _4 * a - _5 * c + e
        out[to + step, i] = d + e - _4 * (b + c)
        out[to + 2 * step, i] = e - d + _4 * (b - c)
        out[to + 3 * step, i] = e - c + _2 * (d - b)
        out[to + 4 * step, i] = e - c - _2 * (d - b)
        out[to + 5 * step, i] = _4 * b - _5 * d + f


@numba.njit(cache=True, nogil=True)
def _output_axis(x: Array, at: int, stride: int, out: Array, to: int, step: int) -> None:
    for i in range(x.shape[1]):
        a, b, c = x[at, i], x[at + stride, i], x[at + 2 * stride, i]
        d, e, f = x[at + 3 * stride, i], x[at + 4 * stride, i], x[at + 5 * stride, i]
        out[to, i] = a + (b + c) + (d + e)
        out[to + step, i] = (b - c) + _2 * (d - e)
        out[to + 2 * step, i] = (b + c) + _4 * (d + e)
        out[to + 3 * step, i] = (b - c) + _8 * (d - e) + f


@numba.njit(cache=True, nogil=True)
def _output_axis_adjoint(x: Array, at: int, stride: int, out: Array, to: int, step: int) -> None:
    for i in range(x.shape[1]):
        a, b, c, d = x[at, i], x[at + stride, i], x[at + 2 * stride, i], x[at + 3 * stride, i]
        out[to, i] = a
        out[to + step, i] = (a + c) + (b + d)
        out[to + 2 * step, i] = (a + c) - (b + d)
        out[to + 3 * step, i] = (a + _4 * c) + (_2 * b + _8 * d)
        out[to + 4 * step, i] = (a + _4 * c) - (_2 * b + _8 * d)
        out[to + 5 * step, i] = d


@numba.njit(cache=True, nogil=True)
def _weight_axis(x: Array, at: int, stride: int, out: Array, to: int, step: int) -> None:
    for i in range(x.shape[1]):
        a, b, c = x[at, i], x[at + stride, i], x[at + 2 * stride, i]
        out[to, i] = _QUARTER * a
        out[to + step, i] = -_6TH * ((a + c) + b)
        out[to + 2 * step, i] = -_6TH * ((a + c) - b)
        out[to + 3 * step, i] = _24TH * a + _6TH * c + _12TH * b
        out[to + 4 * step, i] = _24TH * a + _6TH * c - _12TH * b
        out[to + 5 * step, i] = c


@numba.njit(cache=True, nogil=True)
def _weight_axis_adjoint(x: Array, at: int, stride: int, out: Array, to: int, step: int) -> None:
    for i in range(x.shape[1]):
        a, b, c = x[at, i], x[at + stride, i], x[at + 2 * stride, i]
        d, e, f = x[at + 3 * stride, i], x[at + 4 * stride, i], x[at + 5 * stride, i]
        out[to, i] = _QUARTER * a - _6TH * (b + c) + _24TH * (d + e)
        out[to + step, i] = _6TH * (c - b) + _12TH * (d - e)
        out[to + 2 * step, i] = _6TH * ((d + e) - (b + c)) + f


@numba.njit(cache=True, nogil=True)
def _load(x: Array, image: int, top: int, left: int, step: int, group: int, size: int, tile: Array) -> None:
    """Copy size x size pixels, every `step`-th, to the rows of `tile`; pixels outside of the image are zeros."""
    _, height, width, _, channels = x.shape
    for i in range(size):
        for j in range(size):
            row, column, to = top + i * step, left + j * step, i * size + j
            if 0 <= row < height and 0 <= column < width:
                for c in range(channels):
                    tile[to, c] = x[image, row, column, group, c]
            else:
                for c in range(channels):
                    tile[to, c] = 0


@numba.njit(cache=True, nogil=True)
def inputs(x: Array, lattice: Numbers, first: int, count: int, grid: Numbers, v: Array, slot: int) -> None:
    """Transform tile `first + t` of the input, t < `count`, to v[:, slot + t]; v: 36 x tiles x phases * channels."""
    step, pad_h, pad_w, side, shift, group = lattice
    phases = side * side
    channels, stride = x.shape[4], v.shape[1] * phases
    rows = v.reshape(-1, channels)
    tile, half = np.empty((36, channels), np.float32), np.empty((36, channels), np.float32)
    for t in range(count):
        image, place = (first + t) // (grid[0] * grid[1]), (first + t) % (grid[0] * grid[1])
        for phase in range(phases):
            top = place // grid[1] * 4 * step + phase // side * shift - pad_h
            left = place % grid[1] * 4 * step + phase % side * shift - pad_w
            _load(x, image, top, left, step, group, 6, tile)
            for i in range(6):
                _input_axis(tile, 6 * i, 1, half, 6 * i, 1)
            for j in range(6):
                _input_axis(half, j, 6, rows, j * stride + (slot + t) * phases + phase, 6 * stride)


@numba.njit(cache=True, nogil=True)
def outputs(m: Array, epilogue: Array, minimum: np.floating, lattice: Numbers, first: int, count: int, grid: Numbers,
            y: Array, shape: Numbers, pixel_stride: int) -> None:
    """Transform m[:, t], 36 x tiles x phases * channels, to tile `first + t` of the output, t < `count`.

    `epilogue`: rows of bias, scale and shift for the channels of all groups. Smaller values become `minimum`.
    `y` is flat, of images x height x width pixels (`shape`), `pixel_stride` elements from one to the next.
    """
    _, height, width = shape
    step, pad_h, pad_w, side, shift, group = lattice
    phases = side * side
    stride, channels = m.shape[1] * phases, m.shape[2] // phases
    rows = m.reshape(-1, channels)
    tile, half = np.empty((16, channels), np.float32), np.empty((24, channels), np.float32)
    # the innermost loop over slices, from 0 on, is twice as fast
    low, high = group * channels, (group + 1) * channels
    bias, scale, offset = epilogue[0, low:high], epilogue[1, low:high], epilogue[2, low:high]
    for t in range(count):
        image, place = (first + t) // (grid[0] * grid[1]), (first + t) % (grid[0] * grid[1])
        for phase in range(phases):
            for i in range(6):
                _output_axis(rows, 6 * i * stride + t * phases + phase, stride, half, 4 * i, 1)
            for j in range(4):
                _output_axis(half, j, 4, tile, j, 4)
            top = place // grid[1] * 4 * step + phase // side * shift - pad_h
            left = place % grid[1] * 4 * step + phase % side * shift - pad_w
            for at in range(16):
                row, column = top + at // 4 * step, left + at % 4 * step
                if 0 <= row < height and 0 <= column < width:
                    start = ((image * height + row) * width + column) * pixel_stride + low
                    target = y[start:start + channels]
                    for c in range(channels):
                        value = (tile[at, c] + bias[c]) * scale[c] + offset[c]
                        target[c] = minimum if value <= minimum else value


@numba.njit(cache=True, nogil=True)
def outputs_adjoint(dy: Array, group: int, first: int, count: int, grid: Numbers, m: Array, slot: int) -> None:
    """Transform tile `first + t` of the output's gradient, t < `count`, to m[:, slot + t]: 36 x tiles x channels."""
    channels, stride = dy.shape[4], m.shape[1]
    rows = m.reshape(-1, channels)
    tile, half = np.empty((16, channels), np.float32), np.empty((24, channels), np.float32)
    for t in range(count):
        image, place = (first + t) // (grid[0] * grid[1]), (first + t) % (grid[0] * grid[1])
        _load(dy, image, place // grid[1] * 4, place % grid[1] * 4, 1, group, 4, tile)
        for i in range(4):
            _output_axis_adjoint(tile, 4 * i, 1, half, 6 * i, 1)
        for j in range(6):
            _output_axis_adjoint(half, j, 6, rows, j * stride + slot + t, 6 * stride)


@numba.njit(cache=True, nogil=True, parallel=True)
def weights(weight: Array, u: Array) -> None:
    """Transform rows x columns x 9 taps, of any strides, to u: 36 x rows x columns."""
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
def weights_adjoint(du: Array, dweight: Array) -> None:
    """Add the adjoint of `weights` of du, 36 x rows x columns, to dweight, rows x columns x 9 taps, of any strides."""
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
