"""From uint8 images to a net's input."""
import cupy
import numpy as np

from spp.backend.cuda.kernels import in_c_order, launch, room_for
from spp.backend.cuda.layout import store


def transform(images: cupy.ndarray, top: cupy.ndarray, left: cupy.ndarray, mirrored: cupy.ndarray,
              mean: cupy.ndarray, scale: float, y: cupy.ndarray) -> None:
    """y = (the image's part from row `top` and column `left` on, mirrored where wanted, - mean) * scale.

    images: uint8, N x H x W x C; top, left: int32, N; mirrored: bool, N; mean: float32, (C,) or H x W x C for the
    image's pixels; y: N x C x (size of the parts, inside the image). Computed in float32.
    """
    out = room_for(y)
    height, width, channels = images.shape[1:]
    launch("transform", y.size, y.dtype, in_c_order(images), top, left, mirrored, in_c_order(mean),
           channels if mean.ndim == 3 else 0, np.float32(scale), out, height, width, channels, *y.shape[2:])
    store(out, y)
