"""The Data layer in a net, against the reference's own batches."""
import numpy as np
import pytest

import golden
from one_layer import OneLayer
from spp.data import datum
from spp.data.database import DatabaseWriter
from spp.errors import SppError
from spp.layers import TEST, TRAIN
from spp.net import Net
from spp.proto.text import parse_net

BATCHES = np.load(golden.path("data", "batches.npz"))
RAW = golden.path("data", "raw_lmdb")


@pytest.mark.parametrize("case", ["data_encoded", "data_mean_crop", "data_mean_values"])
def test_batches_are_those_of_the_reference(case, monkeypatch):
    monkeypatch.chdir(golden.path("data"))
    with Net(f"{case}.prototxt", TEST) as net:
        for batch in range(4):
            net.forward()
            for top in ("data", "label"):
                np.testing.assert_array_equal(net.blobs[top].data, BATCHES[f"{case}/{batch}/{top}"])


def layer(transform="", data="batch_size: 5", phase=TRAIN, **arguments):
    return OneLayer(f"type: 'Data' transform_param {{ {transform} }} data_param {{ source: '{RAW}' {data} }}",
                    phase=phase, **arguments)


def test_the_label_is_optional_and_the_backend_is_what_it_is():
    """The default backend is LEVELDB; the source is an LMDB."""
    data_layer = layer("crop_size: 7", tops=1)
    assert data_layer.forward().shape == data_layer.top[0].shape == (5, 3, 7, 7)
    data_layer.layer.close()


def test_double_precision():
    data_layer = layer("mean_value: 0.5", tops=2, phase=TEST)
    data, label = data_layer.forward()
    assert data.dtype == label.dtype == np.float64 and data[0, 0, 0, 0] % 1 == 0.5
    np.testing.assert_array_equal(label, [0, 1, 2, 3, 0])
    data_layer.layer.close()


AUGMENT = "crop_size: 16 mirror: true color_param {} size_param { size: 16 size: 12 size: 10 }"


def test_resuming_gives_what_would_have_come():
    """The seed comes along: a run without random_seed has drawn one."""
    one, two = (layer(AUGMENT, "batch_size: 5 rand_skip: 9", seed=seed) for seed in (1, 2))
    for _ in range(3):
        one.forward()
    state = one.layer.state()
    assert state["position"] == 3 and sorted(state) == ["position", "seed"]
    expected = [one.forward() for _ in range(4)]
    assert not np.array_equal(two.forward(), expected[0])
    two.layer.restore(state)
    for batch in expected:
        np.testing.assert_array_equal(two.forward(), batch)
    assert {batch.shape[2] for batch in expected} == {12, 10}
    one.layer.close()
    two.layer.close()


def test_seed_rank_and_name_make_the_draws():
    text = ("layer {{ name: '{}' type: 'Data' top: 'data' transform_param {{ crop_size: 8 }} "
            f"data_param {{{{ source: '{RAW}' batch_size: 12 }}}} }}}}")

    def batch(name="d", **arguments):
        with Net(parse_net(text.format(name)), TRAIN, **arguments) as net:
            return net.forward()["data"].copy()
    batches = [batch(), batch(seed=1), batch(rank=1), batch(name="e")]
    assert len({array.tobytes() for array in batches}) == 4
    np.testing.assert_array_equal(batch(), batches[0])


def test_sizes_of_the_tops_change_with_the_images(tmp_path):
    with DatabaseWriter(str(tmp_path / "db")) as writer:
        for i, (height, width) in enumerate([(4, 8), (6, 3), (5, 5)]):
            writer.put(b"%d" % i, datum.raw(np.full((height, width, 3), i, np.uint8), i))
    text = ("layer { name: 'd' type: 'Data' top: 'data' top: 'label' transform_param { resize_short: 2 } "
            f"data_param {{ source: '{tmp_path / 'db'}' batch_size: 1 }} }}")
    with Net(parse_net(text), TEST) as net:
        shapes = []
        for _ in range(4):
            net.forward()
            shapes.append(net.blobs["data"].shape)
            assert (net.blobs["data"].data == net.blobs["label"].data[0]).all()
    assert shapes == [(1, 3, 2, 4), (1, 3, 4, 2), (1, 3, 2, 2), (1, 3, 2, 4)]


@pytest.mark.parametrize("old, new, message", [
    (f"source: '{RAW}'", "", "data_param needs a source, the folder of an LMDB, and has none"),
    (RAW, "no_lmdb", "LMDB 'no_lmdb' not found .*; build it with tools/convert_imageset .* no_lmdb"),
    ("batch_size: 5", "", "batch_size must be at least 1, found 0"),
    ("crop_size: 7", "crop_size: 25", r"record '00000000_00.png' of LMDB '.*raw_lmdb': crop_size 25 is "
                                      "larger than the image of 24 x 30 pixels .*; set .* to 25 or more"),
    ("crop_size: 7", "mean_file: 'mean'", "mean_file 'mean' not found .* tools/compute_image_mean DB mean"),
    ("crop_size: 7", "force_gray: true", "record '00000000_00.png' of LMDB '.*raw_lmdb': force_gray is for"),
    ("top: 'data'", "", r"takes 1 to 2 top blob\(s\), found 0"),
    ("type:", "bottom: 'x' type:", r"takes exactly 0 bottom blob\(s\), found 1")])
def test_what_cannot_be_built_says_where_and_why(old, new, message):
    text = (f"layer {{ name: 'x' type: 'Input' top: 'x' }} layer {{ name: 'd' type: 'Data' top: 'data' "
            f"transform_param {{ crop_size: 7 }} data_param {{ source: '{RAW}' batch_size: 5 }} }}")
    position = text.rindex(old)
    with pytest.raises(SppError, match=r"layer 'd' \(Data\): .*" + message) as error:
        with Net(parse_net(text[:position] + new + text[position + len(old):]), TEST) as net:
            net.forward()
    assert "\n" not in str(error.value)
