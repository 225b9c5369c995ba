"""Data layers of nets on a GPU give what they give on the host, to the last bit."""
import importlib

import cv2
import emulated_cupy
import numpy as np
import pytest

import cuda_cpu
from spp.data.database import DatabaseWriter
from spp.errors import SppError
from spp.layers import TEST, TRAIN
from spp.layers.data import StreamLayer
from spp.net import Net
from spp.proto import arrays, binary, caffe_pb2, text

pytestmark = pytest.mark.skipif(cuda_cpu.COMPILER is None, reason=cuda_cpu.MISSING)


def _image(i, height=9, width=8, channels=3):
    return np.random.default_rng(i).integers(0, 256, (height, width, channels), np.uint8)


def _datum(kind, i):
    """Record i of a database; "mixed" has a float image among others, "gray" one channel, "sizes" several sizes."""
    image = _image(i, *{"gray": (9, 8, 1), "sizes": (9 + i % 2, 8 + i % 3)}.get(kind, ()))
    datum = caffe_pb2.Datum(label=i)
    if kind == "encoded":
        datum.data, datum.encoded = cv2.imencode(".png", image)[1].tobytes(), True
        return datum
    datum.height, datum.width, datum.channels = image.shape
    planes = image.transpose(2, 0, 1)
    if kind == "float" or kind == "mixed" and i == 4:
        datum.float_data.extend((planes.ravel() / 7).tolist())
    else:
        datum.data = planes.tobytes()
    return datum


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("feed")
    for kind in ("raw", "encoded", "gray", "float", "mixed", "sizes", "damaged"):
        with DatabaseWriter(str(folder / kind)) as writer:
            for i in range(7):
                datum = _datum("encoded" if kind == "damaged" else kind, i)
                if kind == "damaged" and i == 4:
                    datum.data = b"no image"
                writer.put(f"{i:04d}".encode(), datum.SerializeToString())
    mean = np.random.default_rng(0).normal(100, 30, (3, 9, 8)).astype(np.float32)
    binary.write_binary(arrays.to_proto(mean, legacy=True), str(folder / "mean"))
    with open(folder / "list", "w") as lines:
        for i in range(7):
            cv2.imwrite(str(folder / f"{i}.png"), _image(i, 9 + i % 2, 8 + i % 3))
            lines.write(f"{i}.png {i}\n")
    return folder


def _param(files, kind, transform, batch=3):
    transform = transform.replace("MEAN", f"mean_file: '{files}/mean'")
    source = f"type: 'Data' data_param {{ source: '{files}/{kind}' batch_size: {batch} rand_skip: 5 }}"
    if kind == "list":
        source = (f"type: 'ImageData' image_data_param {{ source: '{files}/list' root_folder: '{files}' "
                  f"batch_size: {batch} shuffle: true }}")
    return text.parse_net(f"layer {{ name: 'd' top: 'data' top: 'label' {source} transform_param {{ {transform} }} }}")


@pytest.fixture
def transformed(monkeypatch):
    """The emulated GPU, and the shapes of what it transformed."""
    with emulated_cupy.installed():
        pinned = importlib.import_module("spp.backend.cuda.pinned")
        transform, shapes = pinned.transform, []

        def recorded(*args):
            shapes.append(args[-1].shape)
            transform(*args)
        monkeypatch.setattr(pinned, "transform", recorded)
        yield shapes


def _batches(net, count):
    return [{name: net.layers[0].context.backend.to_host(values).copy() for name, values in net.forward().items()}
            for _ in range(count)]


def _same(results, expected):
    for one, other in zip(results, expected, strict=True):
        for name in ("data", "label"):
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name])


AUGMENT = "crop_size: 6 mirror: true color_param { std: 0.3 } scale: 0.017"
CASES = [       # the database, what is done to its images, and how many of nine batches a GPU transforms
    ("raw", "", 9), ("raw", "mirror: true", 9), ("encoded", "scale: 3", 9), ("gray", "crop_size: 5 mean_value: 9", 9),
    ("raw", "crop_size: 6 mirror: true mean_value: 100", 9),
    ("encoded", "crop_size: 6 mirror: true mean_value: 0.1 mean_value: 100.7 mean_value: -3 scale: 0.017", 9),
    ("raw", "mirror: true MEAN scale: 0.017", 9), ("encoded", "crop_size: 6 mirror: true MEAN scale: 0.017", 9),
    ("encoded", "crop_size: 6 mirror: true MEAN mean_mode: WARP scale: 0.017", 9),
    ("raw", "mirror: true MEAN mean_mode: WARP", 0),                    # of any size, and the mean with them
    ("raw", f"{AUGMENT} MEAN size_param {{ size: 6 size: 4 }}", 5),     # each image's part of the mean, resized
    ("encoded", f"{AUGMENT} MEAN mean_mode: WARP size_param {{ size: 6 size: 4 size: 8 }}", 9),
    ("sizes", f"{AUGMENT} resize_short: 7 crop_mode: CORNERS size_param {{ size: 3 size: 9 schedule: UNIFORM }}", 9),
    ("sizes", "crop_size: 6 mirror: true mean_value: 100", 9), ("list", f"{AUGMENT} MEAN mean_mode: WARP", 9),
    ("float", AUGMENT, 0), ("mixed", AUGMENT, 5)]


@pytest.mark.parametrize("phase", [TRAIN, TEST], ids=["train", "test"])
@pytest.mark.parametrize("kind, transform, count", CASES)
def test_host_and_gpu_read_the_same(files, transformed, kind, transform, count, phase):
    param = _param(files, kind, transform)
    with Net(param, phase, device="cpu", seed=5) as net:
        expected = _batches(net, 9)
        state = net.state()
    with Net(param, phase, device="cuda", seed=5) as net:
        _same(_batches(net, 9), expected)
        assert net.state() == state         # though the tenth batch may be on its way
    if phase == TRAIN or "size_param" not in transform:
        assert len(transformed) == count
    with Net(param, phase, device="cuda", seed=6) as net:       # resumed in the middle of an epoch
        net.forward()
        net.restore({"d": {**state["d"], "position": 4}})
        _same(_batches(net, 5), expected[4:])


def test_double_precision(files, transformed):
    param = _param(files, "raw", f"{AUGMENT} MEAN")
    with Net(param, TRAIN, dtype=np.float64, device="cpu") as net:
        expected = _batches(net, 3)
    with Net(param, TRAIN, dtype=np.float64, device="cuda") as net:
        _same(_batches(net, 3), expected)
    assert len(transformed) == 3 and expected[0]["data"].dtype == np.float64


def test_a_mean_is_copied_once(files, transformed, monkeypatch):
    cupy = importlib.import_module("cupy")
    asarray, copied = cupy.asarray, []

    def recorded(array):
        copied.append(array.shape)
        return asarray(array)
    monkeypatch.setattr(cupy, "asarray", recorded)
    monkeypatch.setenv("SPP_DATA_WORKERS", "1")
    param = _param(files, "raw", f"{AUGMENT} MEAN mean_mode: WARP size_param {{ size: 6 size: 4 }}", batch=7)
    with Net(param, TRAIN, device="cuda") as net:
        _batches(net, 2)
        assert copied == [(12, 6, 3), (8, 4, 3)]
    copied.clear()
    with Net(_param(files, "raw", f"{AUGMENT} mean_value: 100"), TRAIN, device="cuda") as net:
        _batches(net, 5)
        assert copied == [(3,)]


@pytest.mark.parametrize("kind, transform, message", [
    ("damaged", "crop_size: 6", r"record '0004' of LMDB '.*damaged': cannot be decoded as an image \(8 bytes\)"),
    ("raw", "crop_size: 9", "record '000[0-4]' of LMDB '.*raw': crop_size 9 is larger than the image of 9 x 8"),
    ("raw", "mean_value: 1 mean_value: 2", "record '000[0-4]' of LMDB '.*raw': mean_value is given 2 times"),
    ("gray", "MEAN", r"record '000[0-4]' of LMDB '.*gray': mean_file '.*' has 3 channel\(s\) and the image 1"),
    ("sizes", "crop_size: 6 MEAN", "record '000[0-6]' of LMDB '.*sizes': mean_file '.*' is 9 x 8 and the image"),
    ("gray", "color_param { std: 1 }", "record '000[0-4]' of LMDB '.*gray': color_param needs images of 3 channels"),
    ("sizes", "", "record '000[0-6]' of LMDB '.*sizes': gives an input of .*, but the first image of its batch")])
def test_a_bad_record_is_named(files, transformed, kind, transform, message):
    messages = []
    for device in ("cpu", "cuda"):
        with pytest.raises(SppError, match=message) as error, Net(_param(files, kind, transform), TRAIN, seed=3,
                                                                  device=device) as net:
            for _ in range(3):
                net.forward()
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_closing_with_a_batch_on_its_way(files, transformed):
    net = Net(_param(files, "raw", AUGMENT), TRAIN, device="cuda")
    layer = net.layers[0]
    assert isinstance(layer, StreamLayer)
    net.forward()
    layer.batches._take_head()
    layer.feed.start(layer.batches._head.result().arrays)
    result = net.blobs["data"].data.get()
    net.close()
    net.close()
    np.testing.assert_array_equal(net.blobs["data"].data.get(), result)
