"""SSD's boxes: priors around the cells of a map, decoded predictions, non-maximum suppression.

Boxes are (x1, y1, x2, y2) in fractions of the image's width and height, 0 to 1; all arrays are NumPy's. Source: Liu et
al., SSD, Sec. 2.2, and the layers PriorBox and DetectionOutput of its Caffe.
"""
from typing import NamedTuple, Sequence

import numpy as np

from spp.boxes import nms


def aspect_ratios(parameters: Sequence[float], flip: bool) -> list[float]:
    """1, then each new ratio and, with `flip`, its inverse; ratios within 1e-6 of an earlier one are left out."""
    ratios = [1.0]
    for ratio in parameters:
        if all(abs(ratio - known) >= 1e-6 for known in ratios):
            ratios += [ratio, 1 / ratio] if flip else [ratio]
    return ratios


def box_sizes(min_sizes: Sequence[float], max_sizes: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """Width and height in pixels of the boxes of a cell, float64 (n, 2); sizes are truncated to integers, as in SSD.

    For each min_size s: s x s; if there are max_sizes, with its max_size m, a square of side sqrt(s m); then
    s sqrt(r) x s / sqrt(r) for each ratio r but 1.
    """
    sizes = []
    for i, smallest in enumerate(map(int, min_sizes)):
        sizes.append((smallest, smallest))
        if max_sizes:
            sizes.append((np.sqrt(smallest * int(max_sizes[i])),) * 2)
        sizes += [(smallest * np.sqrt(r), smallest / np.sqrt(r)) for r in ratios if abs(r - 1) >= 1e-6]
    return np.array(sizes, np.float64).reshape(-1, 2)


def prior_boxes(cells: tuple[int, int], image: tuple[float, float], step: tuple[float, float], offset: float,
                sizes: np.ndarray, clip: bool) -> np.ndarray:
    """The boxes, float64 (cells * n, 4), in the order of cells by rows.

    cells: the size of the map. image, step: the size of the image and the distance of two cells, in pixels; all three
    are (height, width). offset: of a box's centre in its cell, in cells. sizes: from `box_sizes`.
    """
    y = (np.arange(cells[0]) + offset) * step[0]
    x = (np.arange(cells[1]) + offset) * step[1]
    centre = np.stack(np.broadcast_arrays(x, y[:, None]), -1)[:, :, None]
    size = np.array([image[1], image[0]], np.float64)
    boxes = np.concatenate([(centre - sizes / 2) / size, (centre + sizes / 2) / size], -1).reshape(-1, 4)
    return boxes.clip(0, 1) if clip else boxes


def decode(predicted: np.ndarray, priors: np.ndarray, variances: np.ndarray, code: str, in_target: bool) -> np.ndarray:
    """Boxes (..., P, 4) from predictions of the same shape, priors (P, 4) and their variances (P, 4).

    code: CORNER, CENTER_SIZE or CORNER_SIZE; in_target: the predictions include the variances already.
    """
    shift = predicted if in_target else predicted * variances
    if code == "CORNER":
        return priors + shift
    low, high = priors[:, :2], priors[:, 2:]
    size = high - low
    if code == "CORNER_SIZE":
        return priors + shift * np.concatenate([size, size], 1)
    centre = shift[..., :2] * size + (low + high) / 2
    half = np.exp(shift[..., 2:]) * size / 2
    return np.concatenate([centre - half, centre + half], -1)


class Suppression(NamedTuple):
    """Which boxes of a class are kept (SSD's DetectionOutput): the rules of non-maximum suppression (NMS).

    confidence_threshold: scores must be above it. top_k: the number of best boxes that enter NMS, -1 for all.
    nms_threshold: a box is dropped if its IoU with a better box is above it. eta: below 1 it multiplies nms_threshold
    after every kept box, while that is above 0.5.
    """

    confidence_threshold: float
    top_k: int
    nms_threshold: float
    eta: float


def best(boxes: np.ndarray, scores: np.ndarray, rules: Suppression) -> np.ndarray:
    """Indices of the boxes that are kept, best first; of equal scores the first. boxes: (P, 4); scores: (P,)."""
    candidates = np.flatnonzero(scores > rules.confidence_threshold)
    return candidates[nms(boxes[candidates], scores[candidates], rules.nms_threshold, rules.eta, rules.top_k,
                          offset=0)]


def detections(boxes: np.ndarray, scores: np.ndarray, background: int, rules: Suppression,
               keep_top_k: int) -> np.ndarray:
    """The detections of an image, rows of (class, score, x1, y1, x2, y2), by ascending class, then descending score.

    boxes: (P, 4) for all classes or (classes, P, 4); scores: (classes, P). The class `background` is left out. Of all
    classes together the keep_top_k best are kept (-1: all).
    """
    rows = [np.empty((0, 6), scores.dtype)]
    for c in range(len(scores)):
        if c == background:
            continue
        class_boxes = boxes if boxes.ndim == 2 else boxes[c]
        index = best(class_boxes, scores[c], rules)
        rows.append(np.column_stack([np.full(len(index), c, scores.dtype), scores[c][index], class_boxes[index]]))
    result = np.concatenate(rows)
    if -1 < keep_top_k < len(result):
        result = result[np.sort(np.argsort(-result[:, 1], kind="stable")[:keep_top_k])]
    return result
