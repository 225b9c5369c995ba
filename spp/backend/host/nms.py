"""Non-maximum suppression."""
import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def nms(boxes: np.ndarray, threshold: float, eta: float, kept: np.ndarray) -> None:
    """kept (K, bool) = whether a box overlaps no kept box before it by more than `threshold` (IoU).

    boxes: (K, 4), x1, y1, x2, y2 without the pixel's own width, best first. With eta below 1 the threshold is
    multiplied by it after every box kept, while it is above 0.5.
    """
    for i in range(len(boxes)):
        x1, y1, x2, y2 = boxes[i]
        area = (x2 - x1) * (y2 - y1) if x2 >= x1 and y2 >= y1 else 0.0
        kept[i] = True
        for j in range(i):
            if not kept[j]:
                continue
            a1, b1, a2, b2 = boxes[j]
            width, height = min(x2, a2) - max(x1, a1), min(y2, b2) - max(y1, b1)
            if width > 0 and height > 0:
                shared = width * height
                other = (a2 - a1) * (b2 - b1) if a2 >= a1 and b2 >= b1 else 0.0
                if shared / (area + other - shared) > threshold:
                    kept[i] = False
                    break
        if kept[i] and eta < 1 and threshold > 0.5:
            threshold *= eta
