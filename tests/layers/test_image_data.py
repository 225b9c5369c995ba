"""ImageData: images from a list, against the reference's own batches; order, sizes, and what goes wrong."""
import cv2
import numpy as np
import pytest

import golden
from one_layer import OneLayer
from spp.errors import DataError, SppError
from spp.layers import TEST, TRAIN
from spp.net import Net
from spp.proto.text import parse_net

BATCHES = np.load(golden.path("data", "batches.npz"))


def pixels(index, height=6, width=5):
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Seven PNG files, photos/0.png .. 6.png of classes 10 .. 16, and their list, with an empty line in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(7):
        cv2.imwrite(f"photos/{i}.png", pixels(i))
    (tmp_path / "list.txt").write_text("0.png 10\n\n" + "".join(f"{i}.png {10 + i}\n" for i in range(1, 7)))
    return tmp_path


@pytest.fixture
def make(photos):
    nets = []

    def layer(data="batch_size: 3", transform="", phase=TEST, tops=2, source="list.txt", root="photos/", seed=0):
        nets.append(OneLayer(f"type: 'ImageData' transform_param {{ {transform} }} image_data_param {{ "
                             f"source: '{source}' root_folder: '{root}' {data} }}", phase=phase, tops=tops, seed=seed))
        return nets[-1]

    yield layer
    for one in nets:
        one.layer.close()


def labels(one, count):
    return [list(one.forward()[1] - 10) for _ in range(count)]


def test_batches_are_those_of_the_reference(monkeypatch):
    monkeypatch.chdir(golden.path("data"))
    with Net("image_data.prototxt", TEST) as net:
        for batch in range(4):
            net.forward()
            for top in ("data", "label"):
                np.testing.assert_array_equal(net.blobs[top].data, BATCHES[f"image_data/{batch}/{top}"])


def test_images_in_the_order_of_the_list_round_and_round(make):
    one = make()
    batches = [one.forward() for _ in range(3)]
    assert [list(label) for _, label in batches] == [[10, 11, 12], [13, 14, 15], [16, 10, 11]]
    for i in range(9):
        np.testing.assert_array_equal(batches[i // 3][0][i % 3], pixels(i % 7).transpose(2, 0, 1))


def test_the_label_is_optional_and_a_slash_after_a_root_folder_too(make):
    np.testing.assert_array_equal(make(tops=1, root="photos").forward(), make().forward()[0])


def test_the_root_folder_goes_straight_before_the_path(make, photos):
    (photos / "rest.txt").write_text("s/4.png 3\n")
    data, label = make("batch_size: 1", source="rest.txt", root="photo").forward()
    assert list(label) == [3]
    np.testing.assert_array_equal(data[0], pixels(4).transpose(2, 0, 1))


def test_sizes_and_channels(make):
    data, _ = make("batch_size: 2 new_height: 3 new_width: 9").forward()
    expected = cv2.resize(pixels(1), (9, 3), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(data[1], expected.transpose(2, 0, 1))
    gray = cv2.imread("photos/0.png", cv2.IMREAD_GRAYSCALE)
    for one in (make("is_color: false"), make(transform="force_gray: true")):
        np.testing.assert_array_equal(one.forward()[0][0, 0], gray)
        assert one.top[0].shape[1] == 1


def test_the_batch_has_the_shape_of_its_image(make, photos):
    cv2.imwrite("photos/1.png", pixels(1, 4, 8))
    one = make("")                                  # batch_size is 1 unless it is given
    assert [one.forward()[0].shape for _ in range(3)] == [(1, 3, 6, 5), (1, 3, 4, 8), (1, 3, 6, 5)]
    assert make("batch_size: 7 new_height: 5 new_width: 5").forward()[0].shape == (7, 3, 5, 5)
    with pytest.raises(DataError, match=r"list.txt:3: image 'photos/1.png': gives an input of 4 x 8 x 3"):
        make().forward()


def test_the_old_fields_are_those_of_transform_param(make):
    old = make("batch_size: 3 scale: 0.5 crop_size: 4 mirror: true", phase=TRAIN)
    new = make("batch_size: 3", "scale: 0.5 crop_size: 4 mirror: true", phase=TRAIN)
    np.testing.assert_array_equal(old.forward()[0], new.forward()[0])
    assert make("scale: 0.5", "scale: 0.5").forward()[0].max() <= 127.5
    with pytest.raises(SppError, match="crop_size is 3 in transform_param and 4 in the layer's own parameters"):
        make("crop_size: 4", "crop_size: 3")


def test_every_round_has_an_order_of_its_own(make):
    one = make("batch_size: 7 shuffle: true")
    rounds = [tuple(r) for r in labels(one, 6)]
    assert all(sorted(r) == list(range(7)) for r in rounds)
    assert len(set(rounds)) == 6 and tuple(range(7)) not in rounds
    across = labels(make("batch_size: 3 shuffle: true"), 14)
    # a batch may contain images of two epochs
    assert [i for batch in across for i in batch] == [i for order in rounds for i in order]
    assert labels(make("batch_size: 7 shuffle: true", seed=1), 1) != [list(rounds[0])]


@pytest.mark.parametrize("data", ["batch_size: 3 shuffle: true", "batch_size: 3 shuffle: true rand_skip: 5"])
def test_threads_do_not_matter_and_resuming_goes_on(make, monkeypatch, data):
    transform = "crop_size: 3 mirror: true"
    batches = []
    for count in ("1", "2", "4"):
        monkeypatch.setenv("SPP_DATA_WORKERS", count)
        one = make(data, transform, TRAIN)
        batches.append([one.forward() for _ in range(8)])
    for other in batches[1:]:
        for mine, theirs in zip(batches[0], other):
            np.testing.assert_array_equal(mine[0], theirs[0])
            np.testing.assert_array_equal(mine[1], theirs[1])
    one, other = make(data, transform, TRAIN), make(data, transform, TRAIN, seed=9)
    for _ in range(5):
        one.forward()
    other.layer.restore(one.layer.state())
    np.testing.assert_array_equal(other.forward()[0], batches[0][5][0])


def test_images_to_skip_at_the_start(make):
    starts = [labels(make("rand_skip: 3", seed=seed), 1)[0][0] for seed in range(20)]
    assert set(starts) == {0, 1, 2}
    orders = [labels(make("batch_size: 7 shuffle: true", seed=seed), 2) for seed in range(4)]
    skipped = [labels(make("batch_size: 7 shuffle: true rand_skip: 4", seed=seed), 1)[0] for seed in range(4)]
    for (first, second), order in zip(orders, skipped):
        assert any(order == (first + second)[skip:skip + 7] for skip in range(4))


@pytest.mark.parametrize("old, new, message", [
    ("source: 'list.txt'", "", "image_data_param needs a source, a text file of `path label` lines, and has none"),
    ("source: 'list.txt'", "source: 'none'", "list file 'none' cannot be read: No such file or directory; give"),
    ("source: 'list.txt'", "source: 'empty'", "list file 'empty' is empty; give a text file of `path label` lines"),
    ("source: 'list.txt'", "source: 'unlabelled'", "unlabelled:2: expected `path label`, the label a whole number, "
                                                   "found 'b.png'"),
    ("photos/", "pictures/", r"list.txt:1: image 'pictures/0.png': cannot be read: No such file or directory \(looked "
                             "from .*; correct the path, or the layer's root_folder"),
    ("source: 'list.txt'", "source: 'damaged'", r"damaged:2: image 'photos/bad.png': cannot be decoded as an image "
                                                r"\(7 bytes\); it is damaged, or of an unknown format: replace"),
    ("batch_size: 3", "batch_size: 0", "batch_size must be at least 1, found 0"),
    ("batch_size: 3", "new_height: 8", "new_height and new_width go together, found 8 and 0; give both or none"),
    ("batch_size: 3", "new_width: 8", "new_height and new_width go together, found 0 and 8; give both or none"),
    ("crop_size: 4", "crop_size: 7", "list.txt:1: image 'photos/0.png': crop_size 7 is larger than the image of"),
    ("top: 'data'", "", r"takes 1 to 2 top blob\(s\), found 0")])
def test_what_goes_wrong_says_where_and_why(photos, old, new, message):
    (photos / "empty").write_text("\n")
    (photos / "unlabelled").write_text("a.png 0\nb.png\n")
    (photos / "damaged").write_text("0.png 0\nbad.png 1\n")
    (photos / "photos" / "bad.png").write_text("no PNG!")
    text = ("layer { name: 'd' type: 'ImageData' top: 'data' transform_param { crop_size: 4 } image_data_param { "
            "source: 'list.txt' root_folder: 'photos/' batch_size: 3 } }")
    assert old in text
    with pytest.raises(SppError, match=r"layer 'd' \(ImageData\): " + message) as error:
        with Net(parse_net(text.replace(old, new)), TEST) as net:
            net.forward()
    assert "\n" not in str(error.value)
