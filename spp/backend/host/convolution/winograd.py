"""Convolution with fewer multiplications: Winograd's F(4 x 4, 3 x 3), after Lavin & Gray, CVPR 2016.

The output is cut into tiles of 4 x 4 pixels. A tile's 6 x 6 pixels of input, the 3 x 3 weights and the tile of
output are each transformed to 36 values, and there one matrix product for each of the 36 replaces the
convolution: 36 multiplications where 144 were. A 5 x 5 kernel is a 3 x 3 kernel on four times the channels: with
stride 2 those of the four phases that the stride passes over, with stride 1 those of the image shifted by three
pixels or not along each axis. The sums are rounded otherwise than those of convolution.py: float32 results lie
within 2e-5 of the largest value of those in exact arithmetic. And what is not finite in one pixel of the input
makes a whole tile not finite.

Where oneDNN is installed it does the products (onednn_products.py), and transformed weights of forward convolutions
are kept, up to a size, as long as a hash says that the weights have not changed.

With SPP_EXACT=1 in the environment (read at import) this is never used; nor ever for float64.
All images are C-contiguous N x H x W x C, float32, in the kernels N x H x W x groups x channels of a group. A
`lattice` (step, pad_h, pad_w, side, shift, group) says where tiles lie in one: pixel (i, j) of tile (a, b) in
phase (p, q), both below `side`, is that of row step (4 a + i) + shift p - pad_h and of column
step (4 b + j) + shift q - pad_w, in the channels of one group.
"""
from typing import Callable, Iterator

import numba
import numpy as np

from spp.backend import EXACT
from spp.backend.host.onednn import products as onednn_products
from spp.backend.host.convolution import winograd_transforms as transforms
from spp.backend.host.blas import product
from spp.backend.host.onednn.library import library
from spp.backend.host.pixels import flat_pixels, pixels_apart
from spp.backend.host.scratch import scratch
from spp.backend.host.onednn.products import NO_CALLS, execute

Numbers = tuple[int, ...]

POINTS = 36                 # values of a transformed tile
PART_BYTES = 16 << 20       # of transformed tiles that one thread works on, forward and for the input's gradient
CACHED_BYTES = 768 << 10    # the same with oneDNN, whose small products are as fast as large ones
NO_WEIGHTS = np.zeros((POINTS, 0, 0), np.float32)
BATCH_BYTES = 64 << 20      # of transformed tiles that all threads work on, for the gradient of the weights
SUMS_BYTES, BLOCK_BYTES = 5 << 19, 1 << 20      # with oneDNN, if its sums take no more, so many tiles for each thread

# With BLAS: fewer channels, or outputs, gain nothing, and transforming the weights takes as long as so many tiles.
CHANNELS, TILES_FOR_WEIGHTS = 32, 50
# With oneDNN, against its own convolution: channels * outputs / (channels + outputs), and where that cannot write
# beside other channels; the tiles that transforming the weights takes, and that reading those takes that are kept.
MEAN_CHANNELS, BESIDE_CHANNELS, TILES_TO_ORDER, TILES_TO_READ = 20, 12, 300, 18
SUMMED_CHANNELS, TILES_TO_SUM = 10, 16      # for the gradient of the weights, against a product of rows by BLAS

PHASES = {(3, 1): (1, 0), (5, 2): (2, 1), (5, 1): (2, 3)}      # kernel and stride: side and shift of the lattice


@numba.njit(cache=True, nogil=True, parallel=True)
def _convolve(x, x_lattice, u, last_pass, lowest, y, shape, apart_y, y_lattice, grid, v, m, calls):
    """Each thread does its share of blocks of tiles; v and m, threads x 36 x block x channels, are its buffers.

    `calls`: a row a thread, how oneDNN does all products of a block (onednn_products.py); none: BLAS, with `u`.
    """
    threads, _, block, _ = v.shape
    tiles = shape[0] * grid[0] * grid[1]
    blocks = -(-tiles // block)
    for thread in numba.prange(threads):
        for b in range(thread * blocks // threads, (thread + 1) * blocks // threads):
            first, count = b * block, min(block, tiles - b * block)
            transforms.inputs(x, x_lattice, first, count, grid, v[thread], 0)
            if len(calls):
                execute(calls[thread])
            else:
                for k in range(POINTS):
                    product(v[thread, k, :count], u[k], m[thread, k, :count])
            transforms.outputs(m[thread], last_pass, lowest, y_lattice, first, count, grid, y, shape, apart_y)


@numba.njit(cache=True, nogil=True, parallel=True)
def _transform_both(x, lattice, dy, group, first, count, grid, v, m):
    """Tiles from `first` on of the input to v and of the output's gradient to m; a task does eight."""
    for task in numba.prange(-(-count // 8)):
        slot = task * 8
        transforms.inputs(x, lattice, first + slot, min(8, count - slot), grid, v, slot)
        transforms.outputs_adjoint(dy, group, first + slot, min(8, count - slot), grid, m, slot)


@numba.njit(cache=True, nogil=True, parallel=True)
def _multiply_in_blocks(x, lattice, dy, group, tiles, grid, v, m, calls):
    """Each thread adds its share of all tiles, block by block in v and m, to the sums of its call."""
    threads, _, block, _ = v.shape
    blocks = -(-tiles // block)
    for thread in numba.prange(threads):
        for b in range(thread * blocks // threads, (thread + 1) * blocks // threads):
            first, count = b * block, min(block, tiles - b * block)
            transforms.inputs(x, lattice, first, count, grid, v[thread], 0)
            transforms.outputs_adjoint(dy, group, first, count, grid, m[thread], 0)
            v[thread, :, count:] = 0
            m[thread, :, count:] = 0
            execute(calls[thread])


@numba.njit(cache=True, nogil=True, parallel=True)
def _execute_all(calls, threads):
    for thread in numba.prange(threads):
        for k in range(thread * POINTS // threads, (thread + 1) * POINTS // threads):
            execute(calls[k])


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


@numba.njit(cache=True, nogil=True, parallel=True)
def _add_taps(taps, stride, side, shift, dweight):
    """Outputs x phases x channels x 3 x 3, the parts of a kernel that meet each phase, added to the whole."""
    kernel = dweight.shape[2]
    for o in numba.prange(len(taps)):
        for phase in range(side * side):
            for c in range(taps.shape[2]):
                for i in range(3):
                    for j in range(3):
                        row, column = phase // side * shift + stride * i, phase % side * shift + stride * j
                        if row < kernel and column < kernel:
                            dweight[o, c, row, column] += taps[o, phase, c, i, j]


def _convolution(x: np.ndarray, x_lattice: Numbers, weight: np.ndarray, taps: Callable[[np.ndarray], np.ndarray],
                 last_pass: np.ndarray, y: np.ndarray, y_lattice: Numbers, grid: tuple[int, int],
                 lowest: np.float32 = np.float32(-np.inf), keep: bool = False) -> None:
    """`x`: N x H x W x groups x C. `taps`: a group's weights as channels of x * phases x channels of y * phases x 9.

    `keep`: the transformed weights may be kept as long as `weight`, all groups', does not change.
    """
    groups, group = x.shape[3], x_lattice[5]
    rows, columns = x.shape[4] * x_lattice[3] ** 2, y.shape[3] // groups * y_lattice[3] ** 2
    threads, tiles = numba.get_num_threads(), len(y) * grid[0] * grid[1]
    most = max(16, (PART_BYTES if library() is None else CACHED_BYTES) // (4 * POINTS * (rows + columns)))
    rounds = -(-tiles // (threads * most))
    block = -(-tiles // (threads * rounds))
    v = scratch("winograd.v", (threads, POINTS, block, rows), np.float32)
    m = scratch("winograd.m", (threads, POINTS, block, columns), np.float32)
    part = weight[_outputs_of(weight, groups)[group]]

    def transform() -> np.ndarray:
        u = scratch("winograd.u", (POINTS, rows, columns), np.float32)
        transforms.weights(taps(part), u)
        return u

    products = onednn_products.of(threads, POINTS, block, rows, columns)
    if products is None:
        u, calls = transform(), NO_CALLS
    else:
        kept = (weight, ("winograd", group)) if keep else None
        u, calls = NO_WEIGHTS, products.calls(v, products.weights(part, transform, kept), m)
    _convolve(x, x_lattice, u, last_pass, lowest, *flat_pixels(y), y_lattice, grid, v, m, calls)
    onednn_products.check(calls)


def _grid(height: int, width: int) -> tuple[int, int]:
    return -(-height // 4), -(-width // 4)


def pays(x: np.ndarray, y: np.ndarray, weight: np.ndarray, geometry: Numbers, group: int,
         kind: str) -> bool:
    """Whether this convolution can be done here, and that is faster: measured with the nets of docs/speed.md.

    `x` and `y` are N x H x W x C, or their gradients; `geometry` is that of convolution.py. `kind`: "forward", of
    which the transformed weights may be kept, "backward_data", "backward_weights".
    """
    kernel, stride, dilation = geometry[:2], geometry[2:4], geometry[6:]
    if EXACT or x.dtype != np.float32 or dilation != (1, 1) or kernel[0] != kernel[1] or stride[0] != stride[1]:
        return False
    if (kernel[0], stride[0]) not in PHASES:
        return False
    count, height, width, outputs = y.shape
    phases = PHASES[kernel[0], stride[0]][0] ** 2
    rows, columns = weight.shape[1] * phases, outputs // group
    by_weights = TILES_FOR_WEIGHTS
    if library() is None:
        few = min(rows, columns) < CHANNELS
    else:
        least, by_weights = MEAN_CHANNELS, TILES_TO_ORDER
        if kind == "backward_weights":
            least, by_weights = SUMMED_CHANNELS, TILES_TO_SUM
        elif kind == "forward":
            beside = pixels_apart(y) > outputs
            least = BESIDE_CHANNELS if beside else MEAN_CHANNELS
            if onednn_products.keeps(4 * POINTS * rows * columns):
                by_weights = 0 if beside else TILES_TO_READ
        few = rows * columns < least * (rows + columns)
    if few:
        return False
    tiles = count * _grid(height, width)[0] * _grid(height, width)[1]
    saving = 3 / 4          # products here take longer than the few large ones there
    return POINTS * phases * (tiles + by_weights) < saving * count * height * width * weight[0, 0].size


def _by_group(image: np.ndarray, group: int) -> np.ndarray:
    """N x H x W x C as N x H x W x groups x channels of a group."""
    return image.reshape(*image.shape[:3], group, image.shape[3] // group)


def _outputs_of(weight: np.ndarray, group: int) -> list[slice]:
    """The outputs of each group."""
    outputs = len(weight) // group
    return [slice(g * outputs, (g + 1) * outputs) for g in range(group)]


def forward(x: np.ndarray, weight: np.ndarray, last_pass: np.ndarray, y: np.ndarray, geometry: Numbers, group: int,
            lowest: np.float32) -> None:
    """Write to `y`, where what would be below `lowest` becomes `lowest`; `last_pass`: bias, scale and shift by O."""
    x = _by_group(x, group)
    for g in range(group):
        _convolution(x, _lattice(geometry, g), weight, lambda part: _taps(part, geometry[2]).transpose(1, 0, 2),
                     last_pass, y, (1, 0, 0, 1, 0, g), _grid(*y.shape[1:3]), lowest, keep=True)


def backward_data(dy: np.ndarray, weight: np.ndarray, dx: np.ndarray, geometry: Numbers, group: int) -> None:
    """Write the input's gradient to `dx`: the convolution of `dy` with the weights turned by half a circle."""
    last_pass = scratch("winograd.last_pass", (3, dx.shape[3]), np.float32)
    last_pass[:] = [[0], [1], [-0.0]]           # changes nothing
    _, height, width, _ = dx.shape
    kernel, _, stride, _, pad_h, pad_w, _, _ = geometry
    dy = _by_group(dy, group)

    def taps(part: np.ndarray) -> np.ndarray:
        if kernel == 5 and stride == 1:
            return _taps(part[:, :, ::-1, ::-1].transpose(1, 0, 2, 3), 1).transpose(1, 0, 2)
        return _taps(part, stride)[:, :, ::-1]

    for g in range(group):
        if stride == 1:
            lattice = 1, kernel - 1 - pad_h, kernel - 1 - pad_w, *PHASES[kernel, 1], g
            _convolution(dy, lattice, weight, taps, last_pass, dx, (1, 0, 0, 1, 0, g), _grid(height, width))
        else:
            grid = _grid(-(-(height + pad_h) // 2), -(-(width + pad_w) // 2))
            _convolution(dy, (1, 2, 2, 1, 0, g), weight, taps, last_pass, dx, _lattice(geometry, g), grid)


def backward_weights(x: np.ndarray, dy: np.ndarray, dweight: np.ndarray, geometry: Numbers, group: int) -> None:
    """Add the weights' gradient to `dweight`."""
    stride, channels = geometry[2], dweight.shape[1]
    phases = PHASES[geometry[0], stride][0] ** 2
    rows, columns = channels * phases, len(dweight) // group
    taps = scratch("winograd.kernel", (columns, phases, channels, 3, 3), np.float32)
    x, dy = _by_group(x, group), _by_group(dy, group)
    for g, outputs in enumerate(_outputs_of(dweight, group)):
        taps[...] = 0
        du = _transformed_gradient(x, _lattice(geometry, g), dy, rows, columns)
        transforms.weights_adjoint(du, taps.reshape(columns, rows, 9).transpose(1, 0, 2))
        _add_taps(taps, stride, *PHASES[geometry[0], stride], dweight[outputs])


def _transformed_gradient(x: np.ndarray, lattice: Numbers, dy: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The sum over all tiles of the products of the transformed input and output's gradient, 36 x rows x columns."""
    group, grid, threads = lattice[5], _grid(*dy.shape[1:3]), numba.get_num_threads()
    tiles, a_tile = len(dy) * grid[0] * grid[1], 4 * POINTS * (rows + columns)
    small = rows * columns <= SUMS_BYTES // (4 * POINTS)
    most = max(16, BLOCK_BYTES // a_tile) if small else max(64, BATCH_BYTES // a_tile)
    parts = threads if small else 1
    batch = -(-tiles // (parts * -(-tiles // (parts * most))))
    sums = onednn_products.sums_of(threads, POINTS, batch, rows, columns) if small else None
    if sums:
        v = scratch("winograd.v", (threads, POINTS, batch, rows), np.float32)
        m = scratch("winograd.m", (threads, POINTS, batch, columns), np.float32)
        each = scratch("winograd.u", (threads, POINTS, rows, columns), np.float32)
        each[...] = 0
        calls = sums.calls(v, m, each)
        _multiply_in_blocks(x, lattice, dy, group, tiles, grid, v, m, calls)
        onednn_products.check(calls)
        for other in each[1:]:
            each[0] += other
        return each[0]
    v = scratch("winograd.v", (POINTS, batch, rows), np.float32)
    m = scratch("winograd.m", (POINTS, batch, columns), np.float32)
    du = scratch("winograd.u", (POINTS, rows, columns), np.float32)
    du[...] = 0
    sums = onednn_products.sums_of(POINTS, 1, batch, rows, columns)
    calls = sums.calls(v[:, np.newaxis], m[:, np.newaxis], du[:, np.newaxis]) if sums else NO_CALLS
    buffer = scratch("winograd.product", (threads, rows, columns), np.float32)
    for first in range(0, tiles, batch):
        count = min(batch, tiles - first)
        _transform_both(x, lattice, dy, group, first, count, grid, v, m)
        if sums:
            v[:, count:], m[:, count:] = 0, 0
            _execute_all(calls, threads)
        else:
            _multiply_add(v, m, count, du, buffer)
    onednn_products.check(calls)
    return du
