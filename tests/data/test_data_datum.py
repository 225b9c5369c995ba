"""Images and Datum: bytes as the reference writes them, pixels as it reads them."""
import os
import struct

import cv2
import numpy as np
import pytest

import golden
from spp.data import datum, images, listing
from spp.data.datum import DatumImages
from spp.errors import DataError
from spp.proto.caffe_pb2 import Datum

RNG = np.random.default_rng(1)
COLOR = RNG.integers(0, 256, (5, 7, 3), np.uint8)
GRAY = RNG.integers(0, 256, (5, 7, 1), np.uint8)
LIST = listing.read_list(golden.path("data", "list.txt"))


def png(image):
    return cv2.imencode(".png", image)[1].tobytes()


def file(name):
    with open(golden.path("data", "images", name), "rb") as opened:
        return opened.read()


@pytest.mark.parametrize("number", range(12))
def test_records_are_those_of_the_reference_byte_for_byte(number):
    name, label = LIST[number]
    raw, encoded = (DatumImages(golden.path("data", f"{kind}_lmdb")) for kind in ("raw", "encoded"))
    image = images.decode(file(name), True)
    assert raw.database.value(number) == datum.raw(images.resize(image, 24, 30), label)
    assert encoded.database.value(number) == datum.encoded(file(name), label)
    assert raw.database.key(number) == encoded.database.key(number) == b"%08d_%s" % (number, name.encode())
    result, result_label = encoded.read(number)
    np.testing.assert_array_equal(result, image)
    assert result_label == label and raw.read(number)[0].shape == (24, 30, 3)
    assert raw.name(number) == f"record '{number:08d}_{name}' of LMDB '{golden.path('data', 'raw_lmdb')}'"
    raw.close()
    encoded.close()


@pytest.mark.parametrize("image", [COLOR, GRAY, RNG.integers(0, 256, (3, 4, 5), np.uint8)])
def test_raw_there_and_back(image):
    message = Datum.FromString(datum.raw(image, -3))
    assert (message.channels, message.height, message.width) == (image.shape[2], *image.shape[:2])
    assert message.data[1] == image[0, 1, 0] and message.HasField("encoded") and not message.encoded
    result, label = datum.decode(message.SerializeToString())
    np.testing.assert_array_equal(result, image)
    assert label == -3 and result.dtype == np.uint8 and result.flags.c_contiguous


def test_floats():
    values = RNG.normal(size=(3, 2, 4)).astype(np.float32)
    message = Datum(channels=3, height=2, width=4, float_data=values.ravel(), label=5)
    result, label = datum.decode(message.SerializeToString())
    np.testing.assert_array_equal(result, values.transpose(1, 2, 0))
    assert label == 5 and result.dtype == np.float32


@pytest.mark.parametrize("image, color, expected", [
    (COLOR, None, COLOR), (COLOR, True, COLOR),
    (COLOR, False, cv2.cvtColor(COLOR, cv2.COLOR_BGR2GRAY)[:, :, None]),
    (GRAY, None, GRAY), (GRAY, True, np.repeat(GRAY, 3, 2)), (GRAY, False, GRAY),
    (np.dstack([COLOR, GRAY]), None, COLOR), (np.dstack([COLOR, GRAY]), True, COLOR),
    (COLOR.astype(np.uint16) * 257, None, COLOR)])
def test_encoded_images_have_their_own_channels_or_those_asked_for(image, color, expected):
    result, label = datum.decode(datum.encoded(png(image), 9), color)
    # PNG's own way to gray rounds a little differently from OpenCV's
    np.testing.assert_allclose(result.astype(int), expected, 0, int(color is False))
    assert label == 9 and result.dtype == np.uint8 and result.shape == expected.shape


def test_raw_images_with_the_channels_asked_for():
    np.testing.assert_array_equal(datum.decode(datum.raw(COLOR, 0), True)[0], COLOR)
    np.testing.assert_array_equal(datum.decode(datum.raw(GRAY, 0), False)[0], GRAY)


def test_a_photo_is_turned_as_its_exif_says():
    plane = np.arange(64, dtype=np.uint8).reshape(8, 8).repeat(2, 1) * 3
    jpeg = images.encode(np.dstack([plane] * 3), "jpg")
    entry = struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)       # orientation: turn to the right
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + entry
    turned = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    straight = images.decode(jpeg)
    assert straight.shape == (8, 16, 3)
    for color in (None, True):
        np.testing.assert_array_equal(images.decode(turned, color), np.rot90(straight, -1))


@pytest.mark.parametrize("record, color, message", [
    (b"hello", None, r"is not a Datum \(5 bytes\); build the database with tools/convert_imageset"),
    (b"", None, r"its Datum says 0 x 0 x 0 \(channels x height x width\) and holds 0 values"),
    (Datum(channels=3, height=2, width=2, data=b"12345678901").SerializeToString(), None,
     r"its Datum says 3 x 2 x 2 \(channels x height x width\) and holds 11 values; build"),
    (datum.encoded(b"no image", 0), None, r"cannot be decoded as an image \(8 bytes\); it is damaged"),
    (datum.encoded(b"", 0), None, r"cannot be decoded as an image \(0 bytes\)"),
    (datum.encoded(png(COLOR)[:60], 0), None, "cannot be decoded as an image"),
    (datum.raw(GRAY, 0), True, r"force_color is for encoded images, and this one is raw, with 1 "
                               r"channel\(s\); drop it, or build the database without --gray"),
    (datum.raw(COLOR, 0), False, r"force_gray is for encoded images, .* 3 channel\(s\); .* with --gray")])
def test_records_that_cannot_be_read(record, color, message):
    with pytest.raises(DataError, match=message) as error:
        datum.decode(record, color)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size, short, expected", [
    ((333, 500), 256, (256, 384)), ((500, 333), 256, (384, 256)), ((3, 2), 5, (8, 5)), ((7, 7), 3, (3, 3)),
    ((1, 1000), 2, (2, 2000)), ((1000, 3), 2, (667, 2)), ((375, 500), 375, (375, 500))])
def test_the_size_for_a_shorter_side(size, short, expected):
    assert images.short_size(size[0], size[1], short) == expected


def test_resizing_is_bilinear():
    image = np.array([[0, 40, 10, 30], [20, 80, 70, 90]], np.uint8)[:, :, None]
    # means of 2 x 2 pixels
    np.testing.assert_array_equal(images.resize(image, 1, 2)[:, :, 0], [[35, 50]])
    np.testing.assert_array_equal(images.resize_short(image, 1)[:, :, 0], [[35, 50]])
    wide = images.resize(np.array([[0, 100]], np.float32)[:, :, None], 1, 4)
    np.testing.assert_array_equal(wide[:, :, 0], [[0, 25, 75, 100]])
    assert images.resize(COLOR, 5, 7) is COLOR
    assert images.resize(np.zeros((4, 4, 5), np.uint8), 2, 3).shape == (2, 3, 5)


def test_flipping():
    for image in (COLOR, GRAY, COLOR.astype(np.float32)):
        np.testing.assert_array_equal(images.flip(image), image[:, ::-1])


def test_list_files(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"a b.jpg 3\r\n\n  c.jpg   -1 \nn\xe9.jpg 2147483647")
    assert listing.read_list(str(path)) == [("a b.jpg", 3), ("c.jpg", -1), ("n\udce9.jpg", 2147483647)]


@pytest.mark.parametrize("line", ["a.jpg", "a.jpg x", "7", "a.jpg 2147483648", "a.jpg 1.5"])
def test_bad_lines_of_list_files(tmp_path, line):
    path = tmp_path / "list.txt"
    path.write_text(f"good.jpg 1\n{line}\n")
    message = f"list.txt:2: expected `path label`, the label a whole number, found '{line}'"
    with pytest.raises(DataError, match=message):
        listing.read_list(str(path))


def test_bad_list_files(tmp_path):
    path = tmp_path / "list.txt"
    with pytest.raises(DataError, match="list file '.*list.txt' cannot be read: No such file"):
        listing.read_list(str(path))
    path.write_text("\n\n")
    with pytest.raises(DataError, match="list file '.*list.txt' is empty; give a text file of `path label`"):
        listing.read_list(str(path))


def test_class_folders(tmp_path):
    with pytest.raises(DataError, match="has no class folders; create one per class, or give a list file"):
        listing.list_folders(str(tmp_path))
    for name in ("dog/2.jpg", "dog/10.jpg", "cat/deep/x.png", "cat/a b.jpg", "cat/.hidden", ".git/x",
                 "beside.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    entries, names = listing.list_folders(str(tmp_path))
    assert names == ["cat", "dog"]
    assert entries == [("cat/a b.jpg", 0), ("cat/deep/x.png", 0), ("dog/10.jpg", 1), ("dog/2.jpg", 1)]
    os.mkdir(tmp_path / "empty")
    with pytest.raises(DataError, match="class folder '.*empty' is empty; put images there, or remove it"):
        listing.list_folders(str(tmp_path))
