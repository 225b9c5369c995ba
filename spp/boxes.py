"""Boxes: the pixel convention, rounding, areas and overlaps, non-maximum suppression, windows with their context.

A box is (x1, y1, x2, y2): its first and last column and row, counted from 0. Both ends are inside, as in PASCAL VOC's
annotations minus one, so a side has x2 - x1 + 1 pixels. Boxes are an array N x 4 on the host, of signed integers or
floats. Three other conventions exist in this project; convert with the functions named:
- (y1, x1, y2, x2), pycaffe's Detector: `swap_xy`;
- (y0, y1, x0, x1), half-open, `spp.ops.spp.window_bins`: `to_half_open`, `from_half_open`;
- corners from 0 to 1, SSD's PriorBox and DetectionOutput: `to_unit`, `from_unit`.
"""
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from spp import backend


def round_half_away(x: Any) -> Any:
    """x (a scalar or an array) rounded to whole numbers of the same dtype, halves away from zero, as C's round does.

    NumPy's round takes halves to the even neighbour.
    """
    wide = np.asarray(x, np.float64)        # where + 0.5 is exact for every float32
    return np.copysign(np.floor(np.abs(wide) + 0.5), wide).astype(np.asarray(x).dtype)


def swap_xy(boxes: np.ndarray) -> np.ndarray:
    """Boxes (..., 4) with x and y exchanged: from (x1, y1, x2, y2) to (y1, x1, y2, x2), or back."""
    return np.asarray(boxes)[..., [1, 0, 3, 2]]


def to_half_open(boxes: np.ndarray) -> np.ndarray:
    """Boxes (..., 4) as half-open intervals (y0, y1, x0, x1): rows y0 to y1 - 1, columns x0 to x1 - 1."""
    return np.asarray(boxes)[..., [1, 3, 0, 2]] + np.array([0, 1, 0, 1])


def from_half_open(intervals: np.ndarray) -> np.ndarray:
    """Boxes (..., 4) from half-open intervals (y0, y1, x0, x1)."""
    return (np.asarray(intervals) - np.array([0, 1, 0, 1]))[..., [2, 0, 3, 1]]


def to_unit(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes (..., 4) as float64 fractions of an image's sides: column i covers i / width to (i + 1) / width."""
    return (boxes + np.array([0, 0, 1, 1])) / np.array([width, height, width, height], np.float64)


def from_unit(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes (..., 4) in pixels, float64 and not rounded, from fractions of an image's sides."""
    return corners * np.array([width, height, width, height], np.float64) - np.array([0, 0, 1, 1])


def area(boxes: np.ndarray) -> np.ndarray:
    """The number of pixels of each box (float64, N); 0 for a box whose ends are in the wrong order."""
    boxes = np.asarray(boxes, np.float64)       # unsigned integers would wrap around
    return (boxes[:, 2:] - boxes[:, :2] + 1).clip(0).prod(1)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (float64, N x M) of each of the boxes a (N x 4) with each of b (M x 4).

    Sides count both ends (x2 - x1 + 1), as in PASCAL VOC's and R-CNN's programs. Boxes without pixels overlap nothing.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2]) + 1
    shared = sides.clip(0).prod(2)
    union = area(a)[:, None] + area(b) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def clip(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes (..., 4) cut to an image: x to 0 .. width - 1, y to 0 .. height - 1."""
    return np.clip(boxes, 0, np.array([width, height, width, height]) - 1)


def nms(boxes: np.ndarray, scores: np.ndarray, threshold: float, eta: float = 1.0, top_k: int = -1,
        offset: int = 1) -> np.ndarray:
    """Greedy non-maximum suppression: the indices of the boxes that are kept, best first.

    boxes: N x 4; scores: N. A box is dropped if its IoU with a better kept box exceeds `threshold`; of equal scores
    the first is better. Only the top_k best boxes are considered (-1: all). With eta below 1 the threshold is
    multiplied by it after every kept box while it is above 0.5 (SSD). offset: sides are x2 - x1 + offset; 1 for boxes
    in pixels, 0 for SSD's corners.
    """
    order = np.argsort(-scores, kind="stable")
    if top_k > -1:
        order = order[:top_k]
    ranked = boxes[order]
    if offset:
        ranked = ranked + np.array([0, 0, offset, offset], np.float64)
    mask = np.empty(len(order), bool)
    backend.of(boxes).nms(np.ascontiguousarray(ranked), threshold, eta, mask)
    return order[mask]


class CropRule(NamedTuple):
    """The arithmetic by which a program crops windows with their context.

    real: the type of its numbers. last_included: whether the crop has the last row and column of the window, too.
    """

    real: type
    rounding: Callable[[Any], Any]
    last_included: bool


# A pixel more or less is visible after warping, so each is like its original: Caffe's window_data_layer.cpp rounds
# as C does, pycaffe's detector.py as NumPy does (halves to even), and its slices leave out the last row and column.
WINDOW_DATA = CropRule(np.float32, round_half_away, last_included=True)
PYCAFFE = CropRule(np.float64, np.round, last_included=False)


class Span(NamedTuple):
    """A window along one axis: start to stop - 1 in the image; in the crop, pixels of padding, image and padding."""

    start: int
    stop: int
    before: int
    length: int
    after: int

    def place(self, crop: int, mirrored: bool = False) -> tuple[int, int]:
        """The first pixel in the crop and the number of pixels, at least 1; cut where rounding passes the crop."""
        before = self.after if mirrored else self.before
        length = max(1, min(self.length, crop - before))
        return min(before, crop - length), length


def context_window(box: Sequence[int] | np.ndarray, size: tuple[int, int], crop: int, context_pad: int = 0,
                   square: bool = False, rule: CropRule = WINDOW_DATA) -> tuple[Span, Span]:
    """R-CNN's crop of a window: its spans across (x) and down (y).

    box: x1, y1, x2, y2; size: the image's height and width; crop: the side to which the window is warped, in pixels.
    The window grows about its centre until it has `context_pad` pixels of the crop around it, and with `square` first
    to the length of its longer side. What is then outside the image is padding.
    """
    first, last = np.array(box[:2], np.int64), np.array(box[2:], np.int64)
    limits = np.array([size[1], size[0]])
    if context_pad or square:
        half = (last - first + 1).astype(rule.real) / 2
        center = first.astype(rule.real) + half
        grown = (half.max() if square else half) * (rule.real(crop) / rule.real(crop - 2 * context_pad))
        first, last = (rule.rounding(edge).astype(np.int64) for edge in (center - grown, center + grown))
    start, end = (edge.clip(0, limits - rule.last_included) for edge in (first, last))
    scale = rule.real(crop) / np.maximum(last - first + 1, 1).astype(rule.real)
    pixels = np.stack([np.maximum(0, -first), end - start + 1, np.maximum(0, last - limits + 1)])
    parts = rule.rounding(pixels.astype(rule.real) * scale).astype(np.int64)
    across, down = np.vstack([start, end + rule.last_included, parts]).T.tolist()
    return Span(*across), Span(*down)
