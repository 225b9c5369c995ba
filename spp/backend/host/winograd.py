"""Convolution with fewer multiplications: Winograd's F(4 x 4, 3 x 3), after Lavin & Gray, CVPR 2016.

The output is cut into tiles of 4 x 4 pixels. A tile's 6 x 6 pixels of input, the 3 x 3 weights and the tile of
output are each transformed to 36 values, and there one matrix product for each of the 36 replaces the
convolution: 36 multiplications where 144 were. A 5 x 5 kernel is a 3 x 3 kernel on four times the channels: with
stride 2 those of the four phases that the stride passes over, with stride 1 those of the image shifted by three
pixels or not along each axis. The sums are rounded otherwise than those of convolution.py: float32 results lie
within 2e-5 of the largest value of those in exact arithmetic. And what is not finite in one pixel of the input
makes a whole tile not finite.

With SPP_EXACT=1 in the environment (read at import) this is never used; nor ever for float64.
All images are C-contiguous N x H x W x C, float32, in the kernels N x H x W x groups x channels of a group. A
`lattice` (step, pad_h, pad_w, side, shift, group) says where tiles lie in one: pixel (i, j) of tile (a, b) in
phase (p, q), both below `side`, is that of row step (4 a + i) + shift p - pad_h and of column
step (4 b + j) + shift q - pad_w, in the channels of one group.
"""
import os
from typing import Iterator

import numba
import numpy as np

from spp.backend.host.blas import product
from spp.backend.host.scratch import scratch

Numbers = tuple[int, ...]

EXACT = os.environ.get("SPP_EXACT", "") not in ("", "0")
POINTS = 36                 # values of a transformed tile
PART_BYTES = 16 << 20       # of transformed tiles that one thread works on, forward and for the input's gradient
BATCH_BYTES = 64 << 20      # of transformed tiles that all threads work on, for the gradient of the weights

CHANNELS = 32               # fewer channels, or outputs, gain nothing: the transforms cost as much as they save
TILES_FOR_WEIGHTS = 50      # transforming the weights takes as long as so many tiles

_1, _2, _4, _5, _8 = (np.float32(number) for number in (1, 2, 4, 5, 8))
_6TH, _12TH, _24TH = (_1 / np.float32(number) for number in (6, 12, 24))
_QUARTER = _1 / _4

PHASES = {(3, 1): (1, 0), (5, 2): (2, 1), (5, 1): (2, 3)}      # kernel and stride: side and shift of the lattice


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
def _load(x, image, top, left, step, group, size, tile):
    """size x size pixels, `step` apart, to the rows of `tile`; those outside of the image are zeros."""
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
def _inputs(x, lattice, first, count, grid, v, slot):
    """Tile `first + t` of the input to v[:, slot + t], t below `count`; v: 36 x tiles x phases * channels."""
    step, pad_h, pad_w, side, shift, group = lattice
    phases = side * side
    channels, apart = x.shape[4], v.shape[1] * phases
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
                _input_axis(half, j, 6, rows, j * apart + (slot + t) * phases + phase, 6 * apart)


@numba.njit(cache=True, nogil=True)
def _outputs(m, bias, lowest, lattice, first, count, grid, y):
    """m[:, t], 36 x tiles x phases * channels, and the bias to tile `first + t` of the output, t below `count`.

    What is below `lowest` becomes `lowest`.
    """
    _, height, width, _, channels = y.shape
    step, pad_h, pad_w, side, shift, group = lattice
    phases = side * side
    apart = m.shape[1] * phases
    rows = m.reshape(-1, channels)
    tile, half = np.empty((16, channels), np.float32), np.empty((24, channels), np.float32)
    for t in range(count):
        image, place = (first + t) // (grid[0] * grid[1]), (first + t) % (grid[0] * grid[1])
        for phase in range(phases):
            for i in range(6):
                _output_axis(rows, 6 * i * apart + t * phases + phase, apart, half, 4 * i, 1)
            for j in range(4):
                _output_axis(half, j, 4, tile, j, 4)
            top = place // grid[1] * 4 * step + phase // side * shift - pad_h
            left = place % grid[1] * 4 * step + phase % side * shift - pad_w
            for at in range(16):
                row, column = top + at // 4 * step, left + at % 4 * step
                if 0 <= row < height and 0 <= column < width:
                    for c in range(channels):
                        value = tile[at, c] + bias[c]
                        y[image, row, column, group, c] = lowest if value <= lowest else value


@numba.njit(cache=True, nogil=True)
def _outputs_adjoint(dy, group, first, count, grid, m, slot):
    """Tile `first + t` of the output's gradient to m[:, slot + t], t below `count`; m: 36 x tiles x channels."""
    channels, apart = dy.shape[4], m.shape[1]
    rows = m.reshape(-1, channels)
    tile, half = np.empty((16, channels), np.float32), np.empty((24, channels), np.float32)
    for t in range(count):
        image, place = (first + t) // (grid[0] * grid[1]), (first + t) % (grid[0] * grid[1])
        _load(dy, image, place // grid[1] * 4, place % grid[1] * 4, 1, group, 4, tile)
        for i in range(4):
            _output_axis_adjoint(tile, 4 * i, 1, half, 6 * i, 1)
        for j in range(6):
            _output_axis_adjoint(half, j, 6, rows, j * apart + slot + t, 6 * apart)


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
def _convolve(x, x_lattice, u, bias, lowest, y, y_lattice, grid, v, m):
    """Each thread does its share of blocks of tiles; v and m, threads x 36 x block x channels, are its buffers."""
    threads, _, block, _ = v.shape
    tiles = y.shape[0] * grid[0] * grid[1]
    blocks = -(-tiles // block)
    for thread in numba.prange(threads):
        for b in range(thread * blocks // threads, (thread + 1) * blocks // threads):
            first, count = b * block, min(block, tiles - b * block)
            _inputs(x, x_lattice, first, count, grid, v[thread], 0)
            for k in range(POINTS):
                product(v[thread, k, :count], u[k], m[thread, k, :count])
            _outputs(m[thread], bias, lowest, y_lattice, first, count, grid, y)


@numba.njit(cache=True, nogil=True, parallel=True)
def _transform_both(x, lattice, dy, group, first, count, grid, v, m):
    """Tiles from `first` on of the input to v and of the output's gradient to m; a task does eight."""
    for task in numba.prange(-(-count // 8)):
        slot = task * 8
        _inputs(x, lattice, first + slot, min(8, count - slot), grid, v, slot)
        _outputs_adjoint(dy, group, first + slot, min(8, count - slot), grid, m, slot)


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


def _lattice(geometry: Numbers, group: int) -> Numbers:
    """That of the convolution's input."""
    return geometry[2], *geometry[4:6], *PHASES[geometry[0], geometry[2]], group


def _phases(weight: np.ndarray, stride: int) -> Iterator[tuple[np.ndarray, int]]:
    """The parts of a kernel that meet each phase of the input, up to 3 x 3 taps."""
    side, shift = PHASES[weight.shape[2], stride]
    for phase in range(side * side):
        rows, columns = (slice(p * shift, p * shift + 3 * stride, stride) for p in divmod(phase, side))
        yield weight[:, :, rows, columns], phase


def _taps(weight: np.ndarray, stride: int) -> np.ndarray:
    """Outputs x channels x kernel as outputs x phases * channels x 9."""
    outputs, channels, kernel, _ = weight.shape
    if kernel == 3:
        return np.ascontiguousarray(weight).reshape(outputs, channels, 9)
    whole = scratch("winograd.kernel", (outputs, 4, channels, 3, 3), np.float32)
    whole[...] = 0
    for part, phase in _phases(weight, stride):
        whole[:, phase, :, :part.shape[2], :part.shape[3]] = part
    return whole.reshape(outputs, 4 * channels, 9)


def _convolution(x: np.ndarray, x_lattice: Numbers, taps: np.ndarray, bias: np.ndarray, y: np.ndarray,
                 y_lattice: Numbers, grid: tuple[int, int], lowest: np.float32 = np.float32(-np.inf)) -> None:
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
    _convolve(x, x_lattice, u, bias, lowest, y, y_lattice, grid, v, m)


def _grid(height: int, width: int) -> tuple[int, int]:
    return -(-height // 4), -(-width // 4)


def pays(x: np.ndarray, y: np.ndarray, weight: np.ndarray, geometry: Numbers, group: int) -> bool:
    """Whether this convolution can be done here, and that is faster: measured with the nets of docs/speed.md.

    `x` and `y` are N x H x W x C, or their gradients; `geometry` is that of convolution.py.
    """
    kernel, stride, dilation = geometry[:2], geometry[2:4], geometry[6:]
    if EXACT or x.dtype != np.float32 or dilation != (1, 1) or kernel[0] != kernel[1] or stride[0] != stride[1]:
        return False
    if (kernel[0], stride[0]) not in PHASES:
        return False
    count, height, width, outputs = y.shape
    phases = PHASES[kernel[0], stride[0]][0] ** 2
    if min(weight.shape[1] * phases, outputs // group) < CHANNELS:
        return False
    tiles = count * _grid(height, width)[0] * _grid(height, width)[1]
    saving = 3 / 4          # products here take longer than the few large ones there
    return POINTS * phases * (tiles + TILES_FOR_WEIGHTS) < saving * count * height * width * weight[0, 0].size


def _by_group(image: np.ndarray, group: int) -> np.ndarray:
    """N x H x W x C as N x H x W x groups x channels of a group."""
    return image.reshape(*image.shape[:3], group, image.shape[3] // group)


def _outputs_of(weight: np.ndarray, group: int) -> list[slice]:
    """The outputs of each group."""
    outputs = len(weight) // group
    return [slice(g * outputs, (g + 1) * outputs) for g in range(group)]


def forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, y: np.ndarray, geometry: Numbers, group: int,
            lowest: np.float32) -> None:
    """Write to `y`, where what would be below `lowest` becomes `lowest`."""
    x, y = _by_group(x, group), _by_group(y, group)
    for g, outputs in enumerate(_outputs_of(weight, group)):
        _convolution(x, _lattice(geometry, g), _taps(weight[outputs], geometry[2]), bias[outputs], y,
                     (1, 0, 0, 1, 0, g), _grid(*y.shape[1:3]), lowest)


def backward_data(dy: np.ndarray, weight: np.ndarray, dx: np.ndarray, geometry: Numbers, group: int) -> None:
    """Write the input's gradient to `dx`: the convolution of `dy` with the weights turned by half a circle."""
    bias = scratch("winograd.bias", (weight.shape[1],), np.float32)
    bias[:] = 0
    _, height, width, _ = dx.shape
    kernel, _, stride, _, pad_h, pad_w, _, _ = geometry
    dy, dx = _by_group(dy, group), _by_group(dx, group)
    for g, outputs in enumerate(_outputs_of(weight, group)):
        part = weight[outputs]
        if kernel == 5 and stride == 1:
            taps = _taps(part[:, :, ::-1, ::-1].transpose(1, 0, 2, 3), 1)
        else:
            taps = _taps(part, stride)[:, :, ::-1].transpose(1, 0, 2)
        if stride == 1:
            lattice = 1, kernel - 1 - pad_h, kernel - 1 - pad_w, *PHASES[kernel, 1], g
            _convolution(dy, lattice, taps, bias, dx, (1, 0, 0, 1, 0, g), _grid(height, width))
        else:
            grid = _grid(-(-(height + pad_h) // 2), -(-(width + pad_w) // 2))
            _convolution(dy, (1, 2, 2, 1, 0, g), taps, bias, dx, _lattice(geometry, g), grid)


def backward_weights(x: np.ndarray, dy: np.ndarray, dweight: np.ndarray, geometry: Numbers, group: int) -> None:
    """Add the weights' gradient to `dweight`."""
    stride, channels = geometry[2], dweight.shape[1]
    phases = PHASES[geometry[0], stride][0] ** 2
    grid, threads = _grid(*dy.shape[1:3]), numba.get_num_threads()
    rows, columns = channels * phases, len(dweight) // group
    tiles = len(dy) * grid[0] * grid[1]
    most = max(64, BATCH_BYTES // (4 * POINTS * (rows + columns)))
    batch = -(-tiles // -(-tiles // most))
    v = scratch("winograd.v", (POINTS, batch, rows), np.float32)
    m = scratch("winograd.m", (POINTS, batch, columns), np.float32)
    du = scratch("winograd.u", (POINTS, rows, columns), np.float32)
    buffer = scratch("winograd.product", (threads, rows, columns), np.float32)
    taps = scratch("winograd.kernel", (columns, phases, channels, 3, 3), np.float32)
    x, dy = _by_group(x, group), _by_group(dy, group)
    for g, outputs in enumerate(_outputs_of(dweight, group)):
        du[...] = 0
        for first in range(0, tiles, batch):
            count = min(batch, tiles - first)
            _transform_both(x, _lattice(geometry, g), dy, g, first, count, grid, v, m)
            _multiply_add(v, m, count, du, buffer)
        taps[...] = 0
        _weights_adjoint(du, taps.reshape(columns, rows, 9).transpose(1, 0, 2))
        for part, phase in _phases(dweight[outputs], stride):
            part += taps[:, phase, :, :part.shape[2], :part.shape[3]]
