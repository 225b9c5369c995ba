"""What a transform_param does to one image, rule by rule, against values worked out by hand."""
from collections import Counter

import cv2
import numpy as np
import pytest

from spp.backend import host
from spp.data.pixels import Pixels
from spp.data.transform import EIGENVALUES, EIGENVECTORS, RECORDS, Transformer, generator
from spp.errors import DataError, ProtoError
from spp.layers import TEST, TRAIN
from spp.proto import arrays, binary
from spp.proto.text import parse_net

IMAGE = np.arange(7 * 9 * 3, dtype=np.uint8).reshape(7, 9, 3)      # every value once
FLAT = np.full((6, 5, 3), 100, np.uint8)


def transformer(text, phase=TEST):
    layer = parse_net(f"layer {{ name: 'd' transform_param {{ {text} }} }}").layer[0]
    return Transformer(layer.transform_param, phase)


def apply(transform, image, number=0, epoch=0, seed=0):
    """The output for running record `number`."""
    size = transform.size(epoch, seed)
    out = np.full(transform.shape(image.shape, size), np.nan, np.float32)
    transform.write(image, out, generator(seed, RECORDS, number), size)
    return out


def many(text, image=IMAGE, phase=TRAIN, count=2000):
    transform = transformer(text, phase)
    return [apply(transform, image, number) for number in range(count)]


def even(counts, kinds):
    """Whether every one of `kinds` values came about equally often (5 standard deviations)."""
    total = sum(counts.values())
    expected = total / kinds
    return len(counts) == kinds and all(abs(n - expected) < 5 * expected ** 0.5 for n in counts.values())


@pytest.fixture
def mean_file(tmp_path):
    def write(image):
        path = str(tmp_path / "mean.binaryproto")
        binary.write_binary(arrays.to_proto(image.astype(np.float32).transpose(2, 0, 1), legacy=True), path)
        return path
    return write


# --- Caffe's rules

def test_nothing():
    for image in (IMAGE, IMAGE[:, :, :1], IMAGE[:, :, :2], IMAGE.astype(np.float32) / 7,
                  np.zeros((1, 1, 600), np.uint8)):
        result = apply(transformer(""), image)
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, image.astype(np.float32))


@pytest.mark.parametrize("crop, top, left", [(4, 1, 2), (7, 0, 1), (5, 1, 2), (1, 3, 4)])
def test_the_crop_of_a_test_is_the_centre_rounded_down(crop, top, left):
    for mode in ("", "crop_mode: CORNERS"):
        result = apply(transformer(f"crop_size: {crop} {mode}"), IMAGE)
        np.testing.assert_array_equal(result, IMAGE[top:top + crop, left:left + crop])


def test_the_crop_of_training_is_anywhere():
    places: Counter[tuple[int, int]] = Counter()
    for result in many("crop_size: 4"):
        top, left = divmod(int(result[0, 0, 0]) // 3, 9)
        np.testing.assert_array_equal(result, IMAGE[top:top + 4, left:left + 4])
        places[top, left] += 1
    assert even(places, 4 * 6)


@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_half_of_the_images_are_mirrored_in_both_phases(phase):
    mirrored: Counter[bool] = Counter()
    for result in many("mirror: true", phase=phase):
        which = bool(result[0, 0, 0])
        np.testing.assert_array_equal(result, IMAGE[:, ::-1] if which else IMAGE)
        mirrored[which] += 1
    assert even(mirrored, 2)


def test_mean_values_and_scale():
    result = apply(transformer("mean_value: 1 mean_value: 2.5 mean_value: -3 scale: 0.5"), IMAGE)
    np.testing.assert_array_equal(result[2, 1], [(57 - 1) * 0.5, (58 - 2.5) * 0.5, (59 + 3) * 0.5])
    np.testing.assert_array_equal(result, (IMAGE - [1, 2.5, -3]) * 0.5)
    np.testing.assert_array_equal(apply(transformer("mean_value: 128"), IMAGE), IMAGE - 128.0)
    np.testing.assert_array_equal(apply(transformer("scale: 3"), IMAGE), IMAGE * 3.0)


def test_the_mean_image_is_read_at_the_crop_and_before_the_mirror(mean_file):
    mean = np.random.default_rng(0).normal(100, 30, IMAGE.shape).astype(np.float32)
    text = f"mean_file: '{mean_file(mean)}' scale: 0.25"
    np.testing.assert_array_equal(apply(transformer(text), IMAGE), (IMAGE - mean) * np.float32(0.25))
    plain = many("crop_size: 4 mirror: true", count=200)
    for image, result in zip(plain, many(f"crop_size: 4 mirror: true {text}", count=200)):
        top, left = divmod(int(image.min()) // 3, 9)
        expected = (IMAGE.astype(np.float32) - mean)[top:top + 4, left:left + 4]
        mirrored = image[0, 0, 0] > image[0, 3, 0]
        np.testing.assert_array_equal(result, (expected[:, ::-1] if mirrored else expected) * np.float32(0.25))


def test_how_encoded_images_are_to_be_decoded():
    result = [transformer(text).color for text in ("", "force_color: true", "force_gray: true")]
    assert result == [None, True, False]


# --- the paper's

def test_the_shorter_side():
    image = np.random.default_rng(0).integers(0, 256, (30, 41, 3), np.uint8)
    result = apply(transformer("resize_short: 15"), image)
    np.testing.assert_array_equal(result, cv2.resize(image, (21, 15), interpolation=cv2.INTER_LINEAR))
    result = apply(transformer("resize_short: 15 crop_size: 11"), image)
    np.testing.assert_array_equal(result, cv2.resize(image, (21, 15))[2:13, 5:16])
    assert transformer("resize_short: 15").shape((41, 30, 1), 0) == (21, 15, 1)


def test_the_shorter_side_by_hand():
    image = np.array([[0, 40, 10, 30, 4, 8], [20, 80, 70, 90, 0, 0]], np.uint8)[:, :, None]
    np.testing.assert_array_equal(apply(transformer("resize_short: 1"), image)[:, :, 0], [[35, 50, 3]])


def test_corners_of_the_whole_image():
    places: Counter[tuple[int, int]] = Counter()
    for result in many("crop_size: 4 crop_mode: CORNERS"):
        top, left = divmod(int(result[0, 0, 0]) // 3, 9)
        np.testing.assert_array_equal(result, IMAGE[top:top + 4, left:left + 4])
        places[top, left] += 1
    assert set(places) == {(1, 2), (0, 0), (0, 5), (3, 0), (3, 5)} and even(places, 5)


def test_the_crop_is_resized_to_the_size_of_the_epoch():
    rows = [0, 40, 10, 30, 99], [20, 80, 70, 90, 99], [1, 3, 8, 8, 99], [5, 7, 8, 8, 99]
    image = np.array(rows, np.uint8)[:, :, None]
    text = "crop_size: 4 crop_mode: CORNERS size_param { size: 4 size: 2 size: 1 }"
    result = {apply(transformer(text, TRAIN), image, number, epoch=1).tobytes() for number in range(50)}
    left = np.array([[35, 50], [4, 8]], np.float32)
    right = cv2.resize(image[:, 1:], (2, 2)).astype(np.float32)
    assert result == {left.tobytes(), right.tobytes()}
    assert apply(transformer(text, TEST), image, epoch=1).shape == (4, 4, 1)


def test_one_epoch_a_size():
    transform = transformer("crop_size: 224 size_param { size: 224 size: 180 size: 200 }", TRAIN)
    assert [transform.size(epoch, 0) for epoch in range(7)] == [224, 180, 200, 224, 180, 200, 224]
    assert transform.shape((300, 400, 3), 180) == (180, 180, 3)
    assert transformer("crop_size: 224 size_param { size: 180 }", TEST).size(0, 0) == 224
    assert transformer("crop_size: 224", TRAIN).size(3, 0) == 224 and transformer("", TRAIN).size(3, 0) == 0


def test_a_random_size_an_epoch():
    transform = transformer("crop_size: 224 size_param { size: 180 size: 184 schedule: UNIFORM }", TRAIN)
    sizes = [transform.size(epoch, 7) for epoch in range(1000)]
    assert even(Counter(sizes), 5) and set(sizes) == set(range(180, 185))
    assert sizes == [transform.size(epoch, 7) for epoch in range(1000)]
    assert sizes != [transform.size(epoch, 8) for epoch in range(1000)]


def test_colour_altering_by_hand():
    """Columns are eigenvectors, rows B, G, R; the shift comes before mean and scale."""
    text = ("scale: 0.5 mean_value: 20 color_param { std: 0.2 eigenvalue: 10 eigenvalue: 0 eigenvalue: 0 "
            + " ".join(f"eigenvector: {v}" for v in range(1, 10)) + " }")
    factors = []
    for result in many(text, FLAT, count=3000):
        shift = result / 0.5 + 20 - 100
        assert np.ptp(result, (0, 1)).max() == 0
        np.testing.assert_allclose(shift[0, 0], shift[0, 0, 0] * np.array([1, 4, 7]), 1e-4, 1e-4)
        factors.append(shift[0, 0, 0] / 10)
    assert abs(np.mean(factors)) < 0.2 / 3000 ** 0.5 * 5 and abs(np.std(factors) - 0.2) < 0.01


def test_colour_altering_has_the_statistics_of_ilsvrc():
    shifts = np.array([result[0, 0] - 100 for result in many("color_param {}", FLAT, count=6000)])
    vectors, values = np.reshape(EIGENVECTORS, (3, 3)), np.array(EIGENVALUES)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), 0, 1e-3)     # a rotation, rows and columns
    covariance = 0.01 * vectors @ np.diag(values ** 2) @ vectors.T
    np.testing.assert_allclose(np.cov(shifts.T), covariance, 0.06, 0.03)
    np.testing.assert_allclose(shifts.mean(0), 0, 0, 0.3)
    assert np.std(shifts @ vectors, 0) == pytest.approx(0.1 * values, rel=0.05)


@pytest.mark.parametrize("text, phase", [("color_param {}", TEST), ("color_param { std: 0 }", TRAIN),
                                         ("", TRAIN)])
def test_no_colour_altering(text, phase):
    np.testing.assert_array_equal(apply(transformer(text, phase), FLAT), FLAT)


def test_the_mean_warped_to_the_crop(mean_file):
    path = mean_file(np.array([[[0], [40]], [[0], [40]]]).repeat(3, 2))
    ramp = np.repeat([[0, 10, 30, 40]], 4, 0)[:, :, None]
    text = f"crop_size: 4 mirror: true mean_mode: WARP mean_file: '{path}'"
    for plain, result in zip(many("crop_size: 4 mirror: true", count=20), many(text, count=20)):
        mirrored = plain[0, 0, 0] > plain[0, 3, 0]
        np.testing.assert_array_equal(result, plain - (ramp[:, ::-1] if mirrored else ramp))


def test_the_mean_warped_to_a_whole_image_and_to_a_size(mean_file):
    mean = np.random.default_rng(0).normal(100, 30, (6, 6, 3)).astype(np.float32)
    text = f"mean_mode: WARP mean_file: '{mean_file(mean)}'"
    np.testing.assert_array_equal(apply(transformer(text), IMAGE), IMAGE - cv2.resize(mean, (9, 7)))
    result = apply(transformer(f"crop_size: 4 size_param {{ size: 3 }} {text}", TRAIN), FLAT)
    np.testing.assert_array_equal(result, 100 - cv2.resize(mean, (3, 3)))


def test_the_mean_under_the_crop_is_resized_with_it(mean_file):
    mean = np.arange(30, dtype=np.float32).reshape(6, 5, 1).repeat(3, 2)
    text = f"crop_size: 4 mirror: true size_param {{ size: 2 }} mean_file: '{mean_file(mean)}'"
    transform = transformer(text, TRAIN)
    seen = set()
    for number in range(100):
        down_right = 100 - apply(transform, FLAT, number)[:, :, 0]
        seen.add(tuple(down_right.ravel()))
    # means of 2 x 2 pixels of a plane that rises by 5 a row and 1 a column, from 3 x 2 places; mirrors
    base = np.array([3, 5, 13, 15])
    straight = {tuple(base + 5 * row + column) for row in range(3) for column in range(2)}
    assert seen == straight | {(b, a, d, c) for a, b, c, d in straight}


def test_a_whole_mean_image_for_a_mirrored_image(mean_file):
    mean = np.random.default_rng(0).normal(100, 30, IMAGE.shape).astype(np.float32)
    for result in many(f"mirror: true mean_file: '{mean_file(mean)}'", count=20):
        straight = IMAGE - mean
        assert (result == straight).all() or (result == straight[:, ::-1]).all()


# --- what is left to a backend

@pytest.mark.parametrize("text", [
    "", "scale: 0.017", "mirror: true", "crop_size: 4 mirror: true mean_value: 0.1", "mean_value: 9 crop_size: 7",
    "crop_size: 4 mean_value: 1.1 mean_value: 2.5 mean_value: -3 scale: 3", "mirror: true MEAN scale: 0.017",
    "crop_size: 4 mirror: true MEAN scale: 0.3 color_param { std: 0.5 }",
    "crop_size: 5 mirror: true MEAN mean_mode: WARP",
    "resize_short: 11 crop_size: 8 mirror: true color_param {} MEAN mean_mode: WARP size_param { size: 6 }",
    "resize_short: 11 crop_size: 8 crop_mode: CORNERS mirror: true mean_value: 100 size_param { size: 9 }"])
@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_staged_images_become_the_same_bit_for_bit(mean_file, text, phase):
    mean = np.random.default_rng(0).normal(100, 30, IMAGE.shape)
    transform = transformer(text.replace("MEAN", f"mean_file: '{mean_file(mean)}'"), phase)
    size = transform.size(0, 0)
    assert transform.stages(size)
    expected = np.array([apply(transform, IMAGE, number) for number in range(30)])
    pixels: Pixels = transform.pixels(np.empty(expected.shape, np.uint8))
    for number in range(30):
        transform.stage(IMAGE, pixels, number, generator(0, RECORDS, number), size)
    assert pixels.images.dtype == np.uint8 and pixels.shape == expected.transpose(0, 3, 1, 2).shape
    result = np.empty(pixels.shape, np.float32)
    host.transform(*pixels.arrays, pixels.mean, pixels.scale, result)
    np.testing.assert_array_equal(result, expected.transpose(0, 3, 1, 2))


def test_images_that_need_means_of_their_own_are_not_staged(mean_file):
    mean = f"mean_file: '{mean_file(IMAGE)}'"
    transform = transformer(f"crop_size: 4 {mean} size_param {{ size: 4 size: 3 }}", TRAIN)
    assert [transform.stages(transform.size(epoch, 0)) for epoch in range(2)] == [True, False]
    assert not transformer(f"{mean} mean_mode: WARP").stages(0) and transformer(mean).stages(0)


# --- draws

def test_draws_depend_on_seed_and_record_alone():
    transform = transformer("crop_size: 4 mirror: true color_param {}", TRAIN)
    results = [apply(transform, IMAGE, number, seed=5) for number in range(20)]
    for number in reversed(range(20)):
        np.testing.assert_array_equal(apply(transform, IMAGE, number, seed=5), results[number])
    assert len({image.tobytes() for image in results}) == 20
    assert any((apply(transform, IMAGE, number, seed=6) != results[number]).any() for number in range(3))
    keys = (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0), (2 ** 63, 0, 0)
    streams = [generator(*key).integers(2 ** 62, size=1000) for key in keys]
    assert len(np.unique(streams)) == 5000      # not even overlapping


# --- what cannot be

@pytest.mark.parametrize("text, message", [
    ("mean_file: 'm' mean_value: 1", "cannot specify mean_file and mean_value at the same time"),
    ("force_color: true force_gray: true", "cannot set force_color and force_gray at the same time"),
    ("mean_file: 'no.binaryproto'", r"mean_file 'no.binaryproto' not found \(looked from /.*\); make it from "
                                    "the training database with tools/compute_image_mean DB no.binaryproto"),
    ("crop_size: 224 resize_short: 223", "resize_short 223 is smaller than crop_size 224; set it to 224"),
    ("size_param { size: 180 }", "size_param needs crop_size, the region that is resized to each size"),
    ("crop_size: 4 size_param {}", "needs one size or more, each at least 1 pixel; found none"),
    ("crop_size: 4 size_param { size: 3 size: 0 }", "each at least 1 pixel; found 3, 0"),
    ("crop_size: 4 size_param { size: 3 schedule: UNIFORM }", "UNIFORM takes two sizes, the smallest and the "
                                                              "largest; found 3$"),
    ("crop_size: 4 size_param { size: 4 size: 3 schedule: UNIFORM }", "the largest; found 4, 3"),
    ("color_param { eigenvalue: 1 eigenvalue: 2 eigenvalue: 3 }", "3 eigenvalue and 9 eigenvector entries"
                                                                  ", or none for .* ILSVRC; found 3 and 0"),
    ("color_param { std: -0.1 }", "std must be at least 0, found -0.1")])
def test_fields_that_contradict_each_other(text, message):
    with pytest.raises(DataError, match=message) as error:
        transformer(text, TRAIN)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text, image, message", [
    ("crop_size: 8", IMAGE, r"crop_size 8 is larger than the image of 7 x 9 pixels \(height x width\); set "
                            "transform_param's resize_short to 8 or more"),
    ("crop_size: 8", IMAGE.transpose(1, 0, 2), "larger than the image of 9 x 7 pixels"),
    ("mean_value: 1 mean_value: 2", IMAGE, "mean_value is given 2 times; specify either 1 mean_value or as "
                                           "many as the image has channels: 3"),
    ("color_param {}", IMAGE[:, :, :1], "color_param needs images of 3 channels, and this one has 1")])
def test_images_that_do_not_fit(text, image, message):
    with pytest.raises(DataError, match=message) as error:
        apply(transformer(text, TRAIN), image)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("image, extra, message", [
    (IMAGE[:6], "", r"mean_file '.*' is 7 x 9 and the image 6 x 9 pixels \(height x width\); set "
                    "transform_param's mean_mode: WARP, or compute the mean from this database with tools/"),
    (IMAGE[:6], "crop_size: 4", "is 7 x 9 and the image 6 x 9"),
    (IMAGE, "resize_short: 14", "is 7 x 9 and the image 14 x 18"),
    (IMAGE[:, :, :1], "mean_mode: WARP", r"mean_file '.*' has 3 channel\(s\) and the image 1; compute it")])
def test_mean_images_that_do_not_fit(mean_file, image, extra, message):
    with pytest.raises(DataError, match=message):
        apply(transformer(f"mean_file: '{mean_file(IMAGE)}' {extra}"), image)


def test_files_that_are_no_mean(tmp_path):
    path = str(tmp_path / "mean.binaryproto")
    binary.write_binary(arrays.to_proto(np.ones((2, 3), np.float32)), path)
    with pytest.raises(DataError, match="has the shape 2 x 3; expected 1 x channels x height x width"):
        transformer(f"mean_file: '{path}'")
    binary.write_binary(arrays.to_proto(np.ones((2, 3, 4, 5), np.float32)), path)
    with pytest.raises(DataError, match="has the shape 2 x 3 x 4 x 5"):
        transformer(f"mean_file: '{path}'")
    with open(path, "wb") as file:
        file.write(b"nonsense")
    with pytest.raises(ProtoError, match="mean.binaryproto"):
        transformer(f"mean_file: '{path}'")


def test_a_mean_of_another_shape(tmp_path):
    path = str(tmp_path / "mean.binaryproto")
    values = IMAGE.transpose(2, 0, 1).astype(np.float64)
    binary.write_binary(arrays.to_proto(values), path)      # `shape`, not num, channels, ...; doubles
    assert (apply(transformer(f"mean_file: '{path}'"), IMAGE) == 0).all()
