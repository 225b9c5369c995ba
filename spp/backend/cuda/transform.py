"""The input of a net from uint8 images."""
import cupy
import numpy as np

from spp.backend.cuda.kernels import launch
from spp.backend.cuda.layout import empty, load, store


def transform(images: cupy.ndarray, mirrored: cupy.ndarray, shift: cupy.ndarray, place: cupy.ndarray,
              mean: cupy.ndarray, scale: float, y: cupy.ndarray) -> None:
    """y = (images + shift - mean) * scale, computed in float32, and flipped left to right where `mirrored`."""
    out = empty(y)
    height, width, channels = images.shape[1:]
    columns, by = (mean.shape[1], channels) if mean.ndim == 3 else (0, 0)
    launch("transform", y.size, y.dtype, load(images), mirrored, load(shift), load(place),
           load(mean), columns, by, np.float32(scale), out, height, width, channels)
    store(out, y)
