"""classify and extract_features on small nets whose answers are worked out by hand, and on a real one."""
import os
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

import squeezenet
from programs import error_of, run
from spp.data.database import Database
from spp.net import Net
from spp.proto.arrays import to_proto
from spp.proto.binary import write_binary
from spp.proto.caffe_pb2 import Datum
from spp.proto.text import parse_net

# Of a 6 x 8 view: the mean of each channel, divided by 100, and a Softmax over them; then classes B, G, R.
COLOURS = """name: "colours" input: "photo" input_shape { dim: 1 dim: 3 dim: 6 dim: 8 }
layer { name: "mean" type: "Pooling" bottom: "photo" top: "mean" pooling_param { pool: AVE global_pooling: true } }
layer { name: "fc" type: "InnerProduct" bottom: "mean" top: "fc"
  inner_product_param { num_output: 3 bias_term: false } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "net.prototxt").write_text(COLOURS)
    net = Net(parse_net(COLOURS))
    net.params["fc"][0].data[...] = np.eye(3) / 100
    net.save(str(tmp_path / "net.caffemodel"))
    (tmp_path / "names.txt").write_text("'n1 blue'\nn2 green\n\nn3 red, crimson\n")
    image = np.zeros((20, 60, 3), np.uint8)
    image[:] = (50, 150, 250)
    image[:, :20] = (200, 0, 0)         # what only the left corners see
    cv2.imwrite(str(tmp_path / "photo.png"), image)
    return tmp_path


def classify(folder, *arguments):
    return run("classify", "--model", "net.prototxt", "--weights", "net.caffemodel", *arguments, "photo.png",
               cwd=folder)


def softmax(*values):
    exp = np.exp(np.array(values))
    return exp / exp.sum()


def test_classify_looks_at_the_middle(folder):
    result = classify(folder, "--labels", "names.txt", "--mean", "30,20,10", "--scale", 0.5, "--resize", 10)
    assert result.returncode == 0, result
    blue, green, red = softmax(0.1, 0.65, 1.2)
    assert result.stdout.splitlines() == ["photo.png", f"  {red:.4f}  n3 red, crimson", f"  {green:.4f}  n2 green",
                                          f"  {blue:.4f}  n1 blue"]


def test_classify_with_ten_views(folder):
    result = classify(folder, "--mean", "0", "--resize", 10, "--oversample")
    right, left = softmax(0.5, 1.5, 2.5), softmax(2, 0, 0)
    expected = (3 * right + 2 * left) / 5       # 10 x 30 pixels: the left views end before the colour changes
    lines = [line.split() for line in result.stdout.splitlines()[1:]]
    assert [line[1:] for line in lines] == [["class", "2"], ["class", "0"], ["class", "1"]]
    assert [float(line[0]) for line in lines] == pytest.approx(sorted(expected, reverse=True), abs=2e-4)


def test_classify_takes_the_mean_colour_of_a_file(folder):
    write_binary(to_proto(np.broadcast_to(np.array([30, 20, 10], np.float32)[:, None, None], (3, 4, 5)), legacy=True),
                 folder / "mean.binaryproto")
    assert (classify(folder, "--mean", "mean.binaryproto").stdout == classify(folder, "--mean", "30,20,10").stdout
            != classify(folder).stdout)


def test_classify_says_what_is_no_probability(folder):
    text = COLOURS[:COLOURS.index('layer { name: "prob"')]
    (folder / "net.prototxt").write_text(text)
    assert classify(folder, "--mean", "0").stdout.splitlines()[:2] == [
        "photo.png (scores, no probabilities: the net has no Softmax at its end)", "  2.5000  class 2"]


@pytest.mark.parametrize("arguments, message", [
    (["--mean", "1,2"], "error: --mean has 2 values, the net's input 3 channels; give one for each"),
    (["--mean", "x"], "error: --mean x: neither a file nor comma-separated numbers, such as 104,117,123"),
    (["--resize", 5],
     "error: --resize 5 makes the photo 5 x 15 pixels (height x width), and the net takes 6 x 8; give a larger "
     "--resize"),
    (["--labels", "two.txt"],
     "error: two.txt: 2 names for the 3 classes of the net; give the file that belongs to it"),
    (["net.prototxt"],
     "error: net.prototxt: cannot be decoded as an image (420 bytes); it is damaged, or of an unknown format: replace "
     "or remove it"),
    (["none.png"], "error: none.png: cannot be read: No such file or directory; check the path")])
def test_classify_refuses(folder, arguments, message):
    (folder / "two.txt").write_text("a\nb\n")
    size = (folder / "net.prototxt").stat().st_size
    assert error_of(classify(folder, *arguments)) == message.replace("(420 bytes)", f"({size} bytes)")


def test_classify_needs_one_input_and_output(folder):
    (folder / "net.prototxt").write_text(COLOURS + 'layer { name: "x" type: "Input" top: "x" }')
    assert error_of(classify(folder)) == (
        "error: net.prototxt: classifying needs a net with one input and one output; this one has inputs photo, x and "
        "outputs prob, x; give its deploy prototxt")
    (folder / "net.prototxt").write_text(COLOURS.replace("dim: 1 dim: 3 dim: 6 dim: 8", "dim: 1 dim: 3"))
    assert "error: " in error_of(classify(folder))


@squeezenet.needs_weights
@pytest.mark.parametrize("photo, words", [("coffee", "espresso"), ("chelsea", "cat"), ("camera", "tripod")])
def test_classify_a_photo(tmp_path, photo, words):
    data = pytest.importorskip("skimage.data", reason="scikit-image, whose photos these are, is not installed")
    path = tmp_path / f"{photo}.png"
    image = getattr(data, photo)()
    cv2.imwrite(str(path), image[:, :, ::-1] if image.ndim == 3 else image)
    result = run("classify", "--model", squeezenet.DEPLOY, "--weights", squeezenet.WEIGHTS, "--labels",
                 squeezenet.WORDS, path, cwd=tmp_path)
    lines = result.stdout.splitlines()
    assert len(lines) == 6 and words in lines[1], result


# --- extract_features

COUNTING = """
layer { name: "data" type: "DummyData" top: "data" dummy_data_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 }
  data_filler { type: "uniform" } } }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { pool: AVE kernel_h: 2 kernel_w: 4 } }
layer { name: "fc/a" type: "InnerProduct" bottom: "data" top: "fc/a" inner_product_param { num_output: 6
  weight_filler { type: "xavier" } } }
"""


@pytest.fixture
def features(tmp_path) -> Path:
    (tmp_path / "net.prototxt").write_text(COUNTING)
    Net(parse_net(COUNTING), seed=4).save(str(tmp_path / "net.caffemodel"))
    return tmp_path


def extract(folder, *arguments):
    return run("extract_features", "net.caffemodel", "net.prototxt", *arguments, cwd=folder)


def expected(folder, name, batches):
    """The blob of the first batches: the program's net has seed 0."""
    net = Net(parse_net(COUNTING), weights=str(folder / "net.caffemodel"))
    return np.concatenate([net.forward() and net.blobs[name].data.copy() for _ in range(batches)])


def test_features_as_lmdb(features):
    result = extract(features, "pool,fc/a", "pool_lmdb,fc_lmdb", 3)
    assert result.returncode == 0, result
    assert result.stdout.splitlines() == ["6 items of pool written to pool_lmdb", "6 items of fc/a written to fc_lmdb"]
    for name, path, shape in (("pool", "pool_lmdb", (3, 3, 2)), ("fc/a", "fc_lmdb", (6, 1, 1))):
        database = Database(str(features / path))
        assert [database.key(i) for i in range(len(database))] == [b"%010d" % i for i in range(6)]
        for i, values in enumerate(expected(features, name, 3)):
            datum = Datum.FromString(database.value(i))
            assert (datum.channels, datum.height, datum.width) == shape
            np.testing.assert_array_equal(np.array(datum.float_data, np.float32), values.ravel())
        database.close()


def test_features_as_hdf5(features):
    assert extract(features, "pool,fc/a", "pool.h5,fc.h5", 3, "hdf5", "CPU").returncode == 0
    for name, path in (("pool", "pool.h5"), ("fc/a", "fc.h5")):
        with h5py.File(features / path) as file:
            assert file[name].dtype == np.float32
            np.testing.assert_allclose(file[name], expected(features, name, 3), 1e-4)       # maybe of a GPU


@pytest.mark.parametrize("arguments, message", [
    (["pool", "a,b", 1], "error: each blob needs an output: found 1 blob(s) and 2 output(s); see extract_features "
                         "--help"),
    (["poool", "a", 1], "error: no blob 'poool' in net ''; its blobs are data, "),
    (["pool", "a", 1, "hdf5", "CPU", "--device", "cpu"],
     "error: --device cpu and CPU both set the device; drop one; see extract_features --help"),
    (["pool", "a", 0], "error: argument BATCHES: '0' is not an integer of at least 1; see extract_features --help")])
def test_extract_features_refuses(features, arguments, message):
    assert error_of(extract(features, *arguments)).startswith(message)
    assert sorted(os.listdir(features)) == ["net.caffemodel", "net.prototxt"]
