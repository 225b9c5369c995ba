"""Non-maximum suppression."""
import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def nms(boxes: np.ndarray, threshold: float, eta: float, mask: np.ndarray) -> None:
    """mask (K, bool) = whether a box is kept: its IoU with every box kept before it is at most `threshold`.

    boxes: (K, 4), x1, y1, x2, y2 with areas (x2 - x1) * (y2 - y1), best first. If eta is below 1, the threshold is
    multiplied by it after every kept box, while it is above 0.5.
    """
    for i in range(len(boxes)):
        x1, y1, x2, y2 = boxes[i]
        area = (x2 - x1) * (y2 - y1) if x2 >= x1 and y2 >= y1 else 0.0
        mask[i] = True
        for j in range(i):
            if not mask[j]:
                continue
            a1, b1, a2, b2 = boxes[j]
            width, height = min(x2, a2) - max(x1, a1), min(y2, b2) - max(y1, b1)
            if width > 0 and height > 0:
                shared = width * height
                other = (a2 - a1) * (b2 - b1) if a2 >= a1 and b2 >= b1 else 0.0
                if shared / (area + other - shared) > threshold:
                    mask[i] = False
                    break
        if mask[i] and eta < 1 and threshold > 0.5:
            threshold *= eta
