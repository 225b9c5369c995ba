"""The input of a net from uint8 images."""
import numpy as np


def transform(images: np.ndarray, mirrored: np.ndarray, shift: np.ndarray, place: np.ndarray, mean: np.ndarray,
              scale: float, y: np.ndarray) -> None:
    """y = (images + shift - mean) * scale, computed in float32, and flipped left to right where `mirrored`.

    images: uint8, N x H x W x C; mirrored: bool, N; shift: float32, N x C; mean: float32, (C,), or rows x columns x
    C, of which each image uses H x W pixels from its row and column `place` (int32, N x 2) on; y: N x C x H x W.
    """
    height, width = y.shape[2:]
    for image, mirror, color, (row, column), out in zip(images, mirrored, shift, place, y.transpose(0, 2, 3, 1)):
        crop = mean[row:row + height, column:column + width] if mean.ndim == 3 else mean
        values = (image + color - crop) * np.float32(scale)
        out[...] = values[:, ::-1] if mirror else values
