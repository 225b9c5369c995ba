"""Pooling of regions of interest: max over bins (Fast R-CNN's RoI pooling), position-sensitive average (R-FCN).

A region is (image, x1, y1, x2, y2) in the coordinates of the input image; spatial_scale leads to those of the map.
"""
from typing import Any

import numpy as np

from spp import backend
from spp.boxes import round_half_away


def max_bins(rois: np.ndarray, pooled: tuple[int, int], scale: float,
             size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows int32 (R, pooled[0], 2) and columns int32 (R, pooled[1], 2) of the bins, cut to a map of `size`.

    Fast R-CNN's rule: corners scaled and rounded, both inside; at least one pixel a side; bin i from
    floor(i * side / bins) to ceil((i + 1) * side / bins).
    """
    corners = round_half_away(rois[:, 1:5] * rois.dtype.type(scale))
    sides = []
    for axis, bins in zip((1, 0), pooled):
        start, end = corners[:, axis], corners[:, axis + 2]
        sides.append(_bins(start, np.maximum(end - start + 1, 1), bins, size[1 - axis]))
    return sides[0], sides[1]


def group_bins(rois: np.ndarray, bins: int, scale: float, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """As `max_bins` by R-FCN's rule: corners rounded, then scaled; at least 0.1 a side, and not in whole pixels."""
    corners = round_half_away(rois[:, 1:5])
    sides = []
    for axis in (1, 0):
        start = corners[:, axis] * rois.dtype.type(scale)
        end = ((corners[:, axis + 2] + 1.0) * scale).astype(rois.dtype)
        sides.append(_bins(start, np.maximum(end - start, rois.dtype.type(0.1)), bins, size[1 - axis], inside=True))
    return sides[0], sides[1]


def _bins(start: np.ndarray, side: np.ndarray, bins: int, limit: int, inside: bool = False) -> np.ndarray:
    """int32 (R, bins, 2); `inside`: the start belongs into floor and ceil."""
    width = side / side.dtype.type(bins)
    index = np.arange(bins + 1, dtype=side.dtype)
    edges = width[:, None] * index
    if inside:
        edges = edges + start[:, None]
    first, last = np.floor(edges[:, :-1]), np.ceil(edges[:, 1:])
    if not inside:
        first, last = first + start[:, None], last + start[:, None]
    return np.stack([first, last], 2).clip(0, limit).astype(np.int32)


def max_forward(x: Any, image: Any, rows: Any, columns: Any, y: Any, argmax: Any) -> None:
    """y (R x C x bins) = the largest x of each bin, argmax (int32 or None) where it was; 0 and -1 for an empty bin."""
    backend.of(x).roi_max_pool(x, image, rows, columns, y, argmax)


def max_backward(dy: Any, argmax: Any, image: Any, rows: Any, columns: Any, dx: Any) -> None:
    """dx = the sum of dy over the bins whose argmax is there."""
    backend.of(dy).roi_max_pool_backward(dy, argmax, image, rows, columns, dx)


def group_forward(x: Any, image: Any, rows: Any, columns: Any, y: Any) -> None:
    """y[r, c, i, j] = the mean of x over bin (i, j), in channel (c * bins + i) * bins + j; 0 for an empty bin."""
    backend.of(x).roi_group_average(x, image, rows, columns, y)


def group_backward(dy: Any, image: Any, rows: Any, columns: Any, dx: Any) -> None:
    """dx = the sum of dy / area over the bins that a position is in, each in its own channel."""
    backend.of(dy).roi_group_average_backward(dy, image, rows, columns, dx)
