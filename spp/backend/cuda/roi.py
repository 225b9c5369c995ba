"""Pooling of regions, each in one image of a batch, as in spp.backend.host.roi."""
import functools
from typing import Sequence

import cupy
import numpy as np

from spp.backend.cuda.kernels import OUT, launch_into
from spp.backend.cuda.layout import store
from spp.backend.cuda.pooling import positions
from spp.backend.types import Bins


def roi_max_pool(x: cupy.ndarray, bins: Bins, y: cupy.ndarray, argmax: cupy.ndarray | None) -> None:
    """y = the largest x of each bin; argmax (int32, or None) = its position h * W + w, -1 for an empty bin."""
    where, keep = positions(argmax, bins.image)
    launch_into(y, "roi_max_pool", y.size, x, *bins, OUT, where, keep, *y.shape[1:], *x.shape[2:])
    if keep:
        store(where, argmax)


def roi_max_pool_backward(dy: cupy.ndarray, argmax: cupy.ndarray, bins: Bins, dx: cupy.ndarray) -> None:
    """dx = the sum of dy over the bins whose argmax is this position."""
    launch_into(dx, "roi_max_pool_backward", dx.size, dy, argmax, *bins, OUT, *dy.shape, *dx.shape[2:])


def roi_max_pyramid(x: cupy.ndarray, bins: Bins, levels: Sequence[int], y: cupy.ndarray) -> None:
    """y (R x C x B) = the largest x of each bin of each region's pyramid, n x n bins per level, level after level."""
    launch_into(y, "roi_max_pyramid", y.size, x, *bins, _row_and_column(tuple(levels), cupy.cuda.Device().id), OUT,
                *y.shape[1:], bins.rows.shape[1], *x.shape[2:])


@functools.lru_cache(16)
def _row_and_column(levels: tuple[int, ...], device: int) -> cupy.ndarray:
    """int32 (B, 2): the indices of the row and the column, among those of all levels, of each bin."""
    first = np.cumsum(levels) - levels
    pairs = np.concatenate([start + np.indices((n, n)).reshape(2, -1).T for start, n in zip(first, levels)])
    return cupy.asarray(pairs.astype(np.int32, "C"))        # CuPy would keep another order of axes


def roi_group_average(x: cupy.ndarray, bins: Bins, y: cupy.ndarray) -> None:
    """y[r, c, i, j] = the mean of x over bin (i, j), in channel (c * n + i) * n + j; a region has n x n bins."""
    launch_into(y, "roi_group_average", y.size, x, *bins, OUT, *y.shape[1:3], *x.shape[2:])


def roi_group_average_backward(dy: cupy.ndarray, bins: Bins, dx: cupy.ndarray) -> None:
    """dx = the sum of dy / area over the bins that contain a position."""
    launch_into(dx, "roi_group_average_backward", dx.size, dy, *bins, OUT, *dy.shape[:3], *dx.shape[2:])
