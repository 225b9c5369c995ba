"""Pooling over regions of a map: sliding windows, pyramid bins and detection windows are tables of regions.

A table is int32 (B, 6), a row a region: z0, z1, y0, y1, x0, x1, half-open, inside the map and not empty;
axes that the map lacks have 0, 1. Maps are N x C x (1 to 3 spatial axes); pooled arrays are N x C x (any
axes, B elements in the table's order). A table must not change once it was used.
"""
import math
import weakref

import cupy
import numpy as np

from spp.backend.cuda.kernels import PLANES, TILE, in_c_order, launch, launch_blocks, room_for
from spp.backend.cuda.layout import store

MANY = 4        # regions a position of the map from which on it pays to turn the map round, as for detection windows


def max_pool(x: cupy.ndarray, regions: cupy.ndarray, y: cupy.ndarray, argmax: cupy.ndarray | None) -> None:
    """y = the largest x of each region; argmax (int32), if given: its position in the map, (z * H + y) * W + x.

    The first of equal values wins; a NaN wins its region, so that it is seen.
    """
    out, (where, keep) = room_for(y), positions(argmax, regions)
    if len(regions) > MANY * math.prod(x.shape[2:]):
        by_pixel = in_c_order(cupy.moveaxis(x, 1, -1))
        tiles = x.shape[0] * -(-x.shape[1] // TILE) * -(-len(regions) // TILE)
        launch_blocks("max_pool_by_tile", tiles, x.dtype, by_pixel, regions, out, where, keep, x.shape[1],
                      len(regions), *_sizes(x))
    else:
        _forward("max_pool", x, regions, regions, out, where, keep)
    store(out, y)
    if keep:
        store(where, argmax)


def positions(argmax: cupy.ndarray | None, other: cupy.ndarray) -> tuple[cupy.ndarray, bool]:
    """What a kernel takes for argmax, and whether it writes there; without argmax `other`, of int32 too."""
    return (other, False) if argmax is None else (room_for(argmax), True)


def max_pool_backward(dy: cupy.ndarray, argmax: cupy.ndarray, regions: cupy.ndarray, dx: cupy.ndarray) -> None:
    """dx = the sum of the dy whose maximum came from there."""
    _backward("max_pool_backward", dy, in_c_order(argmax), regions, dx)


def average_pool(x: cupy.ndarray, regions: cupy.ndarray, divisors: cupy.ndarray, y: cupy.ndarray) -> None:
    """y = the sum of x over each region, divided by the region's divisor (int32, B)."""
    out = room_for(y)
    _forward("average_pool", x, regions, regions, divisors, out)
    store(out, y)


def average_pool_backward(dy: cupy.ndarray, regions: cupy.ndarray, divisors: cupy.ndarray,
                          dx: cupy.ndarray) -> None:
    """dx = the sum of dy / divisor over the regions that a position is in."""
    _backward("average_pool_backward", dy, divisors, regions, dx)


def sample_pool(x: cupy.ndarray, regions: cupy.ndarray, uniform: cupy.ndarray, y: cupy.ndarray,
                argmax: cupy.ndarray) -> None:
    """y = one x of each region, chosen with probability x / sum x; argmax = its position, as in `max_pool`.

    uniform (y's shape and dtype, 0 <= u < 1) makes the choice. x must not be negative. A region of zeros
    gives its first position; a NaN in a region gives NaN.
    """
    out, where = room_for(y), room_for(argmax)
    _forward("sample_pool", x, regions, regions, in_c_order(uniform), out, where)
    store(out, y)
    store(where, argmax)


def _forward(name, x, regions, *arrays):
    planes = x.shape[0] * x.shape[1]
    launch(name, -(-planes // PLANES) * len(regions), x.dtype, in_c_order(x), *arrays, planes, len(regions),
           *_sizes(x))


def _backward(name, dy, values, regions, dx):
    out, sizes = room_for(dx), _sizes(dx)
    launch(name, dx.size, dx.dtype, in_c_order(dy), values, *_cover(regions, sizes), out, len(regions),
           math.prod(sizes))
    store(out, dx)


def _sizes(x):
    """Depth, height and width."""
    return (1,) * (5 - x.ndim) + x.shape[2:]


_covers: dict[tuple[int, tuple[int, ...]], tuple[cupy.ndarray, cupy.ndarray]] = {}


def _cover(regions: cupy.ndarray, sizes: tuple[int, ...]) -> tuple[cupy.ndarray, cupy.ndarray]:
    """`starts`, `members`: position p of the map is in the regions members[starts[p]:starts[p + 1]], ascending.

    Made once for a table, on the host, and kept as long as the table.
    """
    key = id(regions), sizes
    if key not in _covers:
        starts, members = cover(regions.get(), sizes)
        _covers[key] = cupy.asarray(starts), cupy.asarray(members)
        weakref.finalize(regions, _covers.pop, key)
    return _covers[key]


def cover(regions: np.ndarray, sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """As `_cover`, int32, on the host."""
    table = regions.astype(np.int64).reshape(-1, 3, 2)
    first, extent = table[:, :, 0], table[:, :, 1] - table[:, :, 0]
    counts = extent.prod(1)
    region = np.repeat(np.arange(len(table)), counts)
    rest = np.arange(len(region)) - np.repeat(np.cumsum(counts) - counts, counts)       # place in the region
    position, stride = np.zeros(len(region), np.int64), 1
    for axis in (2, 1, 0):
        rest, along = np.divmod(rest, extent[region, axis])
        position += (first[region, axis] + along) * stride
        stride *= sizes[axis]
    starts = np.zeros(math.prod(sizes) + 1, np.int32)
    np.cumsum(np.bincount(position, minlength=len(starts) - 1), out=starts[1:])
    return starts, region[np.argsort(position, kind="stable")].astype(np.int32)
