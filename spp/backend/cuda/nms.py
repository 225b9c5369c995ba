"""Non-maximum suppression."""
import cupy
import numpy as np

from spp.backend.cuda.kernels import launch_one_block


def nms(boxes: cupy.ndarray, threshold: float, eta: float, mask: cupy.ndarray) -> None:
    """mask (K, bool) = whether a box is kept: its IoU with every box kept before it is at most `threshold`."""
    overlaps = cupy.empty(len(boxes), np.float64)
    launch_one_block("nms", len(boxes), boxes.dtype, boxes, np.float64(threshold), np.float64(eta), overlaps, mask)
