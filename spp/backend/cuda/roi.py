"""Pooling of regions that each belong to one image of a batch: Fast R-CNN's and R-FCN's.

A region's bins are rows x columns: `rows` int32 (R, bins, 2) and `columns` int32 (R, bins, 2), half-open, inside
the map; `image` int32 (R). An empty bin gives 0. Maps are N x C x H x W, pooled arrays R x C x bins x bins.
"""
import functools
from typing import Sequence

import cupy
import numpy as np

from spp.backend.cuda.kernels import in_c_order, launch, room_for
from spp.backend.cuda.layout import store
from spp.backend.cuda.pooling import positions


def roi_max_pool(x: cupy.ndarray, image: cupy.ndarray, rows: cupy.ndarray, columns: cupy.ndarray, y: cupy.ndarray,
                 argmax: cupy.ndarray | None) -> None:
    """y = the largest x of each bin; argmax (int32), if given: its position h * W + w, -1 for an empty bin.

    The first of equal values wins; a NaN wins its bin.
    """
    out, (where, keep) = room_for(y), positions(argmax, image)
    launch("roi_max_pool", y.size, x.dtype, in_c_order(x), image, in_c_order(rows), in_c_order(columns), out, where,
           keep, *y.shape[1:], *x.shape[2:])
    store(out, y)
    if keep:
        store(where, argmax)


def roi_max_pool_backward(dy: cupy.ndarray, argmax: cupy.ndarray, image: cupy.ndarray, rows: cupy.ndarray,
                          columns: cupy.ndarray, dx: cupy.ndarray) -> None:
    """dx = the sum of the dy whose maximum came from there."""
    out = room_for(dx)
    launch("roi_max_pool_backward", dx.size, dx.dtype, in_c_order(dy), in_c_order(argmax), image, in_c_order(rows),
           in_c_order(columns), out, *dy.shape, *dx.shape[2:])
    store(out, dx)


def roi_max_pyramid(x: cupy.ndarray, image: cupy.ndarray, rows: cupy.ndarray, columns: cupy.ndarray,
                    levels: Sequence[int], y: cupy.ndarray) -> None:
    """y (R x C x B) = the largest x of each bin of each region's levels, n x n bins a level, levels one by one.

    rows, columns: int32 (R, sum of levels, 2), none empty. A NaN wins its bin.
    """
    out = room_for(y)
    launch("roi_max_pyramid", y.size, x.dtype, in_c_order(x), image, in_c_order(rows), in_c_order(columns),
           _bins(tuple(levels), cupy.cuda.Device().id), out, *y.shape[1:], rows.shape[1], *x.shape[2:])
    store(out, y)


@functools.lru_cache(16)
def _bins(levels: tuple[int, ...], device: int) -> cupy.ndarray:
    """int32 (B, 2): which of a region's rows and of its columns each bin of its levels has."""
    first = np.cumsum(levels) - levels
    pairs = np.concatenate([start + np.indices((n, n)).reshape(2, -1).T for start, n in zip(first, levels)])
    return cupy.asarray(pairs.astype(np.int32, "C"))        # CuPy would keep another order of axes


def roi_group_average(x: cupy.ndarray, image: cupy.ndarray, rows: cupy.ndarray, columns: cupy.ndarray,
                      y: cupy.ndarray) -> None:
    """y[r, c, i, j] = the mean of x over bin (i, j) in channel (c * bins + i) * bins + j of the region's image."""
    out = room_for(y)
    launch("roi_group_average", y.size, x.dtype, in_c_order(x), image, in_c_order(rows), in_c_order(columns), out,
           *y.shape[1:3], *x.shape[2:])
    store(out, y)


def roi_group_average_backward(dy: cupy.ndarray, image: cupy.ndarray, rows: cupy.ndarray, columns: cupy.ndarray,
                               dx: cupy.ndarray) -> None:
    """dx = the sum of dy / area over the bins that a position is in."""
    out = room_for(dx)
    launch("roi_group_average_backward", dx.size, dx.dtype, in_c_order(dy), image, in_c_order(rows),
           in_c_order(columns), out, *dy.shape[:3], *dx.shape[2:])
    store(out, dx)
