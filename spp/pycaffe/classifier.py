"""caffe.Classifier: class scores of whole images, from one centre crop or from ten."""
from typing import Any, Callable, Sequence

import numpy as np

from spp.layers import TEST
from spp.pycaffe import io
from spp.pycaffe.net import Net


class Classifier(Net):
    """A net with one image input N x K x H x W, and the preprocessing of its images.

    image_dims: the size (height, width) to which images are resized before they are cropped to the input's size; None
    for the input's size. mean, input_scale, raw_scale, channel_swap: as in io.Transformer. Raises as Net does.
    """

    def __init__(self, model_file: str, pretrained_file: str, image_dims: Sequence[int] | None = None,
                 mean: np.ndarray | None = None, input_scale: float | None = None, raw_scale: float | None = None,
                 channel_swap: Sequence[int] | None = None) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[self.inputs[0]].shape[2:])
        self.image_dims = self.crop_dims if image_dims is None else np.array(image_dims)

    def predict(self, inputs: Sequence[np.ndarray], oversample: bool = True) -> np.ndarray:
        """Scores N x classes of N images as `io.load_image` returns them: means over ten crops, or of the centre."""
        resized = np.array([io.resize_image(image, self.image_dims) for image in inputs])
        if oversample:
            crops = io.oversample(resized, self.crop_dims)
        else:
            (top, left), (height, width) = (self.image_dims - self.crop_dims) // 2, self.crop_dims
            crops = resized[:, top:top + height, left:left + width]
        name = self.inputs[0]
        ready = np.array([self.transformer.preprocess(name, crop) for crop in crops])
        scores = self.forward_all(None, **{name: ready})[self.outputs[0]]
        return scores.reshape(len(resized), 10 if oversample else 1, -1).mean(axis=1)


def transformer(net: Net, mean: Any, input_scale: float | None, raw_scale: float | None,
                channel_swap: Sequence[int] | None) -> io.Transformer:
    """The Transformer from images H x W x K to a net's first input, with all settings that are not None."""
    name = net.inputs[0]
    result = io.Transformer({name: net.blobs[name].shape})
    result.set_transpose(name, (2, 0, 1))
    settings: list[tuple[Any, Callable[[str, Any], None]]] = [
        (mean, result.set_mean), (input_scale, result.set_input_scale), (raw_scale, result.set_raw_scale),
        (channel_swap, result.set_channel_swap)]
    for value, set_value in settings:
        if value is not None:
            set_value(name, value)
    return result
