"""caffe.Detector: class scores of windows of images, as in R-CNN: each window is warped to the net's input."""
import importlib
import os
from typing import Any, Iterable, Sequence

import numpy as np

from spp import boxes
from spp.layers import TEST
from spp.pycaffe import io
from spp.pycaffe.classifier import transformer
from spp.pycaffe.common import CaffeError
from spp.pycaffe.net import Net

Windows = tuple[str, Iterable[Sequence[float]]]      # an image file, and (ymin, xmin, ymax, xmax) of each window


class Detector(Net):
    """A net with one square image input, the preprocessing of its images, and the context of its windows.

    context_pad: pixels of the input, on each side, that show what is around the window (16 in R-CNN); pixels outside
    the image are filled with the mean. mean, input_scale, raw_scale, channel_swap: as io.Transformer's.
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
        crops, detections = [], []
        for filename, windows in images_windows:
            image = io.load_image(filename)
            for window in windows:
                crops.append(self.transformer.preprocess(self.inputs[0], self.crop(image, np.array(window))))
                detections.append({"window": np.array(window), "filename": filename})
        if not crops:
            return []
        scores = self.forward_all(None, **{self.inputs[0]: np.array(crops)})[self.outputs[0]]
        for detection, prediction in zip(detections, scores.reshape(len(crops), -1)):
            detection["prediction"] = prediction
        return detections

    def detect_selective_search(self, image_fnames: Iterable[str]) -> list[dict[str, Any]]:
        """Score the windows that Selective Search proposes, by the module selective_search_ijcv_with_python.

        Raises CaffeError if that module, which needs MATLAB, is not installed.
        """
        try:
            search = importlib.import_module("selective_search_ijcv_with_python")
        except ImportError:
            raise CaffeError("detect_selective_search needs the module selective_search_ijcv_with_python on the path; "
                             "or pass windows of your own to detect_windows") from None
        names = [os.path.abspath(name) for name in image_fnames]
        return self.detect_windows(zip(names, search.get_windows(names, cmd="selective_search_rcnn")))

    def configure_crop(self, context_pad: int | None) -> None:
        """Set the context in pixels of the input, and compute the mean in the units and the order of images."""
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
        """The window (ymin, xmin, ymax, xmax) of an image H x W x K.

        With context_pad, both ends of the window are inside, and the result has the input's size: the window with
        its surroundings, as Caffe's detector.py crops them. Without, ymax and xmax are outside, as there.
        Raises CaffeError for a window with context outside the image.
        """
        box = boxes.swap_xy(np.asarray(window)).astype(int)
        x1, y1, x2, y2 = box
        if not self.context_pad:
            return im[y1:y2, x1:x2]
        size = int(self.crop_dims[0])
        height, width = im.shape[:2]
        across, down = boxes.context_window(box, (height, width), size, self.context_pad, rule=boxes.PYCAFFE)
        for span, first, last, limit in ((down, y1, y2, height), (across, x1, x2, width)):
            if span.stop <= span.start:
                raise CaffeError(f"a window from {first} to {last} is outside its image, which ends at {limit}")
        (top, rows), (left, columns) = down.place(size), across.place(size)
        result = self.crop_mean.copy()
        patch = im[down.start:down.stop, across.start:across.stop]
        result[top:top + rows, left:left + columns] = io.resize_image(patch, (rows, columns))
        return result
