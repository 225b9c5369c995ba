"""The random masks of dropout."""
import numpy as np

from spp.backend.host.scratch import scratch


def draw_mask(stream: np.random.Generator, ratio: float, value: float, mask: np.ndarray) -> None:
    """Each element of mask = 0 with probability `ratio`, else `value`. mask: any shape, a floating dtype."""
    uniform = scratch("dropout.uniform", mask.shape, np.float32)
    stream.random(dtype=np.float32, out=uniform)
    np.greater_equal(uniform, ratio, out=mask)
    if value != 1:
        mask *= value
