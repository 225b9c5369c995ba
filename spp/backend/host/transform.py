"""From uint8 images to a net's input."""
import numpy as np


def transform(images: np.ndarray, top: np.ndarray, left: np.ndarray, mirrored: np.ndarray, mean: np.ndarray,
              scale: float, y: np.ndarray) -> None:
    """y = (the image's part from row `top` and column `left` on, mirrored where wanted, - mean) * scale.

    images: uint8, N x H x W x C; top, left: int32, N; mirrored: bool, N; mean: float32, (C,) or H x W x C for the
    image's pixels; y: N x C x (size of the parts, inside the image). Computed in float32.
    """
    height, width = y.shape[2:]
    for image, row, column, mirror, out in zip(images, top, left, mirrored, y.transpose(0, 2, 3, 1)):
        part = np.s_[row:row + height, column:column + width]
        values = (image[part] - (mean[part] if mean.ndim == 3 else mean)) * np.float32(scale)
        out[...] = values[:, ::-1] if mirror else values
