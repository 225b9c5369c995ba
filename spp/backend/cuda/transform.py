"""From uint8 images to a net's input."""
import cupy
import numpy as np

from spp.backend.cuda.kernels import in_c_order, launch, room_for
from spp.backend.cuda.layout import store


def transform(images: cupy.ndarray, mirrored: cupy.ndarray, shift: cupy.ndarray, place: cupy.ndarray,
              mean: cupy.ndarray, scale: float, y: cupy.ndarray) -> None:
    """y = (images + shift - mean) * scale, mirrored where wanted.

    images: uint8, N x H x W x C; mirrored: bool, N; shift: float32, N x C; mean: float32, (C,), or rows x columns x
    C, of which an image's are those from row and column `place` (int32, N x 2) on; y: N x C x H x W. In float32.
    """
    out = room_for(y)
    height, width, channels = images.shape[1:]
    columns, by = (mean.shape[1], channels) if mean.ndim == 3 else (0, 0)
    launch("transform", y.size, y.dtype, in_c_order(images), mirrored, in_c_order(shift), in_c_order(place),
           in_c_order(mean), columns, by, np.float32(scale), out, height, width, channels)
    store(out, y)
