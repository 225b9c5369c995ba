"""Batches of images that are still bytes."""
import numpy as np


class Pixels:
    """A batch of cropped images, and the arguments with which a backend's `transform` finishes them.

    `transform.Transformer.stage` fills it, image by image. A GPU's feed copies the bytes, a quarter of the size of
    floats, and transforms them there.
    """

    def __init__(self, images: np.ndarray, scale: float) -> None:
        count, _, _, channels = images.shape
        self.images = images                                        # uint8, N x H x W x C
        self.mirrored = np.zeros(count, bool)
        self.shift = np.zeros((count, channels), np.float32)        # added to the channels
        self.place = np.zeros((count, 2), np.int32)                 # row and column in `mean` of the first pixel
        self.mean = np.zeros(channels, np.float32)                  # (C,), or H x W x C; shared by many batches
        self.scale = scale

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The arrays of this batch alone, the first arguments of `transform`."""
        return self.images, self.mirrored, self.shift, self.place

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N x C x H x W, the shape in the net."""
        count, height, width, channels = self.images.shape
        return count, channels, height, width
