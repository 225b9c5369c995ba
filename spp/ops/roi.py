"""Pooling of regions of interest: maximum per bin (Fast R-CNN, Sec. 2.1), position-sensitive average (R-FCN, Sec. 3).

A region is (image, x1, y1, x2, y2) in coordinates of the input image; spatial_scale converts them to those of the map.
"""
import numpy as np

from spp import backend
from spp.backend.types import Array, Bins
from spp.boxes import round_half_away


def max_bins(rois: np.ndarray, pooled: tuple[int, int], scale: float,
             size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows, int32 (R, pooled[0], 2), and columns, int32 (R, pooled[1], 2), of the bins, clipped to a map of `size`.

    rois: (R, 5), floats. Fast R-CNN's rule: the corners are scaled and rounded and belong to the region; a side has at
    least one pixel; bin i extends from floor(i * side / bins) to ceil((i + 1) * side / bins).
    """
    corners = round_half_away(rois[:, 1:5] * rois.dtype.type(scale))
    sides = []
    for axis, bins in zip((1, 0), pooled):
        start, end = corners[:, axis], corners[:, axis + 2]
        sides.append(_bins(start, np.maximum(end - start + 1, 1), bins, size[1 - axis]))
    return sides[0], sides[1]


def group_bins(rois: np.ndarray, bins: int, scale: float, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Like `max_bins` by R-FCN's rule: corners are rounded, then scaled; a side is at least 0.1."""
    corners = round_half_away(rois[:, 1:5])
    sides = []
    for axis in (1, 0):
        start = corners[:, axis] * rois.dtype.type(scale)
        end = ((corners[:, axis + 2] + 1.0) * scale).astype(rois.dtype)
        sides.append(_bins(start, np.maximum(end - start, rois.dtype.type(0.1)), bins, size[1 - axis], inside=True))
    return sides[0], sides[1]


def _bins(start: np.ndarray, side: np.ndarray, bins: int, limit: int, inside: bool = False) -> np.ndarray:
    """int32 (R, bins, 2); `inside`: floor and ceil are taken after the start is added, not before."""
    width = side / side.dtype.type(bins)
    index = np.arange(bins + 1, dtype=side.dtype)
    edges = width[:, None] * index
    if inside:
        edges = edges + start[:, None]
    first, last = np.floor(edges[:, :-1]), np.ceil(edges[:, 1:])
    if not inside:
        first, last = first + start[:, None], last + start[:, None]
    return np.stack([first, last], 2).clip(0, limit).astype(np.int32)


def max_forward(x: Array, bins: Bins, y: Array, argmax: Array | None) -> None:
    """y = the largest x of each bin, argmax (int32, or None) = its position h * W + w; 0 and -1 for an empty bin.

    x: N x C x H x W; y, argmax: R x C x rows x columns of bins. The first of equal values wins, and NaN over all.
    """
    backend.of(x).roi_max_pool(x, bins, y, argmax)


def max_backward(dy: Array, argmax: Array, bins: Bins, dx: Array) -> None:
    """dx = the sum of dy over the bins whose argmax is this position."""
    backend.of(dy).roi_max_pool_backward(dy, argmax, bins, dx)


def group_forward(x: Array, bins: Bins, y: Array) -> None:
    """y[r, c, i, j] = the mean of x over bin (i, j), in channel (c n + i) n + j, or 0; y: R x C x n x n."""
    backend.of(x).roi_group_average(x, bins, y)


def group_backward(dy: Array, bins: Bins, dx: Array) -> None:
    """dx = the sum of dy / area over the bins that contain a position, each in its own channel."""
    backend.of(dy).roi_group_average_backward(dy, bins, dx)
