"""Boxes: conventions, rounding, overlaps and crops, with values worked out by hand."""
import numpy as np
import pytest

from spp import boxes
from spp.boxes import PYCAFFE, Span, context_window, round_half_away


def test_rounding_is_that_of_c():
    values = np.array([0.5, 1.5, 2.5, -0.5, -2.5, 2.49], np.float32)
    rounded = round_half_away(values)
    assert rounded.tolist() == [1, 2, 3, -1, -3, 2] and rounded.dtype == np.float32
    assert [round_half_away(value) for value in (0.5, -1.5, 7)] == [1, -2, 7]
    below = np.nextafter(np.float32(0.5), np.float32(0))
    assert round_half_away(np.array([below]))[0] == 0       # float32 arithmetic alone would make it 1


# --- conventions

BOXES = np.array([[0, 0, 9, 4], [2, 1, 2, 3]])         # 10 x 5 and 1 x 3 pixels (width x height)


@pytest.mark.parametrize("to, back, expected", [
    (boxes.swap_xy, boxes.swap_xy, [[0, 0, 4, 9], [1, 2, 3, 2]]),
    (boxes.to_half_open, boxes.from_half_open, [[0, 5, 0, 10], [1, 4, 2, 3]]),
    (lambda b: boxes.to_unit(b, 5, 20), lambda b: boxes.from_unit(b, 5, 20), [[0, 0, 0.5, 1], [0.1, 0.2, 0.15, 0.8]])],
    ids=["swap_xy", "half_open", "unit"])
def test_conventions(to, back, expected):
    np.testing.assert_allclose(to(BOXES), expected, 1e-15)
    np.testing.assert_allclose(back(to(BOXES)), BOXES, atol=1e-14)
    np.testing.assert_allclose(to(BOXES[1]), expected[1], 1e-15)


def test_a_half_open_box_selects_its_pixels():
    y0, y1, x0, x1 = boxes.to_half_open(BOXES[0])
    assert np.zeros((20, 20))[y0:y1, x0:x1].size == boxes.area(BOXES)[0] == 50


# --- areas and overlaps

def test_area_counts_both_ends():
    assert boxes.area(BOXES).tolist() == [50, 3]
    assert boxes.area(np.array([[5, 0, 4, 9], [5, 0, 3, 9], [9, 9, 0, 0]], np.uint16)).tolist() == [0, 0, 0]
    assert boxes.area(np.empty((0, 4))).shape == (0,)


def test_iou_by_hand():
    """10 x 10 at 0, 0 with: itself; 5 columns of it; 2 x 2 in the corner and 1 shared; a neighbour; nothing."""
    others = np.array([[0, 0, 9, 9], [5, 0, 14, 9], [9, 9, 10, 10], [10, 0, 19, 9], [3, 3, 2, 2]])
    expected = [1, 50 / 150, 1 / 103, 0, 0]
    for dtype in (np.uint8, np.int32, np.float32):
        overlaps = boxes.iou(np.array([[0, 0, 9, 9], [3, 3, 2, 2]], dtype), others.astype(dtype))
        np.testing.assert_array_equal(overlaps, [expected, [0] * 5])
    assert boxes.iou(others[:0], others).shape == (0, 5)


def test_clip():
    assert boxes.clip(np.array([[-3, -1, 7, 9], [2, 3, 25, 11]]), 10, 20).tolist() == [[0, 0, 7, 9], [2, 3, 19, 9]]


def test_shift_and_scale_keep_the_overlap():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 50, (2, 40, 2))
    some = np.concatenate([corners.min(0), corners.max(0)], 1)
    expected = boxes.iou(some, some)
    np.testing.assert_array_equal(boxes.iou(some + 7, some + 7), expected)
    doubled = boxes.from_half_open(2 * boxes.to_half_open(some))
    np.testing.assert_allclose(boxes.iou(doubled, doubled), expected, 1e-12)


# --- non-maximum suppression

LINE = np.array([[0, 0, 9, 0], [5, 0, 14, 0], [9, 0, 18, 0], [30, 0, 39, 0]])      # IoU 5/15, 6/14, 1/19 in a row


def test_nms_by_hand():
    scores = np.array([0.6, 0.9, 0.8, 0.1])
    assert boxes.nms(LINE, scores, 0.5).tolist() == [1, 2, 0, 3]
    assert boxes.nms(LINE, scores, 0.4).tolist() == [1, 0, 3]
    assert boxes.nms(LINE, scores, 6 / 14).tolist() == [1, 2, 0, 3]     # at exactly the threshold a box stays
    assert boxes.nms(LINE, scores, 0.3).tolist() == [1, 3]
    assert boxes.nms(LINE, scores, 0.3, top_k=2).tolist() == [1]
    assert boxes.nms(LINE[:0], scores[:0], 0.3).tolist() == []


def test_nms_takes_the_first_of_equal_scores():
    assert boxes.nms(np.array([[0, 0, 9, 9]] * 3 + [[50, 50, 59, 59]]), np.ones(4), 0.5).tolist() == [0, 3]


def test_nms_of_corners_has_no_pixel_of_its_own():
    """Sides of 1 and 1 that share 0.5: IoU 1/3. With both ends inside it would be 1.5 * 2 / (8 - 3)."""
    two = np.array([[0, 0, 1, 1], [0.5, 0, 1.5, 1]])
    assert boxes.nms(two, np.array([1.0, 0.5]), 0.5, offset=0).tolist() == [0, 1]
    assert boxes.nms(two, np.array([1.0, 0.5]), 0.5).tolist() == [0]


def test_nms_agrees_with_iou():
    rng = np.random.default_rng(1)
    corners = rng.integers(0, 40, (2, 200, 2))
    some, scores = np.concatenate([corners.min(0), corners.max(0)], 1), rng.random(200)
    overlaps = boxes.iou(some, some)
    expected: list[int] = []
    for index in np.argsort(-scores).tolist():
        if not (overlaps[index][expected] > 0.3).any():
            expected.append(index)
    assert boxes.nms(some, scores, 0.3).tolist() == expected


# --- windows with their context

def test_a_window_inside_is_warped_whole():
    assert context_window((10, 5, 29, 24), (40, 60), 10) == ((10, 30, 0, 10, 0), (5, 25, 0, 10, 0))
    assert context_window((3, 4, 3, 30), (40, 60), 227) == ((3, 4, 0, 227, 0), (4, 31, 0, 227, 0))


def test_context_pad_grows_a_window_about_its_center():
    """scale 10 / (10 - 2 * 2) = 5/3; x: center 20, half 10 -> 3.33, 36.67 -> 3 .. 37; y: 15 -+ 16.67 -> -2 .. 32.

    Down: 35 rows, 2 of them above the image: 2 * 10/35 = 0.57 -> 1; the other 33: 9.43 -> 9.
    """
    assert context_window((10, 5, 29, 24), (40, 60), 10, 2) == ((3, 38, 0, 10, 0), (0, 33, 1, 9, 0))


def test_square_grows_the_shorter_side_first():
    """center 20, 10; half 10 both: x 10 .. 30, y 0 .. 20, one more than the window, as in Caffe."""
    assert context_window((10, 5, 29, 14), (40, 60), 21, 0, True) == ((10, 31, 0, 21, 0), (0, 21, 0, 21, 0))
    # half 2.5 both, center 3.5: 1 .. 6; down 2.5 -+ 2.5: 0 .. 5
    assert context_window((1, 2, 5, 2), (40, 60), 6, 0, True) == ((1, 7, 0, 6, 0), (0, 6, 0, 6, 0))


def test_halves_are_rounded_away_from_zero():
    """Half 1.5, center 0.5 .. and scale 2: 0.5 - 3 = -2.5 -> -3; 0.5 + 3 = 3.5 -> 4; banker's rounding gives -2, 4."""
    across, _ = context_window((-1, 10, 1, 12), (40, 60), 8, 2)
    assert across == (0, 5, 3, 5, 0)


def test_padding_on_every_side():
    """Center 4, 4.5, halves 4, 4.5, scale 2: x -4 .. 12, y -5 .. 14.

    17 columns of 40/17 pixels: 4 outside are 9.41, 8 inside 18.82, 5 outside 11.76. 20 rows of 2: 5, 9 and 6.
    """
    assert context_window((0, 0, 7, 8), (9, 8), 40, 10) == ((0, 8, 9, 19, 12), (0, 9, 10, 18, 12))


def test_pycaffes_detector_rounds_halves_to_even():
    """Scale 2 about 2.5, half 2.5: -2.5 .. 7.5, which is -2 .. 8 here and -3 .. 8 in WindowData.

    11 columns of 12/11 pixels: 2 outside are 2.18, the other 9 are 9.8; the last of them is not cropped.
    """
    across, down = context_window((0, 10, 4, 12), (40, 60), 12, 3, rule=PYCAFFE)
    assert across == Span(0, 8, 2, 10, 0) and across.place(12) == (2, 10)
    # center 11.5, half 1.5: 8.5 .. 14.5 is 8 .. 14 here; 7 rows
    assert down == Span(8, 14, 0, 12, 0)
    assert context_window((0, 10, 4, 12), (40, 60), 12, 3) == (Span(0, 9, 3, 9, 0), Span(9, 16, 0, 12, 0))


def test_pycaffes_detector_cuts_one_past_the_last_pixel():
    """17.5 -+ 2.5 * 11/7: 14 .. 21 of columns 0 .. 19, 8 columns of 11/8 pixels. Cut to 14 .. 20: 7 are 9.6 pixels,
    but only 14 .. 19 are cropped. 2 outside are 2.75."""
    assert context_window((15, 15, 19, 19), (20, 20), 11, 2, rule=PYCAFFE)[0] == Span(14, 20, 0, 10, 3)


def test_a_crop_is_cut_where_rounding_passes_its_border():
    assert Span(0, 5, 3, 8, 1).place(10) == (3, 7)
    assert Span(0, 5, 3, 8, 1).place(10, mirrored=True) == (1, 8)
    assert Span(0, 1, 10, 0, 0).place(10) == (9, 1)         # a pixel at least
