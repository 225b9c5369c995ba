"""SSD's layers of boxes: PriorBox, DetectionOutput."""
import logging
from typing import Any, Sequence

import numpy as np

from spp.backend.types import Array, Numbers
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, format_shape
from spp.layers.geometry import axis_numbers
from spp.layers.registry import register
from spp.ops import detection

log = logging.getLogger(__name__)


@register("PriorBox")
class PriorBox(Layer):
    """Boxes of fixed sizes and shapes around each cell of a map (SSD, Sec. 2.2: PriorBox).

    Bottoms: map and image, N x C x H x W each. Top: 1 x 2 x (cells * boxes * 4): corners x1, y1, x2, y2 relative to
    the image's size, and their variances. Raises NetError for sizes, ratios, steps and variances not above 0.
    """

    bottoms = (2, 2)
    differentiable_bottoms = 0
    sizes: np.ndarray                       # (boxes, 2), width and height in pixels
    variance: list[float]                   # one, or one per coordinate
    image: tuple[float, float] | None       # (height, width) in pixels; None for that of bottom 1
    step: tuple[float, float] | None        # from cell to cell; None for image size / map size
    boxes: tuple[tuple[Numbers, Numbers], Array] | None     # sizes of map and image, and the top's values for them

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.prior_box_param
        if not p.min_size or min(p.min_size) <= 0:
            raise NetError(f"prior_box_param needs min_size, above 0; found {_list(p.min_size)}")
        if p.max_size and (len(p.max_size) != len(p.min_size)
                           or any(large <= small for small, large in zip(p.min_size, p.max_size))):
            raise NetError(f"prior_box_param needs no max_size, or a larger one for each min_size; found min_size "
                           f"{_list(p.min_size)} and max_size {_list(p.max_size)}")
        if any(ratio <= 0 for ratio in p.aspect_ratio):
            raise NetError(f"prior_box_param's aspect_ratio must be above 0, found {_list(p.aspect_ratio)}")
        if len(p.variance) not in (0, 1, 4) or any(v <= 0 for v in p.variance):
            raise NetError(f"prior_box_param needs no, one or four variance, above 0; found {_list(p.variance)}")
        ratios = detection.aspect_ratios(p.aspect_ratio, p.flip)
        self.sizes = detection.box_sizes(p.min_size, p.max_size, ratios)
        self.variance = list(p.variance) or [0.1]
        self.image, self.step = self._pair(p, "img_size"), self._pair(p, "step")
        self.boxes = None

    @staticmethod
    def _pair(p: Any, name: str) -> tuple[float, float] | None:
        """(height, width) of a parameter, or None if it is not given."""
        pair = axis_numbers(p, name)
        if not pair:
            return None
        if min(pair) <= 0:
            raise NetError(f"prior_box_param's {name} must be above 0, found {min(pair):g}")
        return pair[0], pair[1]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for i, blob in enumerate(bottom):
            if len(blob.shape) != 4:
                raise NetError(f"bottom {i} must be N x C x H x W, found shape {format_shape(blob.shape)}")
        cells = bottom[0].shape[2:]
        top[0].reshape(1, 2, cells[0] * cells[1] * len(self.sizes) * 4)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        key = bottom[0].shape[2:], bottom[1].shape[2:]
        if self.boxes is None or self.boxes[0] != key:
            (rows, columns), (height, width) = key
            cells, image = (rows, columns), self.image or (height, width)
            step = self.step or (image[0] / cells[0], image[1] / cells[1])
            p = self.param.prior_box_param
            boxes = detection.prior_boxes(cells, image, step, p.offset, self.sizes, p.clip)
            values = np.stack([boxes, np.broadcast_to(self.variance, boxes.shape)]).reshape(1, 2, -1)
            self.boxes = key, self.context.backend.from_host(values.astype(self.context.dtype))
        top[0].data[...] = self.boxes[1]


@register("DetectionOutput")
class DetectionOutput(Layer):
    """Detections from box predictions, class scores and priors (SSD: DetectionOutput).

    Bottoms: loc N x (P * 4), or N x (P * classes * 4) without share_location; conf N x (P * classes); priors
    1 x 2 x (P * 4). Top: 1 x 1 x K x 7: image, class, score, and x1, y1, x2, y2 relative to the image's size, not
    clipped to it. If no image has a detection, the top has one row per image, of its number and -1s. Raises NetError
    for other shapes and bad parameters.
    """

    bottoms = (3, 3)
    differentiable_bottoms = 0
    classes: int
    boxes_each: int     # predicted boxes per prior: one, or one per class
    code: str
    rules: detection.Suppression
    count: int          # of priors

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.detection_output_param
        nms = p.nms_param
        if p.num_classes < 1:
            raise NetError("detection_output_param needs num_classes, at least 1")
        if nms.nms_threshold < 0 or not 0 < nms.eta <= 1:
            raise NetError(f"nms_param needs nms_threshold of at least 0 and 0 < eta <= 1, found "
                           f"{nms.nms_threshold:g} and {nms.eta:g}")
        if p.save_output_param.output_directory or p.visualize:
            log.warning("layer %s: save_output_param and visualize do nothing here; its top holds the detections",
                        self.name)
        self.classes, self.boxes_each = p.num_classes, 1 if p.share_location else p.num_classes
        self.code = type(self.param.prior_box_param).CodeType.Name(p.code_type)
        least = p.confidence_threshold if p.HasField("confidence_threshold") else -np.inf
        self.rules = detection.Suppression(least, nms.top_k, nms.nms_threshold, nms.eta)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        loc, conf, priors = (blob.shape for blob in bottom)
        if len(priors) < 3 or priors[:2] != (1, 2) or bottom[2].count % 8:
            raise NetError(f"bottom 2 must be priors of 1 x 2 x (P * 4), found shape {format_shape(priors)}")
        self.count = bottom[2].count // 8
        if not loc or not conf or loc[0] != conf[0]:
            raise NetError(f"bottoms 0 and 1 must have one number of images, found shapes {format_shape(loc)} and "
                           f"{format_shape(conf)}")
        for i, each, words in ((0, 4 * self.boxes_each, "coordinates"), (1, self.classes, "scores")):
            if bottom[i].count != loc[0] * self.count * each:
                raise NetError(f"bottom {i} must have {each} {words} for each of {self.count} priors, found shape "
                               f"{format_shape(bottom[i].shape)}")
        top[0].reshape(1, 1, 1, 7)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        loc, conf, priors = (self.context.backend.to_host(blob.data) for blob in bottom)
        p, images, count = self.param.detection_output_param, len(loc), self.count
        corners, variances = priors.reshape(2, count, 4)
        loc = loc.reshape(images, count, self.boxes_each, 4).swapaxes(1, 2)
        loc = detection.decode(loc, corners, variances, self.code, p.variance_encoded_in_target)
        conf = conf.reshape(images, count, self.classes).swapaxes(1, 2)
        rows = []
        for i in range(images):
            boxes = detection.detections(loc[i, 0] if self.boxes_each == 1 else loc[i], conf[i], p.background_label_id,
                                         self.rules, p.keep_top_k)
            rows.append(np.column_stack([np.full(len(boxes), i, boxes.dtype), boxes]))
        result = np.concatenate(rows) if rows else np.empty((0, 7))
        if not len(result):
            result = np.full((images, 7), -1.0)
            result[:, 0] = np.arange(images)
        top[0].reshape(1, 1, len(result), 7)
        top[0].data[...] = self.context.backend.from_host(result.astype(self.context.dtype))


def _list(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers) or "none"
