"""WindowData: window files, which windows a batch has, and how they are cropped, padded and warped."""
import cv2
import numpy as np
import pytest

from one_layer import OneLayer
from spp.boxes import context_window
from spp.data.windows import read_windows
from spp.errors import SppError
from spp.layers import TEST, TRAIN
from spp.net import Net
from spp.proto import arrays
from spp.proto.binary import write_binary
from spp.proto.text import parse_net

SIZES = [(40, 60), (31, 53)]                # of the two images: height, width
WINDOWS = """# 0
photos/0.png
3
40
60
4
2 0.700 10 5 29 24
1 0.600 0 0 59 39
4 0.300 3 4 5 6
0 0.000 50 30 59 39

# 1
photos/1.png
3 31 53
2
3 1.000 7 9 27 29
5 0.599 20 1 40 30
"""


def pixels(index):
    return np.random.default_rng(index).integers(0, 256, (*SIZES[index], 3), np.uint8)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(2):
        cv2.imwrite(f"photos/{i}.png", pixels(i))
    (tmp_path / "windows").write_text(WINDOWS)
    return tmp_path


@pytest.fixture
def make(here):
    layers = []

    def layer(transform="crop_size: 10", phase=TRAIN, seed=0, dtype=np.float64, **fields):
        fields = {"source": "'windows'", "batch_size": 8, "fg_threshold": 0.6, "bg_threshold": 0.5} | fields
        text = " ".join(f"{name}: {value}" for name, value in fields.items())
        layers.append(OneLayer(f"type: 'WindowData' transform_param {{ {transform} }} window_data_param {{ {text} }}",
                               tops=2, phase=phase, seed=seed, dtype=dtype))
        return layers[-1]

    yield layer
    for one in layers:
        one.layer.close()


@pytest.fixture
def crop(here, make):
    """All different crops of one window, x1 y1 x2 y2 of image 0, each H x W x C."""
    def crops(box, transform="crop_size: 10", **fields):
        (here / "one").write_text(f"# 0\nphotos/0.png\n3 40 60 1\n2 1 {box}\n")
        data, label = make(transform, source="'one'", fg_fraction=1, **fields).forward()
        assert list(label) == [2] * len(data)
        result = {image.tobytes(): image.transpose(1, 2, 0) for image in data}
        return list(result.values())
    return crops


def resized(rows, columns, height, width):
    return cv2.resize(pixels(0)[rows, columns], (width, height), interpolation=cv2.INTER_LINEAR)


# --- the file

def test_what_a_file_says(here):
    windows = read_windows("windows", "")
    assert windows.channels == 3 and [(i.path, i.height, i.width) for i in windows.images] == [
        ("photos/0.png", 40, 60), ("photos/1.png", 31, 53)]
    assert list(windows.image) == [0, 0, 0, 0, 1, 1] and list(windows.label) == [2, 1, 4, 0, 3, 5]
    np.testing.assert_array_equal(windows.overlap, np.array([0.7, 0.6, 0.3, 0, 1, 0.599], np.float32))
    assert windows.boxes[0].tolist() == [10, 5, 29, 24] and windows.boxes[5].tolist() == [20, 1, 40, 30]
    assert [windows.place(i) for i in (0, 3, 4, 5)] == ["windows:7", "windows:10", "windows:16", "windows:17"]
    assert read_windows("windows", "root/").images[1].path == "root/photos/1.png"
    assert read_windows("windows", str(here)).images[1].path == str(here / "photos/1.png")


def test_an_image_without_windows_and_a_path_with_a_space(here):
    (here / "w").write_text("# 0\na b.png\n1 5 6 0\n# 1\nc.png\n1 5 6 1\n1 1 0 0 5 4")
    windows = read_windows("w")
    assert [i.path for i in windows.images] == ["a b.png", "c.png"]
    assert windows.boxes.tolist() == [[0, 0, 5, 4]] and list(windows.image) == [1] and windows.channels == 1


WRONG = [("# 0", "# 1", r"1: expected `# 0` \(the images are numbered 0, 1, 2 ... in order\), found '# 1'"),
         ("# 1", "# 2", "12: expected `# 1` .*, found '# 2'"),
         ("# 1", "#1", "12: expected `# 1` .*, found '#1'"),
         ("3\n40", "2\n40", "6: expected 1 or 3 channels, the same for all images, found '2'"),
         ("3 31 53", "1 31 53", "15: expected 1 or 3 channels, the same for all images, found '1'"),
         ("3 31 53", "3 31 53.5", "14: expected width number of windows, found '3 31 53.5'"),
         ("3 31 53\n2", "3 31 53\n2 7", "15: expected a window on the next line, found '2 7'"),
         ("3 31 53", "3 -1 53", "14: expected height width number of windows, found '3 -1 53'"),
         ("3 31 53\n2", "3 31 53\n3", "17: expected 1 more windows `class overlap x1 y1 x2 y2`, found the end of the"),
         ("\n2\n3 1.000 7 9 27 29\n5 0.599 20 1 40 30", "", "14: expected number of windows, found the end of the"),
         ("photos/1.png\n3 31 53\n2\n3 1.000 7 9 27 29\n5 0.599 20 1 40 30\n", "",
          "12: expected the path of an image, found the end of the file"),
         ("4 0.300 3 4 5 6", "4 0.300 3 4 5", "9: expected a window `class overlap x1 y1 x2 y2`, found '4 0.300"),
         ("4 0.300 3 4 5 6", "4 0.3 3 4 5 x", "9: expected a window .*, found '4 0.3 3 4 5 x'"),
         ("4 0.300 3 4 5 6", "4 0.3 3 4 5 6.5", "9: expected whole numbers but for the overlap, found"),
         ("4 0.300 3 4 5 6", "4 0.3 3 4 5 nan", "9: expected whole numbers but for the overlap, found"),
         ("4 0.300 3 4 5 6", "4 0.3 3 4 5 1e30", "9: expected whole numbers but for the overlap, found"),
         ("4 0.300 3 4 5 6", "-4 0.3 3 4 5 6", "9: expected a class of 0 or more, found"),
         ("4 0.300 3 4 5 6", "4 1.3 3 4 5 6", "9: expected an overlap of 0 to 1, found"),
         ("4 0.300 3 4 5 6", "4 nan 3 4 5 6", "9: expected an overlap of 0 to 1, found"),
         ("4 0.300 3 4 5 6", "4 0.3 6 4 5 6", "9: expected x1 <= x2 and y1 <= y2, found '4 0.3 6 4 5 6'"),
         ("4 0.300 3 4 5 6", "4 0.3 3 7 5 6", "9: expected x1 <= x2 and y1 <= y2, found"),
         ("4 0.300 3 4 5 6", "4 0.3 3 40 5 46", r"9: expected a window that overlaps its image of 40 x 60 pixels"),
         ("4 0.300 3 4 5 6", "4 0.3 -3 4 -1 6", r"9: expected a window that overlaps its image of 40 x 60 pixels")]


@pytest.mark.parametrize("old, new, message", WRONG)
def test_a_file_of_another_form(here, old, new, message):
    assert WINDOWS.count(old) == 1
    (here / "windows").write_text(WINDOWS.replace(old, new))
    with pytest.raises(SppError, match="^windows:" + message):
        read_windows("windows")


def test_no_file_and_an_empty_one(here):
    with pytest.raises(SppError, match="window file 'none' cannot be read: No such file or directory; check the path"):
        read_windows("none")
    (here / "empty").write_text("\n")
    with pytest.raises(SppError, match="window file 'empty' is empty; give one in R-CNN's format"):
        read_windows("empty")


# --- which windows

def test_background_first_then_foreground(make):
    """Overlaps: 0.7, 0.6 and 1 are foreground at 0.6; 0.599 is neither; 0.3 and 0 are background, of class 0."""
    one = make()
    assert [blob.shape for blob in one.top] == [(8, 3, 10, 10), (8,)]
    labels = set()
    for _ in range(12):
        data, label = one.forward()
        assert not label[:6].any() and label[6:].all()
        labels.update(label[6:])
    assert labels == {1, 2, 3}
    # the 3 x 3 window grows to 10 x 10, the 10 x 10 one stays: the pixels show which of the two it was
    wholly = [(data[i].transpose(1, 2, 0) == pixels(0)[30:, 50:]).all() for i in range(6)]
    small = cv2.resize(pixels(0)[4:7, 3:6], (10, 10), interpolation=cv2.INTER_LINEAR)
    partly = [(data[i].transpose(1, 2, 0) == small).all() for i in range(6)]
    assert [a != b for a, b in zip(wholly, partly)] == [True] * 6


@pytest.mark.parametrize("batch, fraction, expected", [(10, 0.7, 7), (10, 0.29, 2), (3, 0.5, 1), (4, 0, 0), (4, 1, 4)])
def test_the_number_of_foreground_windows_is_cut_off(make, batch, fraction, expected):
    assert np.count_nonzero(make(batch_size=batch, fg_fraction=fraction).forward()[1]) == expected


def test_bg_threshold_decides_what_is_background(make):
    def distinct(threshold):
        one = make(fg_fraction=0, bg_threshold=threshold)
        return len({image.tobytes() for _ in range(8) for image in one.forward()[0]})
    assert (distinct(0.1), distinct(0.31), distinct(0.5999)) == (1, 2, 3)


@pytest.mark.parametrize("fields", [{}, {"cache_images": "true"}])
def test_threads_do_not_matter_and_resuming_goes_on(make, monkeypatch, fields):
    transform, runs = "crop_size: 10 mirror: true", []
    for count in ("1", "2", "4"):
        monkeypatch.setenv("SPP_DATA_WORKERS", count)
        one = make(transform, **fields)
        runs.append([one.forward() for _ in range(5)])
    assert len({batch[0].tobytes() for batch in runs[0]}) == 5
    for other in runs[1:]:
        for mine, theirs in zip(runs[0], other):
            np.testing.assert_array_equal(mine[0], theirs[0])
            np.testing.assert_array_equal(mine[1], theirs[1])
    one, other = make(transform, **fields), make(transform, seed=9, **fields)
    for _ in range(3):
        one.forward()
    assert not np.array_equal(other.forward()[0], runs[0][0][0])
    other.layer.restore(one.layer.state())
    np.testing.assert_array_equal(other.forward()[0], runs[0][3][0])


def test_cached_images_are_not_read_again(make, here):
    cached, read = make(cache_images="true"), make()
    for _ in range(6):
        cached.forward()
    for one in (cached, read):
        one.layer.batches.seek(0)
    for i in range(2):
        (here / "photos" / f"{i}.png").unlink()
    cached.forward()
    with pytest.raises(SppError, match=r"windows:\d+: image 'photos/\d.png': cannot be read: No such file"):
        read.forward()


# --- where their pixels go (tests/engine/test_boxes.py has the arithmetic)

def test_a_crop_is_the_patch_in_its_place(crop):
    """The window above: columns 3 .. 37, rows 0 .. 32, warped to 10 x 9 below one row of padding."""
    result, = crop("10 5 29 24", "crop_size: 10 mean_value: 5 mean_value: 6 mean_value: 7 scale: 0.5", context_pad=2)
    assert not result[0].any()
    expected = (resized(slice(0, 33), slice(3, 38), 9, 10) - np.array([5, 6, 7], np.float32)) / 2
    np.testing.assert_array_equal(result[1:], expected)
    square, = crop("10 5 29 14", "crop_size: 21", crop_mode="'square'")
    np.testing.assert_array_equal(square, pixels(0)[0:21, 10:31])


def test_the_padding_is_mirrored_too(crop):
    """x -7 .. 27, 35 columns, 7 of them outside: 2 of 10 pixels, right of the mirrored patch."""
    assert context_window((0, 5, 19, 24), (40, 60), 10, 2)[0] == (0, 28, 2, 8, 0)
    plain, = crop("0 5 19 24", context_pad=2)
    np.testing.assert_array_equal(plain[1:, 2:], resized(slice(0, 33), slice(0, 28), 9, 8))
    result = crop("0 5 19 24", "crop_size: 10 mirror: true", batch_size=30, context_pad=2)
    assert len(result) == 2
    for image in result:
        assert np.array_equal(image, plain) or np.array_equal(image, plain[:, ::-1])


def test_windows_that_pass_the_border(crop):
    """6 columns in 3 pixels: 1 outside is 0.5 -> 1, 5 inside 2.5 -> 3, cut to 2. Of 101 columns 1 keeps a pixel."""
    result, = crop("-1 0 4 5", "crop_size: 3")
    np.testing.assert_array_equal(result[:, 1:], resized(slice(0, 6), slice(0, 5), 3, 2))
    assert not result[:, 0].any()
    result, = crop("-100 0 0 9")
    assert not result[:, :9].any()
    np.testing.assert_array_equal(result[:, 9], pixels(0)[:10, 0])
    result, = crop("59 39 159 139")
    np.testing.assert_array_equal(result[0, 0], pixels(0)[39, 59])
    assert not result.reshape(-1, 3)[1:].any()


# --- mean and scale

@pytest.fixture
def mean(here):
    values = np.random.default_rng(8).normal(100, 20, (1, 3, 13, 17)).astype(np.float32)
    write_binary(arrays.to_proto(values), "mean")
    return values[0].transpose(1, 2, 0)


def test_the_mean_image_s_center_is_subtracted_where_a_pixel_goes(crop, mean):
    """Rows 1 .. 10 and columns 3 .. 12 of 13 x 17; it is not mirrored with the window, as in Caffe."""
    result, = crop("10 5 29 24", "crop_size: 10 mean_file: 'mean'", context_pad=2)
    patch = resized(slice(0, 33), slice(3, 38), 9, 10)
    np.testing.assert_array_equal(result[1:], patch - mean[2:11, 3:13])
    assert not result[0].any()
    both = crop("10 5 29 24", "crop_size: 10 mean_file: 'mean' mirror: true", batch_size=30, context_pad=2)
    mirrored = [image for image in both if not np.array_equal(image, result)]
    assert len(both) == 2
    np.testing.assert_array_equal(mirrored[0][1:], patch[:, ::-1] - mean[2:11, 3:13])


def test_the_mean_image_can_be_warped(crop, mean):
    result, = crop("10 5 29 24", "crop_size: 20 mean_file: 'mean' mean_mode: WARP")
    np.testing.assert_array_equal(result, pixels(0)[5:25, 10:30] - cv2.resize(mean, (20, 20)))


@pytest.mark.parametrize("transform, fields", [
    ("crop_size: 20 scale: 0.25", {}), ("crop_size: 20", {"scale": 0.25}),
    ("crop_size: 20 scale: 0.25", {"scale": 0.25}), ("", {"scale": 0.25, "crop_size": 20})])
def test_scale_and_crop_size_in_either_place(crop, transform, fields):
    result, = crop("10 5 29 24", transform, **fields)
    np.testing.assert_array_equal(result, pixels(0)[5:25, 10:30] / 4)


def test_the_crop_is_mirrored_in_both_phases(crop):
    for phase in (TRAIN, TEST):
        assert len(crop("10 5 29 24", "crop_size: 10 mirror: true", batch_size=30, phase=phase)) == 2
        assert len(crop("10 5 29 24", batch_size=30, phase=phase)) == 1


def test_one_channel(here):
    cv2.imwrite("gray.png", pixels(0)[:, :, 0])
    (here / "w").write_text("# 0\ngray.png\n1 40 60 1\n1 1 10 5 29 24")
    one = OneLayer("type: 'WindowData' transform_param { crop_size: 20 mean_value: 9 } window_data_param { "
                   "source: 'w' batch_size: 1 fg_fraction: 1 }", tops=2, dtype=np.float32)
    np.testing.assert_array_equal(one.forward()[0], pixels(0)[None, None, 5:25, 10:30, 0] - 9.0)
    one.layer.close()


# --- what is wrong

TEXT = ("layer { name: 'w' type: 'WindowData' top: 'data' top: 'label' transform_param { crop_size: 10 } "
        "window_data_param { source: 'windows' batch_size: 8 fg_threshold: 0.6 root_folder: '' } }")
USED = "scale, mirror, crop_size, mean_file, mean_value, mean_mode"


@pytest.mark.parametrize("old, new, message", [
    ("source: 'windows'", "", "window_data_param needs a source, a window file, and has none"),
    ("crop_size: 10", "", r"transform_param needs crop_size, the side of the warped windows; set it \(R-CNN: 227\)"),
    ("batch_size: 8", "", "batch_size must be at least 1, found 0"),
    ("batch_size: 8", "batch_size: 8 context_pad: 5", "context_pad 5 on both sides leaves nothing of crop_size 10;"),
    ("batch_size: 8", "batch_size: 8 crop_mode: 'wrap'", "unknown crop_mode 'wrap'; known: warp, square"),
    ("batch_size: 8", "batch_size: 8 fg_fraction: 1.5", "fg_fraction must be 0 to 1, found 1.5"),
    ("batch_size: 8", "batch_size: 8 fg_fraction: -1", "fg_fraction must be 0 to 1, found -1"),
    ("crop_size: 10", "crop_size: 10 resize_short: 20 force_gray: true",
     rf"transform_param: windows take no force_gray, resize_short; drop it \(they take {USED}\)"),
    ("crop_size: 10", "crop_size: 10 mean_file: 'm' mean_value: 1", "cannot specify mean_file and mean_value at the"),
    ("crop_size: 10", "crop_size: 10 mean_value: 1 mean_value: 2", "mean_value is given 2 times; specify either 1 "
                                                                   "mean_value or as many as the image has channels"),
    ("crop_size: 10", "crop_size: 10 mean_file: 'm'", "mean_file 'm' not found"),
    ("crop_size: 10", "crop_size: 15 mean_file: 'mean'", "mean_file 'mean' is 13 x 17 pixels, smaller than crop_size "
                                                         "15; set transform_param's mean_mode: WARP"),
    ("crop_size: 10", "crop_size: 10 mean_file: 'gray'", r"mean_file 'gray' has 1 channel\(s\), and the window file's "
                                                         "images 3"),
    ("fg_threshold: 0.6", "fg_threshold: 1.1", r"window file 'windows' has no foreground window \(overlap at least "
                                               r"fg_threshold 1.1\), and a batch needs 2; change fg_threshold or"),
    ("fg_threshold: 0.6", "bg_threshold: 0", r"window file 'windows' has no background window \(overlap below "
                                             r"bg_threshold 0\), and a batch needs 6; change bg_threshold or fg_"),
    ("fg_threshold: 0.6", "fg_threshold: 0", r"windows:10: a foreground window \(its overlap reaches fg_threshold 0\) "
                                             "needs a class of 1 or more, found 0"),
    ("root_folder: ''", "root_folder: 'x/'", r"windows:\d+: image 'x/photos/\d.png': cannot be read: No such file"),
    ("'windows'", "'sizes'", r"sizes:\d+: image 'photos/\d.png': is 40 x 60 pixels \(height x width\), but the window "
                             "file says 41 x 60; correct it"),
    ("'windows'", "'damaged'", r"damaged:\d+: image 'windows': cannot be decoded as an image"),
    ("top: 'label'", "", r"takes exactly 2 top blob\(s\), found 1")])
def test_what_goes_wrong_says_where_and_why(here, mean, old, new, message):
    write_binary(arrays.to_proto(np.ones((1, 1, 10, 10), np.float32)), "gray")
    (here / "sizes").write_text(WINDOWS.replace("40\n60\n", "41\n60\n").replace("1.000", "0.550"))
    (here / "damaged").write_text(WINDOWS.replace("photos/0.png", "windows").replace("photos/1.png", "windows"))
    assert TEXT.count(old) == 1
    with pytest.raises(SppError, match=r"layer 'w' \(WindowData\): .*" + message) as error:
        with Net(parse_net(TEXT.replace(old, new)), TEST) as net:
            net.forward()
    assert "\n" not in str(error.value)
