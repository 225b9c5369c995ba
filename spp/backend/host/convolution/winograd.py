"""Convolution with fewer multiplications: Winograd's F(4 x 4, 3 x 3), after Lavin & Gray, CVPR 2016.

The output is cut into tiles of 4 x 4 pixels. A tile's 6 x 6 pixels of input, the 3 x 3 weights and the tile of
output are each transformed to 36 values, and there one matrix product for each of the 36 replaces the
convolution: 36 multiplications instead of 144. A 5 x 5 kernel is a 3 x 3 kernel on four times the channels: with
stride 2 on the four phases of the stride, with stride 1 on the image shifted by three pixels or not along each axis.
The sums are rounded otherwise than those of im2row.py: float32 results are within 2e-5 of the largest value of
exact arithmetic. And a value of the input that is not finite makes a whole tile not finite.

If oneDNN is installed, it computes the products, and transformed weights of forward convolutions are kept, up to a
size, as long as a hash shows that the weights have not changed.

All images are float32, C-contiguous N x H x W x C unless said otherwise, and N x H x W x groups x channels of a group
in the kernels. The kernels take a Lattice as a plain tuple, which Numba unpacks a microsecond faster.
"""
from typing import Any, Callable, NamedTuple

import numba
import numpy as np

from spp.backend.host import onednn
from spp.backend.host.blas import product
from spp.backend.host.channels import channel_sums
from spp.backend.host.convolution import winograd_transforms as transforms
from spp.backend.host.onednn import NO_CALLS, execute
from spp.backend.host.layout import flat_pixels
from spp.backend.host.scratch import scratch
from spp.backend.types import Array, Geometry, Numbers

POINTS = 36                 # values of a transformed tile
PART_BYTES = 16 << 20       # of transformed tiles that one thread works on, forward and for the input's gradient
CACHED_BYTES = 768 << 10    # the same with oneDNN, whose small products are as fast as large ones
NO_WEIGHTS = np.zeros((POINTS, 0, 0), np.float32)
BATCH_BYTES = 64 << 20      # of transformed tiles that all threads work on, for the gradient of the weights
SUMS_BYTES, BLOCK_BYTES = 5 << 19, 1 << 20      # with oneDNN, if its sums take no more, so many tiles per thread

PHASES = {(3, 1): (1, 0), (5, 2): (2, 1), (5, 1): (2, 3)}      # kernel and stride: side and shift of the lattice


class Lattice(NamedTuple):
    """Where the tiles of one group are in an image.

    Pixel (i, j) of tile (a, b) in phase (p, q), p and q below `side`, is in row step (4 a + i) + shift p - pad_h and
    column step (4 b + j) + shift q - pad_w.
    """

    step: int = 1
    pad_h: int = 0
    pad_w: int = 0
    side: int = 1
    shift: int = 0
    group: int = 0


@numba.njit(cache=True, nogil=True, parallel=True)
def _convolve(x: Array, x_lattice: Numbers, u: Array, epilogue: Array, minimum: np.floating, y: Array, shape: Numbers,
              pixel_stride: int, y_lattice: Numbers, grid: Numbers, v: Array, m: Array, calls: Array) -> None:
    """Each thread does its share of blocks of tiles; v and m, threads x 36 x block x channels, are its buffers.

    `calls`: a row per thread, with which oneDNN computes all products of a block; without rows BLAS does, with `u`.
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
            transforms.outputs(m[thread], epilogue, minimum, y_lattice, first, count, grid, y, shape, pixel_stride)


@numba.njit(cache=True, nogil=True, parallel=True)
def _transform_both(x: Array, lattice: Numbers, dy: Array, group: int, first: int, count: int, grid: Numbers, v: Array,
                    m: Array) -> None:
    """Tiles from `first` on of the input to v and of the output's gradient to m; a task does eight."""
    for task in numba.prange(-(-count // 8)):
        slot = task * 8
        transforms.inputs(x, lattice, first + slot, min(8, count - slot), grid, v, slot)
        transforms.outputs_adjoint(dy, group, first + slot, min(8, count - slot), grid, m, slot)


@numba.njit(cache=True, nogil=True, parallel=True)
def _multiply_in_blocks(x: Array, lattice: Numbers, dy: Array, group: int, tiles: int, grid: Numbers, v: Array,
                        m: Array, calls: Array) -> None:
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
def _execute_all(calls: Array, threads: int) -> None:
    for thread in numba.prange(threads):
        for k in range(thread * POINTS // threads, (thread + 1) * POINTS // threads):
            execute(calls[k])


@numba.njit(cache=True, nogil=True, parallel=True)
def _multiply_add(v: Array, m: Array, count: int, du: Array, buffer: Array) -> None:
    """du[k] += v[k]^T m[k] over `count` tiles; `buffer` holds one product per thread."""
    threads = buffer.shape[0]
    for thread in numba.prange(threads):
        for k in range(thread * POINTS // threads, (thread + 1) * POINTS // threads):
            product(v[k, :count].T, m[k, :count], buffer[thread])
            for r in range(du.shape[1]):
                for c in range(du.shape[2]):
                    du[k, r, c] += buffer[thread, r, c]


def _input_lattice(geometry: Geometry, group: int) -> Lattice:
    """The lattice of the convolution's input."""
    side, shift = PHASES[geometry.kernel[0], geometry.stride[0]]
    return Lattice(geometry.stride[0], geometry.pad[0], geometry.pad[1], side, shift, group)


def _taps(weight: np.ndarray, stride: int) -> np.ndarray:
    """Outputs x channels x kernel as outputs x phases * channels x 9."""
    outputs, channels, kernel, _ = weight.shape
    if kernel == 3:
        return np.ascontiguousarray(weight).reshape(outputs, channels, 9)
    whole = scratch("winograd.kernel", (outputs, 4, channels, 3, 3), np.float32)
    whole[...] = 0
    side, shift = PHASES[kernel, stride]
    for phase in range(side * side):        # the part of the kernel that meets this phase: up to 3 x 3 taps
        rows, columns = (slice(p * shift, p * shift + 3 * stride, stride) for p in divmod(phase, side))
        part = weight[:, :, rows, columns]
        whole[:, phase, :, :part.shape[2], :part.shape[3]] = part
    return whole.reshape(outputs, 4 * channels, 9)


@numba.njit(cache=True, nogil=True, parallel=True)
def _add_taps(taps: Array, stride: int, side: int, shift: int, dweight: Array) -> None:
    """Add the parts of a kernel that meet each phase, outputs x phases x channels x 3 x 3, to `dweight`."""
    kernel = dweight.shape[2]
    for o in numba.prange(len(taps)):
        for phase in range(side * side):
            for c in range(taps.shape[2]):
                for i in range(3):
                    for j in range(3):
                        row, column = phase // side * shift + stride * i, phase % side * shift + stride * j
                        if row < kernel and column < kernel:
                            dweight[o, c, row, column] += taps[o, phase, c, i, j]


class Tiles(NamedTuple):
    """The tiles of one group in an image; grid: tiles along height and width, of the tiled output."""

    image: np.ndarray
    lattice: Lattice
    grid: tuple[int, int] = (0, 0)


def _convolution(source: Tiles, target: Tiles, weight: np.ndarray, taps: Callable[[np.ndarray], np.ndarray],
                 epilogue: np.ndarray, minimum: np.floating = np.float32(-np.inf), keep: bool = False) -> None:
    """Convolve the tiles of `source` and write those of `target`, one group of each.

    `taps`: a group's weights as channels of source * phases x channels of target * phases x 9.
    `keep`: the transformed weights may be kept as long as `weight`, with the weights of all groups, does not change.
    """
    x, y, group = source.image, target.image, source.lattice.group
    groups, grid = x.shape[3], target.grid
    rows, columns = x.shape[4] * source.lattice.side ** 2, y.shape[3] // groups * target.lattice.side ** 2
    threads, tiles = numba.get_num_threads(), len(y) * grid[0] * grid[1]
    most = max(16, (CACHED_BYTES if onednn.available() else PART_BYTES) // (4 * POINTS * (rows + columns)))
    block = _batch_size(tiles, threads, most)
    v = scratch("winograd.v", (threads, POINTS, block, rows), np.float32)
    m = scratch("winograd.m", (threads, POINTS, block, columns), np.float32)
    part = weight.reshape(groups, -1, *weight.shape[1:])[group]

    def transform() -> np.ndarray:
        u = scratch("winograd.u", (POINTS, rows, columns), np.float32)
        transforms.weights(taps(part), u)
        return u

    products = onednn.prepare_products(threads, POINTS, block, rows, columns)
    if products is None:
        u, calls = transform(), NO_CALLS
    else:
        name = (weight, ("winograd", group)) if keep else None
        u, calls = NO_WEIGHTS, products.calls(v, products.weights(part, transform, name), m)
    lattices = tuple(source.lattice), tuple(target.lattice)
    _convolve(x, lattices[0], u, epilogue, minimum, *flat_pixels(y), lattices[1], grid, v, m, calls)
    onednn.check(calls)


def grid_of(height: int, width: int) -> tuple[int, int]:
    """How many tiles cover an image along its height and its width."""
    return -(-height // 4), -(-width // 4)


def _by_group(image: np.ndarray, group: int) -> np.ndarray:
    """N x H x W x C as N x H x W x groups x channels of a group."""
    return image.reshape(*image.shape[:3], group, image.shape[3] // group)


def forward(x: np.ndarray, weight: np.ndarray, epilogue: np.ndarray, y: np.ndarray, geometry: Geometry,
            minimum: np.floating) -> None:
    """Write to `y`, as `pixels` returns it, at least `minimum`; `epilogue`: rows of bias, scale and shift."""
    x = _by_group(x, geometry.group)
    for g in range(geometry.group):
        _convolution(Tiles(x, _input_lattice(geometry, g)), Tiles(y, Lattice(group=g), grid_of(*y.shape[1:3])),
                     weight, lambda part: _taps(part, geometry.stride[0]).transpose(1, 0, 2), epilogue, minimum, True)


def backward_data(dy: np.ndarray, weight: np.ndarray, dx: np.ndarray, geometry: Geometry) -> None:
    """Write the input's gradient to `dx`: the convolution of `dy` with the weights rotated by 180 degrees."""
    epilogue = scratch("winograd.epilogue", (3, dx.shape[3]), np.float32)
    epilogue[:] = [[0], [1], [-0.0]]           # changes nothing
    _, height, width, _ = dx.shape
    kernel, stride, (pad_h, pad_w) = geometry.kernel[0], geometry.stride[0], geometry.pad
    dy = _by_group(dy, geometry.group)

    def taps(part: np.ndarray) -> np.ndarray:
        if kernel == 5 and stride == 1:
            return _taps(part[:, :, ::-1, ::-1].transpose(1, 0, 2, 3), 1).transpose(1, 0, 2)
        return _taps(part, stride)[:, :, ::-1]

    for g in range(geometry.group):
        if stride == 1:
            source = Lattice(1, kernel - 1 - pad_h, kernel - 1 - pad_w, *PHASES[kernel, 1], g)
            target = Tiles(dx, Lattice(group=g), grid_of(height, width))
        else:
            source = Lattice(pad_h=2, pad_w=2, group=g)
            grid = grid_of(-(-(height + pad_h) // 2), -(-(width + pad_w) // 2))
            target = Tiles(dx, _input_lattice(geometry, g), grid)
        _convolution(Tiles(dy, source), target, weight, taps, epilogue)


def backward_weights(x: np.ndarray, dy: np.ndarray, dweight: np.ndarray, dbias: np.ndarray | None,
                     geometry: Geometry) -> None:
    """Add the parameters' gradients to `dweight`, and to `dbias` unless it is None."""
    if dbias is not None:
        dbias += channel_sums(dy.transpose(0, 3, 1, 2), 1, 1)
    kernel, stride, channels = geometry.kernel[0], geometry.stride[0], dweight.shape[1]
    phases = PHASES[kernel, stride][0] ** 2
    rows, columns = channels * phases, len(dweight) // geometry.group
    taps = scratch("winograd.kernel", (columns, phases, channels, 3, 3), np.float32)
    x, dy = _by_group(x, geometry.group), _by_group(dy, geometry.group)
    for g, part in enumerate(dweight.reshape(geometry.group, columns, *dweight.shape[1:])):
        taps[...] = 0
        du = _transformed_gradient(x, _input_lattice(geometry, g), dy, rows, columns)
        transforms.weights_adjoint(du, taps.reshape(columns, rows, 9).transpose(1, 0, 2))
        _add_taps(taps, stride, *PHASES[kernel, stride], part)


def _transformed_gradient(x: np.ndarray, lattice: Lattice, dy: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The sum over all tiles of the products of the transformed input and output's gradient, 36 x rows x columns."""
    grid, threads = grid_of(*dy.shape[1:3]), numba.get_num_threads()
    tiles, bytes_per_tile = len(dy) * grid[0] * grid[1], 4 * POINTS * (rows + columns)
    if rows * columns > SUMS_BYTES // (4 * POINTS):
        batch = _batch_size(tiles, 1, max(64, BATCH_BYTES // bytes_per_tile))
        return _gradient_in_batches(x, lattice, dy, (batch, rows, columns))
    shape = _batch_size(tiles, threads, max(16, BLOCK_BYTES // bytes_per_tile)), rows, columns
    products = onednn.prepare_sums(threads, POINTS, *shape)
    return (_gradient_in_blocks(x, lattice, dy, shape, products) if products else
            _gradient_in_batches(x, lattice, dy, shape))


def _batch_size(tiles: int, parts: int, most: int) -> int:
    """The tiles of a batch if each of some parts has equally many batches, of at most `most` tiles."""
    return -(-tiles // (parts * -(-tiles // (parts * most))))


def _gradient_in_blocks(x: np.ndarray, lattice: Lattice, dy: np.ndarray, shape: tuple[int, int, int],
                        products: Any) -> np.ndarray:
    """Each thread sums its share of the tiles by oneDNN, in blocks that stay in the cache.

    `shape`: tiles of a block, rows and columns of each sum.
    """
    (block, rows, columns), grid, threads = shape, grid_of(*dy.shape[1:3]), numba.get_num_threads()
    v = scratch("winograd.v", (threads, POINTS, block, rows), np.float32)
    m = scratch("winograd.m", (threads, POINTS, block, columns), np.float32)
    sums = scratch("winograd.u", (threads, POINTS, rows, columns), np.float32)
    sums[...] = 0
    calls = products.calls(v, m, sums)
    _multiply_in_blocks(x, tuple(lattice), dy, lattice.group, len(dy) * grid[0] * grid[1], grid, v, m, calls)
    onednn.check(calls)
    for other in sums[1:]:
        sums[0] += other
    return sums[0]


def _gradient_in_batches(x: np.ndarray, lattice: Lattice, dy: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """All threads transform a batch of tiles, then share the 36 products; `shape`: as in _gradient_in_blocks."""
    (batch, rows, columns), grid, threads = shape, grid_of(*dy.shape[1:3]), numba.get_num_threads()
    tiles = len(dy) * grid[0] * grid[1]
    v = scratch("winograd.v", (POINTS, batch, rows), np.float32)
    m = scratch("winograd.m", (POINTS, batch, columns), np.float32)
    du = scratch("winograd.u", (POINTS, rows, columns), np.float32)
    du[...] = 0
    products = onednn.prepare_sums(POINTS, 1, batch, rows, columns)
    calls = products.calls(v[:, np.newaxis], m[:, np.newaxis], du[:, np.newaxis]) if products else NO_CALLS
    buffer = scratch("winograd.product", (threads, rows, columns), np.float32)
    for first in range(0, tiles, batch):
        count = min(batch, tiles - first)
        _transform_both(x, tuple(lattice), dy, lattice.group, first, count, grid, v, m)
        if products:
            v[:, count:], m[:, count:] = 0, 0
            _execute_all(calls, threads)
        else:
            _multiply_add(v, m, count, du, buffer)
    onednn.check(calls)
    return du
