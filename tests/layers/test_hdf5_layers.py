"""HDF5Data, against the reference's own batches, and HDF5Output."""
import gc
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

import golden
from one_layer import OneLayer
from spp.errors import SppError
from spp.layers import TEST, TRAIN
from spp.net import Net
from spp.proto.text import parse_net

BATCHES = np.load(golden.path("data", "batches.npz"))
COUNTS = {"a.h5": 4, "b.h5": 1, "c.h5": 0, "d.h5": 6}       # rows
TOTAL = sum(COUNTS.values())


def row(index):
    return np.arange(12).reshape(2, 3, 2) + 100 * index


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Rows 0 .. 10 in four files: `data` int32, 2 x 3 x 2 a row, and `label` float64, the row's number + 0.5."""
    monkeypatch.chdir(tmp_path)
    first = 0
    for name, count in COUNTS.items():
        rows = range(first, first + count)
        write(name, data=np.array([row(i) for i in rows], np.int32).reshape(-1, 2, 3, 2), label=np.array(rows) + 0.5)
        first += count
    (tmp_path / "list").write_text("a.h5 b.h5\n\n  c.h5\nd.h5\n")
    return tmp_path


def write(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values


@pytest.fixture
def make(files):
    layers = []

    def layer(text="batch_size: 3", tops=("data", "label"), **arguments):
        names = " ".join(f"top: '{top}'" for top in tops)
        layers.append(OneLayer(f"type: 'HDF5Data' {names} hdf5_data_param {{ source: 'list' {text} }}", tops=len(tops),
                               **arguments))
        return layers[-1]

    yield layer
    for one in layers:
        one.layer.close()


def rows(one, count):
    """The numbers of the rows in the next batches; their data are checked to equal the label."""
    numbers = []
    for _ in range(count):
        data, label = one.forward()
        numbers += [int(number) for number in label]
        np.testing.assert_array_equal(label % 1, np.full(len(label), 0.5))
        np.testing.assert_array_equal(data, [row(int(number)) for number in label])
    return numbers


def test_batches_are_those_of_the_reference(monkeypatch):
    monkeypatch.chdir(golden.path("data"))
    with Net("hdf5_data.prototxt", TEST) as net:
        for batch in range(4):
            net.forward()
            for top in ("data", "label"):
                np.testing.assert_array_equal(net.blobs[top].data, BATCHES[f"hdf5_data/{batch}/{top}"])


@pytest.mark.parametrize("batch, count", [(3, 9), (1, 12), (25, 2)])
def test_rows_run_across_the_files_and_round(make, batch, count):
    one = make(f"batch_size: {batch}")
    assert [blob.shape for blob in one.top] == [(batch, 2, 3, 2), (batch,)]
    assert rows(one, count) == [i % TOTAL for i in range(batch * count)]


def test_any_number_of_tops_axes_and_classes(files):
    values = {"five": np.arange(48.0).reshape(2, 2, 3, 2, 2), "one": np.array([7, 200], np.uint8),
              "half": np.array([[0.5, 1.5], [2.5, 3.5]], np.float16), "group/two": np.array([[-3], [2 ** 40]])}
    write("x.h5", **values)
    (files / "x").write_text("x.h5")
    names = " ".join(f"top: '{name}'" for name in values)
    for dtype in (np.float32, np.float64):
        text = f"type: 'HDF5Data' {names} hdf5_data_param {{ source: 'x' batch_size: 2 }}"
        one = OneLayer(text, tops=4, dtype=dtype)
        for result, expected in zip(one.forward(), values.values()):
            assert result.dtype == dtype
            np.testing.assert_array_equal(result, expected)
        one.layer.close()


def test_double_precision_is_kept(files):
    write("x.h5", data=np.array([1 / 3, 2 / 3]))
    (files / "x").write_text("x.h5")
    one = OneLayer("type: 'HDF5Data' top: 'data' hdf5_data_param { source: 'x' batch_size: 2 }", dtype=np.float64)
    assert list(one.forward()) == [1 / 3, 2 / 3]
    one.layer.close()


def test_shuffling_keeps_the_rows_of_a_file_together(make):
    rounds = [tuple(rows(make(f"batch_size: {TOTAL} shuffle: true", seed=seed), 1)) for seed in range(12)]
    assert all(sorted(r) == list(range(TOTAL)) for r in rounds) and len(set(rounds)) == 12
    files = [(0, 1, 2, 3), (4,), (5, 6, 7, 8, 9, 10)]
    orders = set()
    for order in rounds:
        places = [[order.index(i) for i in file] for file in files]
        assert all(max(place) - min(place) == len(place) - 1 for place in places)
        orders.add(tuple(np.argsort([min(place) for place in places])))
    assert len(orders) > 2
    one = make(f"batch_size: {TOTAL} shuffle: true")
    several = [tuple(rows(one, 1)) for _ in range(5)]
    assert len(set(several)) == 5 and several[0] == rounds[0]
    assert rows(make("batch_size: 3 shuffle: true"), 18) == [i for r in several for i in r][:54]


@pytest.mark.parametrize("text", ["batch_size: 3", "batch_size: 3 shuffle: true"])
def test_resuming_goes_on(make, text):
    one, other = make(text, seed=1), make(text, seed=2)
    for _ in range(5):
        one.forward()
    state = one.layer.state()
    expected = rows(one, 6)
    other.forward()
    other.layer.restore(state)
    assert rows(other, 6) == expected
    other.layer.restore({**state, "position": 10 ** 9})
    assert rows(other, 1)


def test_a_batch_is_read_and_not_the_file(make, files):
    """A file of 4 TB: a chunked dataset without any written chunk."""
    with h5py.File("huge.h5", "w") as file:
        file.create_dataset("data", (10 ** 9, 1000), np.float32, chunks=(10, 1000))[10 ** 9 - 2] = 5
    (files / "list").write_text("huge.h5")
    one = make("batch_size: 3", tops=["data"])
    one.layer.batches.seek((10 ** 9 - 3) // 3)
    np.testing.assert_array_equal(one.forward(), [[0] * 1000, [0] * 1000, [5] * 1000])


BAD = [("list", "none", r"source 'none' cannot be read: No such file or directory \(looked from .*; give a text file "
                        "that lists HDF5 files"),
       ("list", "empty", "source 'empty' lists no files; write the paths of HDF5 files into it"),
       ("list", "a.h5", "source 'a.h5' is an HDF5 file itself; give a text file that holds its path"),
       ("source: 'list'", "", "hdf5_data_param needs a source, a text file that lists HDF5 files, and has none"),
       ("list", "missing", r"HDF5 file 'e.h5', listed in 'missing', not found \(looked from .*; correct the path"),
       ("list", "texts", "HDF5 file 'list', listed in 'texts', is no HDF5 file, or damaged: "),
       ("'label'", "'labels'", "HDF5 file 'a.h5' has no dataset 'labels', the name of a top; its datasets are "
                               "'data', 'label'"),
       ("list", "strings", "HDF5 file 'strings.h5': dataset 'label' holds object; expected integers or floats"),
       ("list", "scalar", "HDF5 file 'scalar.h5': dataset 'label' is a single value; expected rows along axis 0"),
       ("list", "uneven", r"HDF5 file 'uneven.h5': its datasets differ in the number of rows \(axis 0\): 'data' 2, "
                          "'label' 3"),
       ("list", "unlike", r"HDF5 file 'unlike.h5': a row of dataset 'data' has the shape \(2, 3\), but in 'a.h5' "
                          r"\(2, 3, 2\); all rows must have the same shape"),
       ("list", "rowless", "the HDF5 files in 'rowless' hold no rows"),
       ("batch_size: 3", "", "batch_size must be at least 1, found 0"),
       ("top: 'data'", "top: 'data' transform_param { scale: 2 }", "HDF5Data does not transform data; drop "
                                                                   "transform_param")]


@pytest.mark.parametrize("old, new, message", BAD)
def test_what_cannot_be_read_says_where_and_why(files, old, new, message):
    write("strings.h5", data=np.zeros((2, 2, 3, 2)), label=["a", "b"])
    write("scalar.h5", data=np.zeros((2, 2, 3, 2)), label=5.0)
    write("uneven.h5", data=np.zeros((2, 2, 3, 2)), label=np.zeros(3))
    write("unlike.h5", data=np.zeros((2, 2, 3)), label=np.zeros(2))
    for name, text in {"empty": " \n", "missing": "a.h5 e.h5", "texts": "list", "strings": "strings.h5",
                       "scalar": "scalar.h5", "uneven": "uneven.h5", "unlike": "a.h5 unlike.h5",
                       "rowless": "c.h5"}.items():
        (files / name).write_text(text)
    text = ("layer { name: 'd' type: 'HDF5Data' top: 'data' top: 'label' hdf5_data_param { source: 'list' "
            "batch_size: 3 } }")
    assert old in text
    with pytest.raises(SppError, match=r"layer 'd' \(HDF5Data\): " + message) as error:
        with Net(parse_net(text.replace(old, new)), TEST) as net:
            net.forward()
    assert "\n" not in str(error.value)


def test_a_file_that_is_cut_off_meanwhile(make, files):
    one = make("batch_size: 2", tops=["label"])
    (files / "a.h5").write_bytes((files / "a.h5").read_bytes()[:1000])
    with pytest.raises(SppError, match="HDF5 file 'a.h5' is damaged or has changed: "):
        one.forward()


# --- HDF5Output

OUTPUT = """
layer { name: 'in' type: 'Input' top: 'x' top: 'y'
        input_param { shape { dim: 2 dim: 3 dim: 1 dim: 2 } shape { dim: 2 } } }
layer { name: 'o' type: 'HDF5Output' bottom: 'x' bottom: 'y' hdf5_output_param { file_name: 'out.h5' } }
"""


def batch(count, first=0):
    return {"x": np.arange(first, first + 6 * count).reshape(count, 3, 1, 2) + 0.5, "y": first + np.arange(count)}


def contents(path="out.h5"):
    with h5py.File(path, "r") as file:
        assert sorted(file) == ["data", "label"]
        return file["data"][...], file["label"][...]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_every_forward_appends_its_batch(here, phase):
    with Net(parse_net(OUTPUT), phase) as net:
        for one in (batch(2), batch(2, 50), batch(5, 100)):
            assert net.forward(**one) == {}
        assert os.listdir() != ["out.h5"]
    data, label = contents()
    assert data.dtype == label.dtype == np.float32
    expected = [batch(2), batch(2, 50), batch(5, 100)]
    np.testing.assert_array_equal(data, np.concatenate([one["x"] for one in expected]))
    np.testing.assert_array_equal(label, np.concatenate([one["y"] for one in expected]).reshape(9, 1, 1, 1))
    assert os.listdir() == ["out.h5"]


def test_what_was_written_can_be_read_by_hdf5data(here):
    with Net(parse_net(OUTPUT)) as net:
        net.forward(**batch(2))
    (here / "list").write_text("out.h5")
    with Net(parse_net("layer { name: 'd' type: 'HDF5Data' top: 'data' top: 'label' hdf5_data_param { source: 'list' "
                       "batch_size: 2 } }")) as net:
        net.forward()
        np.testing.assert_array_equal(net.blobs["data"].data, batch(2)["x"])


def test_more_than_four_axes_are_kept(here):
    one = OneLayer("type: 'HDF5Output' hdf5_output_param { file_name: 'out.h5' }", (2, 1, 2, 1, 3), (2, 4), tops=0)
    values = [np.arange(12.0).reshape(2, 1, 2, 1, 3), np.arange(8.0).reshape(2, 4)]
    one.forward(*values)
    one.layer.close()
    data, label = contents()
    assert data.dtype == np.float64
    np.testing.assert_array_equal(data, values[0])
    np.testing.assert_array_equal(label, values[1].reshape(2, 4, 1, 1))


def test_the_old_file_stays_until_the_new_one_is_complete(here):
    (here / "out.h5").write_text("old")
    with Net(parse_net(OUTPUT)):
        pass
    assert os.listdir() == ["out.h5"]               # without a batch nothing is written
    net = Net(parse_net(OUTPUT))
    net.forward(**batch(2))
    assert (here / "out.h5").read_text() == "old"
    temporary, = set(os.listdir()) - {"out.h5"}
    assert temporary.startswith("out.h5.") and temporary.endswith(".tmp")
    (here / "copy.h5").write_bytes((here / temporary).read_bytes())         # as if the program were killed here
    np.testing.assert_array_equal(contents("copy.h5")[0], batch(2)["x"])
    net.close()
    net.close()
    np.testing.assert_array_equal(contents()[0], batch(2)["x"])
    with pytest.raises(SppError, match="HDF5 file 'out.h5' is finished; build the net again to write another"):
        net.forward(**batch(2))


def test_the_gradient_of_what_is_written_is_nothing(here):
    with Net(parse_net("force_backward: true" + OUTPUT)) as net:
        net.blobs["x"].diff[...] = 3
        net.forward(**batch(2))
        net.backward()
        assert not net.blobs["x"].diff.any()


def test_a_net_that_is_forgotten_and_a_program_that_ends_leave_the_file(here):
    net = Net(parse_net(OUTPUT))
    net.forward(**batch(2))
    del net
    gc.collect()
    np.testing.assert_array_equal(contents()[0], batch(2)["x"])
    program = ("from spp.net import Net\nfrom spp.proto.text import parse_net\n"
               f"net = Net(parse_net({OUTPUT!r}))\nnet.forward()\nnet.forward()")
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "") and contents()[0].shape == (4, 3, 1, 2)


@pytest.mark.parametrize("old, new, message", [
    ("file_name: 'out.h5'", "", "hdf5_output_param needs a file_name, the HDF5 file to write, and has none"),
    ("out.h5", "none/out.h5", "none/out.h5: cannot be written: there is no folder .*none; make it first"),
    ("out.h5", "folder", "folder: cannot be written: it is a folder or a device; give the name of a file"),
    ("shape { dim: 2 } }", "shape { dim: 5 } }", r"data and label must have the same first dimension, found the "
                                                 r"shapes \(2, 3, 1, 2\) and \(5,\)"),
    (" bottom: 'y'", "", r"takes exactly 2 bottom blob\(s\), found 1")])
def test_what_cannot_be_written_says_where_and_why(here, old, new, message):
    (here / "folder").mkdir()
    with pytest.raises(SppError, match=r"layer 'o' \(HDF5Output\): " + message):
        with Net(parse_net(OUTPUT.replace(old, new))) as net:
            net.forward()
    assert os.listdir() == ["folder"]


def test_rows_of_another_shape(here):
    with Net(parse_net(OUTPUT)) as net:
        net.forward(**batch(2))
        message = (r"HDF5 file 'out.h5': a row of 'data' has the shape \(3, 2, 2\), but before it was \(3, 1, 2\); "
                   "all rows must have the same shape")
        with pytest.raises(SppError, match=message):
            net.forward(x=np.zeros((2, 3, 2, 2)), y=np.zeros(2))
    assert contents()[0].shape == (2, 3, 1, 2)
