"""Pooling over tables of regions, as in spp.backend.host.pooling. A table must not change after its first use."""
import math
import weakref
from typing import Any

import cupy
import numpy as np

from spp.backend.cuda.kernels import OUT, PLANES, TILE, launch_into
from spp.backend.cuda.layout import empty, store
from spp.backend.types import Numbers

MANY = 4        # regions per position of the map; above it, as for detection windows, transposing the map pays


def max_pool(x: cupy.ndarray, regions: cupy.ndarray, y: cupy.ndarray, argmax: cupy.ndarray | None) -> None:
    """y = the largest x of each region; argmax (int32, or None) = its position in the map, (z * H + y) * W + x."""
    where, keep = positions(argmax, regions)
    if len(regions) > MANY * math.prod(x.shape[2:]):
        tiles = x.shape[0] * -(-x.shape[1] // TILE) * -(-len(regions) // TILE)
        launch_into(y, "max_pool_by_tile", tiles, cupy.moveaxis(x, 1, -1), regions, OUT, where, keep, x.shape[1],
                    len(regions), *_sizes(x), by_block=True)
    else:
        _forward(y, "max_pool", x, regions, OUT, where, keep)
    if keep:
        store(where, argmax)


def positions(argmax: cupy.ndarray | None, other: cupy.ndarray) -> tuple[cupy.ndarray, bool]:
    """The argmax argument of a kernel, and whether it is written; if argmax is None, `other`, also int32."""
    return (other, False) if argmax is None else (empty(argmax), True)


def max_pool_backward(dy: cupy.ndarray, argmax: cupy.ndarray, regions: cupy.ndarray, dx: cupy.ndarray) -> None:
    """dx = the sum of dy over the regions whose argmax is this position."""
    _backward("max_pool_backward", dy, argmax, regions, dx)


def average_pool(x: cupy.ndarray, regions: cupy.ndarray, divisors: cupy.ndarray, y: cupy.ndarray) -> None:
    """y = the sum of x over each region, divided by the region's divisor (int32, B)."""
    _forward(y, "average_pool", x, regions, divisors, OUT)


def average_pool_backward(dy: cupy.ndarray, regions: cupy.ndarray, divisors: cupy.ndarray,
                          dx: cupy.ndarray) -> None:
    """dx = the sum of dy / divisor over the regions that contain a position."""
    _backward("average_pool_backward", dy, divisors, regions, dx)


def sample_pool(x: cupy.ndarray, regions: cupy.ndarray, uniform: cupy.ndarray, y: cupy.ndarray,
                argmax: cupy.ndarray) -> None:
    """y = one x of each region, chosen with probability x / sum x; argmax = its position, as in `max_pool`."""
    where = empty(argmax)
    _forward(y, "sample_pool", x, regions, uniform, OUT, where)
    store(where, argmax)


def _forward(y: cupy.ndarray, name: str, x: cupy.ndarray, regions: cupy.ndarray, *args: Any) -> None:
    planes = x.shape[0] * x.shape[1]
    launch_into(y, name, -(-planes // PLANES) * len(regions), x, regions, *args, planes, len(regions), *_sizes(x))


def _backward(name: str, dy: cupy.ndarray, values: cupy.ndarray, regions: cupy.ndarray, dx: cupy.ndarray) -> None:
    sizes = _sizes(dx)
    launch_into(dx, name, dx.size, dy, values, *_cover(regions, sizes), OUT, len(regions), math.prod(sizes))


def _sizes(x: cupy.ndarray) -> Numbers:
    """Depth, height and width."""
    return (1,) * (5 - x.ndim) + x.shape[2:]


_covers: dict[tuple[int, Numbers], tuple[cupy.ndarray, cupy.ndarray]] = {}


def _cover(regions: cupy.ndarray, sizes: Numbers) -> tuple[cupy.ndarray, cupy.ndarray]:
    """`starts`, `members`: position p of the map is in the regions members[starts[p]:starts[p + 1]], ascending.

    Computed once per table, on the host, and kept as long as the table exists.
    """
    key = id(regions), sizes
    if key not in _covers:
        starts, members = cover(regions.get(), sizes)
        _covers[key] = cupy.asarray(starts), cupy.asarray(members)
        weakref.finalize(regions, _covers.pop, key)
    return _covers[key]


def cover(regions: np.ndarray, sizes: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """`_cover` on the host: int32 arrays `starts` and `members`."""
    table = regions.astype(np.int64).reshape(-1, 3, 2)
    first, extent = table[:, :, 0], table[:, :, 1] - table[:, :, 0]
    counts = extent.prod(1)
    region = np.repeat(np.arange(len(table)), counts)
    rest = np.arange(len(region)) - np.repeat(np.cumsum(counts) - counts, counts)       # index in the region
    position, stride = np.zeros(len(region), np.int64), 1
    for axis in (2, 1, 0):
        rest, along = np.divmod(rest, extent[region, axis])
        position += (first[region, axis] + along) * stride
        stride *= sizes[axis]
    starts = np.zeros(math.prod(sizes) + 1, np.int32)
    np.cumsum(np.bincount(position, minlength=len(starts) - 1), out=starts[1:])
    return starts, region[np.argsort(position, kind="stable")].astype(np.int32)
