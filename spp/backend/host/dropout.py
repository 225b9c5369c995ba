"""The random masks of dropout."""
import numpy as np

from spp.backend.host.scratch import scratch


def draw_mask(stream: np.random.Generator, ratio: float, kept: float, mask: np.ndarray) -> None:
    """Each element of mask = 0 with probability `ratio`, else `kept`."""
    drawn = scratch("dropout.drawn", mask.shape, np.float32)
    stream.random(dtype=np.float32, out=drawn)
    np.greater_equal(drawn, ratio, out=mask)
    if kept != 1:
        mask *= kept
