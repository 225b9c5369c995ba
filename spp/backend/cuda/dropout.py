"""The random masks of dropout."""
import cupy
import numpy as np

from spp.backend.cuda.kernels import launch, room_for
from spp.backend.cuda.layout import store


def draw_mask(stream: np.random.Generator, ratio: float, kept: float, mask: cupy.ndarray) -> None:
    """Each element of mask = 0 with probability `ratio`, else `kept`.

    One number is drawn from `stream`, the key of the random numbers that the device makes.
    """
    out = room_for(mask)
    key = np.uint64(stream.integers(1 << 63))
    launch("draw_mask", mask.size, mask.dtype, key, np.float32(ratio), float(kept), out)
    store(out, mask)
