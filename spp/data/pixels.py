"""Images that stay bytes on their way into a net."""
import numpy as np


class Pixels:
    """A batch of cropped images, and what is left to be done with them: the arguments of a backend's `transform`.

    `transform.Transformer.stage` fills it, image by image. A GPU's feed copies the bytes, a quarter of what floats
    would be, and transforms them there.
    """

    def __init__(self, images: np.ndarray, scale: float) -> None:
        count, _, _, channels = images.shape
        self.images = images                                        # uint8, N x H x W x C
        self.mirrored = np.zeros(count, bool)
        self.shift = np.zeros((count, channels), np.float32)        # added to the colours
        self.place = np.zeros((count, 2), np.int32)                 # row and column in `mean` of the first pixel
        self.mean = np.zeros(channels, np.float32)                  # (C,), or rows x columns x C; of many batches
        self.scale = scale

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What is the batch's own, in the order in which `transform` takes it."""
        return self.images, self.mirrored, self.shift, self.place

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N x C x H x W, what it will be in the net."""
        count, height, width, channels = self.images.shape
        return count, channels, height, width

    @property
    def base(self) -> np.ndarray | None:
        """The array in whose memory the images lie."""
        return self.images.base
