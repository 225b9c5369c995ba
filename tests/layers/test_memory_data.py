"""MemoryData: arrays and Datum messages that the program hands over."""
import numpy as np
import pytest

from one_layer import OneLayer
from spp.data import datum
from spp.errors import SppError
from spp.layers import TEST, TRAIN
from spp.layers.memory_data import MemoryData
from spp.net import Net
from spp.proto.caffe_pb2 import Datum
from spp.proto.text import parse_net

SIZES = "memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 }"


def make(transform="", sizes=SIZES, phase=TEST, **arguments):
    return OneLayer(f"type: 'MemoryData' transform_param {{ {transform} }} {sizes}", tops=2, phase=phase, **arguments)


def arrays(count, seed=0):
    data = np.random.default_rng(seed).normal(size=(count, 3, 4, 5)).astype(np.float32)
    return data, np.arange(count, dtype=np.float32) + 10 * seed


def image(index, height=4, width=5):
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)


def datums(indices, **size):
    return [Datum.FromString(datum.raw(image(i, **size), i)) for i in indices]


def test_arrays_go_round():
    one = make("scale: 100")                     # which is for added data only
    data, labels = arrays(6)
    one.layer.set_input_arrays(data, labels)
    for first in (0, 2, 4, 0, 2):
        outputs = one.forward()
        np.testing.assert_array_equal(outputs[0], data[first:first + 2])
        np.testing.assert_array_equal(outputs[1], labels[first:first + 2])
    assert [blob.shape for blob in one.top] == [(2, 3, 4, 5), (2,)]


def test_new_arrays_begin_at_once_and_labels_may_have_four_axes():
    one = make()
    one.layer.set_input_arrays(*arrays(4))
    one.forward()
    data, labels = arrays(2, seed=1)
    one.layer.set_input_arrays(data, labels.reshape(2, 1, 1, 1))
    for _ in range(2):
        outputs = one.forward()
        np.testing.assert_array_equal(outputs[0], data)
        assert list(outputs[1]) == [10, 11]


def test_what_is_written_into_the_arrays_is_seen():
    one = make()
    data, labels = arrays(2)
    view = data.transpose(0, 1, 2, 3)[:, :, :, ::-1]
    one.layer.set_input_arrays(view, labels)
    data[1, 2, 3, 4], labels[0] = 77, 88
    outputs = one.forward()
    assert outputs[0][1, 2, 3, 0] == 77 and outputs[1][0] == 88


def test_datums_are_transformed():
    one = make("mean_value: 10 mean_value: 20 mean_value: 30 scale: 0.5")
    one.layer.add_datum_vector(datums([3, 4]))
    data, labels = one.forward()
    for picture, index in zip(data, (3, 4)):
        expected = (image(index).transpose(2, 0, 1) - np.array([10, 20, 30]).reshape(3, 1, 1)) * 0.5
        np.testing.assert_array_equal(picture, expected)
    assert list(labels) == [3, 4]


def test_crop_and_mirror_are_drawn_from_the_seed_and_go_on():
    def run(seed, state=None, skip=0):
        one = make("crop_size: 4 mirror: true", SIZES.replace("width: 5", "width: 4"), TRAIN, seed=seed)
        if state:
            one.layer.random_stream()
            one.layer.restore(state)
        for _ in range(skip):
            one.layer.add_datum_vector(datums([1, 2], height=9, width=8))
            batch = one.forward()[0]
        return one, None if skip == 0 else batch
    one, first = run(0, skip=1)
    np.testing.assert_array_equal(run(0, skip=1)[1], first)
    assert len({run(seed, skip=1)[1].tobytes() for seed in range(5)}) == 5
    state = one.layer.state()
    assert sorted(state) == ["position", "random"]
    _, second = run(0, skip=2)
    _, resumed = run(1, state, skip=1)
    np.testing.assert_array_equal(resumed, second)
    windows = np.lib.stride_tricks.sliding_window_view(image(1, 9, 8).transpose(2, 0, 1), (4, 4), (1, 2))
    both = [*windows[0].reshape(-1, 4, 4), *windows[0, :, :, :, ::-1].reshape(-1, 4, 4)]
    assert any((first[0, 0] == part).all() for part in both)


def test_a_position_is_kept():
    one, other = make(), make()
    for layer in (one, other):
        layer.layer.set_input_arrays(*arrays(6))
    one.forward()
    one.forward()
    assert one.layer.state() == {"position": 4}
    other.layer.restore(one.layer.state())
    assert list(other.forward()[1]) == [4, 5] and list(other.forward()[1]) == [0, 1]
    other.layer.set_input_arrays(*arrays(2))
    other.layer.restore({"position": 8})                 # of other data
    assert list(other.forward()[1]) == [0, 1]


def test_data_are_added_when_the_last_were_used():
    one = make()
    one.layer.add_datum_vector(datums([1, 2, 3, 4]))
    message = (r"layer 'l' \(MemoryData\): data cannot be added until what was added before has been used; run "
               "forward first")
    for _ in range(2):
        with pytest.raises(SppError, match=message):
            one.layer.add_datum_vector(datums([5, 6]))
        one.forward()
    one.layer.add_datum_vector(datums([5, 6]))
    assert [list(one.forward()[1]) for _ in range(2)] == [[5, 6], [5, 6]]
    one.layer.add_datum_vector(datums([7, 8]))
    one.layer.set_input_arrays(*arrays(2))               # replaces them
    one.layer.add_datum_vector(datums([9, 9]))
    assert list(one.forward()[1]) == [9, 9]


@pytest.mark.parametrize("data, labels, message", [
    (np.zeros((2, 3, 4, 5)), np.zeros(2, np.float32), r"data must be a float32 array, found float64; use np.float32"),
    (np.zeros((2, 3, 4, 5), np.float32), np.zeros(2, int), "labels must be a float32 array, found int64"),
    ([[1.0]], np.zeros(2, np.float32), "data must be a float32 array, found list"),
    (np.zeros((2, 3, 5, 4), np.float32), np.zeros(2, np.float32), "data must have the shape n x 3 x 4 x 5, found "
                                                                  "2 x 3 x 5 x 4"),
    (np.zeros((3, 4, 5), np.float32), np.zeros(2, np.float32), "must have the shape n x 3 x 4 x 5, found 3 x 4 x 5"),
    (np.zeros((3, 3, 4, 5), np.float32), np.zeros(3, np.float32), "the number of examples must be a multiple of "
                                                                  "batch_size 2, found 3"),
    (np.zeros((0, 3, 4, 5), np.float32), np.zeros(0, np.float32), "a multiple of batch_size 2, found 0"),
    (np.zeros((2, 3, 4, 5), np.float32), np.zeros(4, np.float32), "labels must be 2, one per example, found the shape "
                                                                  r"\(4,\)"),
    (np.zeros((2, 3, 4, 5), np.float32), np.zeros((2, 2), np.float32), r"one per example, found the shape \(2, 2\)")])
def test_arrays_that_do_not_fit(data, labels, message):
    with pytest.raises(SppError, match=r"layer 'l' \(MemoryData\): .*" + message):
        make().layer.set_input_arrays(data, labels)


@pytest.mark.parametrize("vector, message", [
    ([], "the number of examples must be a multiple of batch_size 2, found 0"),
    (datums([1, 2, 3]), "the number of examples must be a multiple of batch_size 2, found 3"),
    (datums([1, 2], height=5), r"Datum 0 makes 3 x 5 x 5 \(channels x height x width\), and memory_data_param says "
                               "3 x 4 x 5"),
    ([Datum(), Datum()], r"its Datum says 0 x 0 x 0 \(channels x height x width\)")])
def test_datums_that_do_not_fit(vector, message):
    with pytest.raises(SppError, match=message):
        make().layer.add_datum_vector(vector)


def test_in_a_net():
    text = f"layer {{ name: 'm' type: 'MemoryData' top: 'data' top: 'label' {SIZES} }}"
    net = Net(parse_net(text))
    with pytest.raises(SppError, match=r"layer 'm' \(MemoryData\): needs to be initialized with examples; call its "
                                       r"set_input_arrays\(data, labels\) or add_datum_vector\(datums\) before"):
        net.forward()
    memory = net.layers[0]
    assert isinstance(memory, MemoryData)
    memory.set_input_arrays(*arrays(2))
    outputs = net.forward()
    np.testing.assert_array_equal(outputs["data"], arrays(2)[0])
    for field in ("batch_size: 2", "channels: 3", "height: 4", "width: 5"):
        with pytest.raises(SppError, match=r"layer 'm' \(MemoryData\): memory_data_param needs batch_size, channels, "
                                           "height and width, each at least 1; found"):
            Net(parse_net(text.replace(field, "")))
    with pytest.raises(SppError, match=r"takes exactly 2 top blob\(s\), found 1"):
        Net(parse_net(text.replace("top: 'label'", "")))


def test_double_precision():
    one = make(dtype=np.float64)
    one.layer.set_input_arrays(*arrays(2))
    assert one.forward()[0].dtype == np.float64
