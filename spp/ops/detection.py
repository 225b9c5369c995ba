"""SSD's boxes: priors around the cells of a map, predictions decoded against them, non-maximum suppression.

Boxes are (x1, y1, x2, y2) as parts of the image's width and height, 0 to 1; arrays are of the host.
"""
from typing import Sequence

import numpy as np

from spp.boxes import nms


def aspect_ratios(given: Sequence[float], flip: bool) -> list[float]:
    """1, then each new ratio and, with `flip`, its inverse; ratios within 1e-6 of an earlier one are left out."""
    ratios = [1.0]
    for ratio in given:
        if all(abs(ratio - known) >= 1e-6 for known in ratios):
            ratios += [ratio, 1 / ratio] if flip else [ratio]
    return ratios


def box_sizes(min_sizes: Sequence[float], max_sizes: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """Width and height in pixels of the boxes of a cell, (n, 2); sizes lose their fractions, as in SSD.

    For each min_size s: s x s; with a max_size m: sqrt(s m) square; then s sqrt(r) x s / sqrt(r) for each
    ratio but 1.
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
    """The boxes (cells * n, 4), rows of cells first; cells, image and step are (height, width), in pixels."""
    y = (np.arange(cells[0]) + offset) * step[0]
    x = (np.arange(cells[1]) + offset) * step[1]
    centre = np.stack(np.broadcast_arrays(x, y[:, None]), -1)[:, :, None]
    size = np.array([image[1], image[0]], np.float64)
    boxes = np.concatenate([(centre - sizes / 2) / size, (centre + sizes / 2) / size], -1).reshape(-1, 4)
    return boxes.clip(0, 1) if clip else boxes


def decode(predicted: np.ndarray, priors: np.ndarray, variances: np.ndarray, code: str,
           in_target: bool) -> np.ndarray:
    """Boxes (..., P, 4) from predictions of that shape, priors (P, 4) and their variances (P, 4).

    code: CORNER, CENTER_SIZE or CORNER_SIZE; in_target: the predictions have the variances in them already.
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


def best(boxes: np.ndarray, scores: np.ndarray, least: float, top_k: int, threshold: float, eta: float) -> np.ndarray:
    """Indices of the boxes (P, 4) that stay, best first: scores above `least`, the top_k of them (-1: all), NMS.

    Of equal scores the first box comes first.
    """
    candidates = np.flatnonzero(scores > least)
    return candidates[nms(boxes[candidates], scores[candidates], threshold, eta, top_k, offset=0)]


def detections(boxes: np.ndarray, scores: np.ndarray, background: int, least: float, top_k: int, threshold: float,
               eta: float, keep_top_k: int) -> np.ndarray:
    """The detections of an image, rows of class, score, box: classes ascending, scores falling in each.

    boxes: (P, 4) for all classes or (classes, P, 4); scores: (classes, P). Of all classes together the
    keep_top_k best stay (-1: all).
    """
    rows = [np.empty((0, 6), scores.dtype)]
    for c in range(len(scores)):
        if c == background:
            continue
        mine = boxes if boxes.ndim == 2 else boxes[c]
        index = best(mine, scores[c], least, top_k, threshold, eta)
        rows.append(np.column_stack([np.full(len(index), c, scores.dtype), scores[c][index], mine[index]]))
    found = np.concatenate(rows)
    if -1 < keep_top_k < len(found):
        found = found[np.sort(np.argsort(-found[:, 1], kind="stable")[:keep_top_k])]
    return found
