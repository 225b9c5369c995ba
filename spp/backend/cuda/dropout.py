"""The random masks of dropout."""
import cupy
import numpy as np

from spp.backend.cuda.kernels import launch
from spp.backend.cuda.layout import empty, store


def draw_mask(stream: np.random.Generator, ratio: float, value: float, mask: cupy.ndarray) -> None:
    """Each element of mask = 0 with probability `ratio`, else `value`. mask: any shape, a floating dtype.

    One number is drawn from `stream`: the key of the random numbers that the device computes.
    """
    out = empty(mask)
    key = np.uint64(stream.integers(1 << 63))
    launch("draw_mask", mask.size, mask.dtype, key, np.float32(ratio), float(value), out)
    store(out, mask)
