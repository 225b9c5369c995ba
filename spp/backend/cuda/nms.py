"""Non-maximum suppression."""
import cupy
import numpy as np

from spp.backend.cuda.kernels import launch_one_block


def nms(boxes: cupy.ndarray, threshold: float, eta: float, kept: cupy.ndarray) -> None:
    """kept (K, bool) = whether a box overlaps no kept box before it by more than `threshold` (IoU).

    boxes: (K, 4), x1, y1, x2, y2 without the pixel's own width, best first. With eta below 1 the threshold is
    multiplied by it after every box kept, while it is above 0.5.
    """
    overlaps = cupy.empty(len(boxes), np.float64)
    launch_one_block("nms", len(boxes), boxes.dtype, boxes, np.float64(threshold), np.float64(eta), overlaps, kept)
