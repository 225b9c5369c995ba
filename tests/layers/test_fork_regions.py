"""Regions of interest and SSD's boxes: naive references and hand-computed values."""
import math
from typing import Any

import numpy as np
import pytest

from one_layer import OneLayer, distinct, in_orders
from spp.ops import detection


# --- regions


def naive_roi_pooling(x, rois, pooled, scale):
    def away(value):
        return math.floor(abs(value) + 0.5) * (1 if value >= 0 else -1)

    height, width = x.shape[2:]
    y = np.zeros((len(rois), x.shape[1], *pooled))
    for r, (n, *corners) in enumerate(rois):
        x1, y1, x2, y2 = (away(v * scale) for v in corners)
        high, wide = max(y2 - y1 + 1, 1) / pooled[0], max(x2 - x1 + 1, 1) / pooled[1]
        for i in range(pooled[0]):
            for j in range(pooled[1]):
                rows = range(max(math.floor(i * high) + y1, 0), min(math.ceil((i + 1) * high) + y1, height))
                columns = range(max(math.floor(j * wide) + x1, 0), min(math.ceil((j + 1) * wide) + x1, width))
                if rows and columns:
                    y[r, :, i, j] = x[int(n), :, rows.start:rows.stop, columns.start:columns.stop].max((1, 2))
    return y


def naive_group_pooling(x, rois, outputs, group, scale):
    height, width = x.shape[2:]
    y = np.zeros((len(rois), outputs, group, group))
    for r, (n, *corners) in enumerate(rois):
        x1, y1, x2, y2 = (math.floor(v + 0.5) for v in corners)
        left, top = x1 * scale, y1 * scale
        wide, high = max((x2 + 1) * scale - left, 0.1) / group, max((y2 + 1) * scale - top, 0.1) / group
        for i in range(group):
            for j in range(group):
                a, b = np.clip([math.floor(i * high + top), math.ceil((i + 1) * high + top)], 0, height)
                c, d = np.clip([math.floor(j * wide + left), math.ceil((j + 1) * wide + left)], 0, width)
                for k in range(outputs):
                    if b > a and d > c:
                        y[r, k, i, j] = x[int(n), (k * group + i) * group + j, a:b, c:d].mean()
    return y


ROIS = np.array([[0, 0, 0, 9, 7], [1, 1.5, 0.5, 20, 14], [1, 5, 5, 5, 5], [0, 8, 6, 2, 1], [1, 30, 30, 40, 40],
                 [0, 0.75, 2.5, 3.25, 11.5]])


def test_roi_pooling():
    x = distinct((2, 3, 6, 9)) - 3                      # all negative: an empty bin is 0, not the least value
    one = OneLayer("type: 'ROIPooling' roi_pooling_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.4 }",
                   x.shape, ROIS.shape)
    expected = naive_roi_pooling(x, ROIS, (3, 2), 0.4)
    for strided in in_orders(x):
        np.testing.assert_array_equal(one.forward(strided, ROIS), expected)
    assert (expected[4] == 0).all() and (expected[1] < 0).all()
    dy = np.random.default_rng(1).normal(size=expected.shape)
    dx = np.zeros(x.shape)
    for r, c, i, j in np.ndindex(*expected.shape):
        if expected[r, c, i, j]:
            dx[x == expected[r, c, i, j]] += dy[r, c, i, j]         # values are distinct
    np.testing.assert_allclose(one.backward(dy), dx, 1e-12)
    layer: Any = one.layer
    layer.runs_backward = False         # without positions
    layer.argmax.data[...] = -7
    x[1, 2, 3, 4] = np.nan
    for strided in in_orders(x):
        result = one.forward(strided, ROIS)
        assert np.isnan(result).any()
        np.testing.assert_array_equal(np.where(np.isnan(result), expected, result), expected)
    assert (layer.argmax.data == -7).all()


def test_position_sensitive_pooling():
    x = distinct((2, 18, 6, 9))
    one = OneLayer("type: 'PSROIPooling' psroi_pooling_param { output_dim: 2 group_size: 3 spatial_scale: 0.5 }",
                   x.shape, ROIS.shape)
    expected = naive_group_pooling(x, ROIS, 2, 3, 0.5)
    for strided in in_orders(x):
        np.testing.assert_allclose(one.forward(strided, ROIS), expected, 1e-12)
    # each pixel gets its bins' gradient / area: the map times that is what the bins' values add up to
    dy = np.random.default_rng(1).normal(size=expected.shape)
    assert (one.backward(dy) * x).sum() == pytest.approx((dy * expected).sum())


def test_no_regions_give_an_empty_top():
    one = OneLayer("type: 'ROIPooling' roi_pooling_param { pooled_h: 3 pooled_w: 2 }", (1, 2, 4, 4), (0, 5))
    assert one.forward(np.ones((1, 2, 4, 4)), np.empty((0, 5))).shape == (0, 2, 3, 2)
    assert not one.backward(0).any()


# --- SSD's boxes


def test_prior_boxes_by_hand():
    """One cell of 2 x 3 of an image of 20 x 60; sizes lose their fractions."""
    one = OneLayer("type: 'PriorBox' prior_box_param { min_size: 8.9 max_size: 18.2 aspect_ratio: 4 aspect_ratio: 1 "
                   "variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.3 }", (1, 2, 2, 3), (1, 3, 20, 60))
    top = one.forward(np.zeros((1, 2, 2, 3)), np.zeros((1, 3, 20, 60))).reshape(2, 2, 3, 4, 4)
    np.testing.assert_allclose(top[1].reshape(-1, 4), [[0.1, 0.1, 0.2, 0.3]] * 24)
    scale = np.array([60, 20, 60, 20])
    np.testing.assert_allclose(top[0, 0, 0] * scale, [
        [10 - 4, 5 - 4, 10 + 4, 5 + 4], [10 - 6, 5 - 6, 10 + 6, 5 + 6], [10 - 8, 5 - 2, 10 + 8, 5 + 2],
        [10 - 2, 5 - 8, 10 + 2, 5 + 8]], 1e-12)
    np.testing.assert_allclose(top[0, 1, 2, 0] * scale, [50 - 4, 15 - 4, 50 + 4, 15 + 4])


def test_prior_boxes_with_given_sizes_are_clipped():
    one = OneLayer("type: 'PriorBox' prior_box_param { min_size: 10 clip: true img_h: 20 img_w: 40 step: 8 "
                   "offset: 0 flip: false aspect_ratio: 4 }", (1, 2, 2, 1), (1, 3, 7, 7))
    top = one.forward(np.zeros((1, 2, 2, 1)), np.zeros((1, 3, 7, 7)))[0]
    np.testing.assert_allclose(top[0].reshape(2, 2, 4), [
        [[0, 0, 5 / 40, 5 / 20], [0, 0, 10 / 40, 2.5 / 20]],
        [[0, 3 / 20, 5 / 40, 13 / 20], [0, 5.5 / 20, 10 / 40, 10.5 / 20]]], 1e-12)
    np.testing.assert_allclose(top[1], 0.1)


@pytest.mark.parametrize("code, in_target, expected", [
    ("CORNER", False, [0.3, 0.5, 0.9, 1.1]), ("CORNER", True, [1.2, 1.4, 1.6, 1.8]),
    ("CORNER_SIZE", False, [0.24, 0.44, 0.72, 0.92]),
    ("CENTER_SIZE", True, [0.6 - 0.2 * math.e, 1.0 - 0.3 * math.e, 0.6 + 0.2 * math.e, 1.0 + 0.3 * math.e])])
def test_decoding(code, in_target, expected):
    prior, variance = np.array([[0.2, 0.4, 0.6, 0.8]]), np.array([[0.1, 0.1, 0.3, 0.3]])
    if code == "CENTER_SIZE":
        prior = np.array([[0.0, 0.1, 0.4, 0.7]])        # centre 0.2, 0.4; size 0.4, 0.6
    decoded = detection.decode(np.ones((1, 4)), prior, variance, code, in_target)
    np.testing.assert_allclose(decoded, [expected])


def detect(params, loc, conf, priors):
    one = OneLayer(f"type: 'DetectionOutput' detection_output_param {{ {params} }}", *[
        array.shape for array in (loc, conf, priors)])
    return one.forward(loc, conf, priors)[0, 0]


BOXES = np.array([[0, 0, 4, 4], [0, 0, 4, 3], [0, 0, 4, 2.2], [5, 5, 9, 9.0]])  # IoU with the first: 1, .75, .55, 0
PRIORS = np.stack([BOXES, np.ones((4, 4))]).reshape(1, 2, 16)
CONF = np.array([[[0.1, 0.9, 0], [0.3, 0.7, 0], [0.2, 0.8, 0], [0.8, 0.2, 0.5]]]).reshape(1, 12)


@pytest.mark.parametrize("params, rows", [
    ("nms_param { nms_threshold: 0.5 }", [(1, 0.9, 0), (1, 0.2, 3), (2, 0.5, 3), (2, 0, 0)]),
    ("nms_param { nms_threshold: 0.6 }", [(1, 0.9, 0), (1, 0.8, 2), (1, 0.2, 3), (2, 0.5, 3), (2, 0, 0), (2, 0, 2)]),
    # the threshold falls from 0.6 to 0.48 after the first box
    ("nms_param { nms_threshold: 0.6 eta: 0.8 }", [(1, 0.9, 0), (1, 0.2, 3), (2, 0.5, 3), (2, 0, 0)]),
    ("nms_param { nms_threshold: 1 top_k: 2 }", [(1, 0.9, 0), (1, 0.8, 2), (2, 0.5, 3), (2, 0, 0)]),
    ("nms_param { nms_threshold: 1 } keep_top_k: 3", [(1, 0.9, 0), (1, 0.8, 2), (1, 0.7, 1)]),
    ("confidence_threshold: 0.2", [(1, 0.9, 0), (2, 0.5, 3)]),       # above, not at; NMS 0.3
    ("confidence_threshold: 0.45 background_label_id: 1 nms_param { nms_threshold: 0.5 }", [(0, 0.8, 3), (2, 0.5, 3)]),
    ("confidence_threshold: 0.6 background_label_id: -1", [(0, 0.8, 3), (1, 0.9, 0)]),
])
def test_detection_output(params, rows):
    detections = detect(f"num_classes: 3 {params}", np.zeros((1, 16)), CONF, PRIORS)
    np.testing.assert_allclose(detections, [[0, c, score, *BOXES[box]] for c, score, box in rows])


def test_detection_output_of_two_images_with_boxes_for_each_class():
    loc = np.zeros((2, 4, 3, 4))
    loc[1, 3, 2] = [1, 0, 0, 0]
    conf = np.concatenate([np.zeros((1, 12)), CONF])
    boxes = detect("num_classes: 3 share_location: false confidence_threshold: 0.4 nms_param { nms_threshold: 0.5 }",
                   loc.reshape(2, -1), conf, PRIORS)
    np.testing.assert_allclose(boxes, [[1, 1, 0.9, 0, 0, 4, 4], [1, 2, 0.5, 6, 5, 9, 9]])


def test_nothing_detected():
    detections = detect("num_classes: 3 confidence_threshold: 1", np.zeros((2, 16)), np.tile(CONF, (2, 1)), PRIORS)
    assert detections.tolist() == [[0] + [-1] * 6, [1] + [-1] * 6]


def test_saving_detections_is_not_done_in_silence(caplog):
    detect("num_classes: 3 save_output_param { output_directory: 'x' }", np.zeros((1, 16)), CONF, PRIORS)
    assert "save_output_param and visualize do nothing here" in caplog.text
