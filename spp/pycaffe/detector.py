"""caffe.Detector: class scores of windows of images, as R-CNN does it: each window warped to the net's input."""
import importlib
import os
from typing import Any, Iterable, Sequence

import numpy as np

from spp.layers import TEST
from spp.pycaffe import io
from spp.pycaffe.classifier import transformer
from spp.pycaffe.common import CaffeError
from spp.pycaffe.net import Net

Windows = tuple[str, Iterable[Sequence[float]]]      # an image file, and (ymin, xmin, ymax, xmax) of each window


class Detector(Net):
    """A net with one square image input, what its images need first, and how much context a window takes along.

    context_pad: pixels of the input, on each side, that show what is around the window (16 in R-CNN); what lies
    beyond the image becomes the mean. mean, input_scale, raw_scale, channel_swap: as io.Transformer's.
    """

    def __init__(self, model_file: str, pretrained_file: str, mean: np.ndarray | None = None,
                 input_scale: float | None = None, raw_scale: float | None = None,
                 channel_swap: Sequence[int] | None = None, context_pad: int | None = None) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def detect_windows(self, images_windows: Iterable[Windows]) -> list[dict[str, Any]]:
        """Score the windows (ymin, xmin, ymax, xmax: pixels of their image) of each image file.

        Returns, for each window in order: {"window": array, "prediction": array of scores, "filename": str}.
        """
        crops, found = [], []
        for filename, windows in images_windows:
            image = io.load_image(filename)
            for window in windows:
                crops.append(self.transformer.preprocess(self.inputs[0], self.crop(image, np.array(window))))
                found.append({"window": np.array(window), "filename": filename})
        if not crops:
            return []
        scores = self.forward_all(None, **{self.inputs[0]: np.array(crops)})[self.outputs[0]]
        for one, prediction in zip(found, scores.reshape(len(crops), -1)):
            one["prediction"] = prediction
        return found

    def detect_selective_search(self, image_fnames: Iterable[str]) -> list[dict[str, Any]]:
        """Score the windows that Selective Search proposes, by the module selective_search_ijcv_with_python.

        Raises CaffeError where that module, which needs MATLAB, is not installed.
        """
        try:
            search = importlib.import_module("selective_search_ijcv_with_python")
        except ImportError:
            raise CaffeError("detect_selective_search needs the module selective_search_ijcv_with_python on the path; "
                             "or pass windows of your own to detect_windows") from None
        names = [os.path.abspath(name) for name in image_fnames]
        return self.detect_windows(zip(names, search.get_windows(names, cmd="selective_search_rcnn")))

    def configure_crop(self, context_pad: int | None) -> None:
        """Set the context in pixels of the input, and find the mean in the units and the order of images."""
        name = self.inputs[0]
        channels, height, width = self.blobs[name].shape[1:]
        if context_pad and (height != width or not 0 < 2 * context_pad < height):
            raise CaffeError(f"context_pad needs a square input more than twice as wide, found {context_pad} for an "
                             f"input of {height} x {width}")
        self.context_pad = context_pad
        self.crop_dims = np.array([height, width, channels])
        self.crop_mean = np.zeros((height, width, channels), np.float32)
        if name in self.transformer.mean:
            mean = np.broadcast_to(self.transformer.mean[name], (channels, height, width))
            if name in self.transformer.channel_swap:
                mean = mean[np.argsort(self.transformer.channel_swap[name])]
            self.crop_mean[...] = mean.transpose(1, 2, 0) / self.transformer.raw_scale.get(name, 1)

    def crop(self, im: np.ndarray, window: np.ndarray) -> np.ndarray:
        """The window of an image H x W x K, or with context the window and its surroundings at the input's size."""
        ymin, xmin, ymax, xmax = (int(value) for value in window)
        if not self.context_pad:
            return im[ymin:ymax, xmin:xmax]
        size = int(self.crop_dims[0])
        rows, down, height = _with_context(ymin, ymax, im.shape[0], size, self.context_pad)
        columns, right, width = _with_context(xmin, xmax, im.shape[1], size, self.context_pad)
        result = self.crop_mean.copy()
        result[down:down + height, right:right + width] = io.resize_image(im[rows, columns], (height, width))
        return result


def _with_context(low: int, high: int, limit: int, size: int, pad: int) -> tuple[slice, int, int]:
    """Along one axis: the image's pixels to take, and where in the input, from which pixel and how many, they go.

    The window, both ends included, grows about its centre by the share that `pad` has in `size`.
    """
    half = (high - low + 1) / 2
    grown = half * size / (size - 2 * pad)
    first, last = np.round(low + half - grown), np.round(low + half + grown)
    scale = size / (last - first + 1)
    offset = int(np.round(max(0, -first) * scale))
    first, last = np.clip(first, 0, limit), np.clip(last, 0, limit)
    if last <= first:
        raise CaffeError(f"a window from {low} to {high} lies outside its image, which ends at {limit}")
    count = min(int(np.round((last - first + 1) * scale)), size - offset)
    return slice(int(first), int(last)), offset, count
