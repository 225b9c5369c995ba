"""The input of a net from uint8 images."""
import cupy
import numpy as np

from spp.backend.cuda.kernels import OUT, launch_into


def transform(images: cupy.ndarray, mirrored: cupy.ndarray, shift: cupy.ndarray, place: cupy.ndarray,
              mean: cupy.ndarray, scale: float, y: cupy.ndarray) -> None:
    """y = (images + shift - mean) * scale, computed in float32, and flipped left to right where `mirrored`."""
    height, width, channels = images.shape[1:]
    columns, by = (mean.shape[1], channels) if mean.ndim == 3 else (0, 0)
    launch_into(y, "transform", y.size, images, mirrored, shift, place, mean, columns, by, np.float32(scale), OUT,
                height, width, channels)
