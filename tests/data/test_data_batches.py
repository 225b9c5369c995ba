"""Batches: which records, in which order and shape, whatever the threads; and programs that can end."""
import gc
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from spp.backend import host
from spp.data.ahead import ahead, workers
from spp.data.batches import Batches
from spp.data.pixels import Pixels
from spp.errors import DataError
from spp.layers import TEST, TRAIN
from spp.proto.text import parse_net

AUGMENT = "crop_size: 6 mirror: true color_param {} size_param { size: 6 size: 4 size: 5 } scale: 0.1"


class Source:
    """Labelled noise; image i has label i."""

    def __init__(self, count=10, shape=lambda i: (8, 9, 3), bad=(), floats=()):
        self.count, self.shape, self.bad, self.floats = count, shape, bad, floats
        self.reads, self.closed = [], 0

    def __len__(self):
        return self.count

    def name(self, index):
        return f"image {index}"

    def read(self, index, color):
        self.reads.append(index)
        if index in self.bad:
            raise DataError("is bad")
        image = np.random.default_rng(index).integers(0, 256, self.shape(index), np.uint8)
        return image / np.float32(7) if index in self.floats else image, index

    def close(self):
        self.closed += 1


@pytest.fixture
def make():
    streams = []

    def batches(text="", batch_size=4, phase=TRAIN, source=None, **arguments):
        param = parse_net(f"layer {{ name: 'd' transform_param {{ {text} }} }}").layer[0].transform_param
        streams.append(Batches(source or Source(), param, batch_size, phase, **arguments))
        return streams[-1]

    yield batches
    for one in streams:
        one.close()


def take(batches, count):
    return [tuple(array.copy() for array in batches.next()) for _ in range(count)]


def same(one, two):
    pairs = [pair for x, y in zip(one, two, strict=True) for pair in zip(x, y)]
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.fixture
def threads():
    """The reading threads that the test has started."""
    before = set(threading.enumerate())
    return lambda: [t for t in threading.enumerate() if t.name.startswith("spp-data") and t not in before]


def test_records_go_round_and_round(make):
    batches = make(phase=TEST)
    assert len(batches) == 10 and batches.epoch == 0
    labels, epochs = [], []
    for _ in range(6):
        epochs.append(batches.epoch)
        data, label = batches.next()
        assert label.dtype == np.float32 and label.shape == (4,)
        assert data.dtype == np.float32 and data.shape == (4, 3, 8, 9)
        assert data.transpose(0, 2, 3, 1).flags.c_contiguous
        for image, index in zip(data, label.astype(int)):
            np.testing.assert_array_equal(image.transpose(1, 2, 0), Source().read(index, None)[0])
        labels += list(label)
    assert labels == [i % 10 for i in range(24)]
    assert epochs == [0, 0, 0, 1, 1, 2] and batches.epoch == 2 and batches.position == 6


def test_numbers_do_not_depend_on_the_threads(make, monkeypatch, threads):
    runs = []
    for count in ("1", "2", "4"):
        monkeypatch.setenv("SPP_DATA_WORKERS", count)
        batches = make(AUGMENT, seed=3, prefetch=int(count) + 1)
        runs.append(take(batches, 12))
        assert len(threads()) == int(count)
        batches.close()
    assert same(runs[0], runs[1]) and same(runs[0], runs[2])
    assert not same(runs[0], take(make(AUGMENT, seed=4), 12))


def test_going_to_a_position(make):
    whole = take(make(AUGMENT, seed=3, rand_skip=10), 12)
    batches = make(AUGMENT, seed=3, rand_skip=10)
    for position in (7, 2, 11, 0):
        batches.seek(position)
        assert batches.shapes[0] == whole[position][0].shape
        assert same(take(batches, 1), [whole[position]]) and batches.position == position + 1
    batches.seek(10 ** 12)
    assert batches.epoch == 4 * 10 ** 11 and batches.next()[1][0] == whole[0][1][0]
    other = make(AUGMENT, seed=4, rand_skip=10)
    other.next()
    other.seek(5, seed=3)
    assert other.seed == 3 and same(take(other, 1), [whole[5]])


def test_the_size_is_that_of_the_epoch_of_the_first_record(make):
    batches = make(AUGMENT)
    first, sizes = [], []
    for _ in range(10):
        first.append(batches.shapes[0][2])
        sizes.append(batches.next()[0].shape)
    # records 0..39; epochs begin at 10, 20, 30, and batches at 4 k
    assert [size[3] for size in sizes] == first == [6, 6, 6, 4, 4, 5, 5, 5, 6, 6]
    assert all(size[:2] == (4, 3) for size in sizes)


def test_peeking_reads_one_record_and_nothing_is_taken(make, threads):
    source = Source()
    batches = make("crop_size: 5", source=source)
    assert batches.shapes[0] == batches.shapes[0] == (4, 3, 5, 5)
    assert source.reads == [0, 0] and not threads()
    assert list(batches.next()[1]) == [0, 1, 2, 3]
    assert batches.shapes[0] == (4, 3, 5, 5) and batches.position == 1
    assert list(batches.next()[1]) == [4, 5, 6, 7]


@pytest.mark.parametrize("prefetch, count, expected", [(3, 1, 3), (1, 2, 2), (0, 1, 1)])
def test_as_many_batches_ahead_as_asked_for(make, monkeypatch, prefetch, count, expected):
    monkeypatch.setenv("SPP_DATA_WORKERS", str(count))
    source = Source()
    batches = make(source=source, prefetch=prefetch)
    for taken in (1, 2):
        batches.next()
        expected_reads = 4 * (taken + expected)
        until = time.monotonic() + 10
        while len(source.reads) < expected_reads and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(source.reads) == expected_reads


def test_a_batch_is_the_callers_until_the_next(make):
    batches = make(AUGMENT)
    addresses = []
    for _ in range(30):
        data, labels = batches.next()
        addresses.append(data.__array_interface__["data"][0])
        before = data.copy()
        time.sleep(0.002)
        np.testing.assert_array_equal(data, before)
    assert len(set(addresses)) < 10      # memory is used again


def test_images_stay_bytes_where_they_may(make):
    """Image 5 is floats, and so is its batch; memory is used again for the other kind."""
    expected = take(make(AUGMENT, seed=3, source=Source(floats=[5])), 12)
    batches = make(AUGMENT, seed=3, source=Source(floats=[5]))
    batches.prepare(host.Feed().empty, as_bytes=True)
    kinds = []
    for data, labels in expected:
        assert batches.shapes[0] == data.shape
        result, numbers = batches.next()
        kinds.append(isinstance(result, Pixels))
        if isinstance(result, Pixels):
            assert result.shape == data.shape and result.images.dtype == np.uint8
            transformed = np.empty(result.shape, np.float32)
            host.transform(*result.arrays, result.mean, result.scale, transformed)
            result = transformed
        np.testing.assert_array_equal(result, data)
        np.testing.assert_array_equal(numbers, labels)
    assert kinds == [5 not in labels for _, labels in expected] and 3 <= sum(kinds) < 12


def test_records_to_skip_at_the_start(make):
    starts = [make(seed=seed, rand_skip=3).next()[1][0] for seed in range(40)]
    assert set(starts) == {0, 1, 2}
    assert starts == [make(seed=seed, rand_skip=3).next()[1][0] for seed in range(40)]
    assert {make(seed=seed).next()[1][0] for seed in range(10)} == {0}


def test_images_of_different_sizes(make):
    def shape(i):
        return (8 + i % 3, 9, 3)
    batches = make(batch_size=1, source=Source(shape=shape))
    assert [batches.next()[0].shape[2] for _ in range(4)] == [8, 9, 10, 8]
    assert make("crop_size: 8", source=Source(shape=shape)).next()[0].shape == (4, 3, 8, 8)
    batches = make(source=Source(shape=shape))
    message = (r"image 1: gives an input of 9 x 9 x 3 \(height x width x channels\), but the first image of its batch "
               "gives 8 x 9 x 3; images of different sizes need batch_size 1")
    with pytest.raises(DataError, match=message):
        batches.next()


def test_a_bad_image_is_named_when_its_turn_comes(make):
    batches = make(source=Source(bad=[5]))
    assert list(batches.next()[1]) == [0, 1, 2, 3]
    for act in (batches.next, lambda: batches.shapes, batches.next):
        with pytest.raises(DataError, match="^image 5: is bad$"):
            act()
    assert batches.position == 1
    batches.seek(2)
    assert list(batches.next()[1]) == [8, 9, 0, 1]
    with pytest.raises(DataError, match="^image 0: is bad$"):
        _ = make(source=Source(bad=[0])).shapes
    with pytest.raises(DataError, match="^image 0: crop_size 9 is larger than the image of 8 x 9 pixels"):
        make("crop_size: 9").next()


def test_other_errors_come_through_as_they_are(make):
    batches = make(source=Source(shape=lambda i: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        batches.next()


def test_arguments(make, monkeypatch):
    with pytest.raises(DataError, match="batch_size must be at least 1, found 0"):
        make(batch_size=0)
    for text in ("0", "x", "-1", ""):
        monkeypatch.setenv("SPP_DATA_WORKERS", text)
        with pytest.raises(DataError, match=f"SPP_DATA_WORKERS: expected a number of threads, .* '{text}'"):
            make()
    monkeypatch.delenv("SPP_DATA_WORKERS")
    assert 1 <= workers() <= 4


def test_closing_ends_the_threads(make, threads):
    source = Source()
    batches = make(source=source)
    batches.next()
    assert threads()
    batches.close()
    batches.close()
    assert not threads() and source.closed == 2


def test_forgetting_ends_the_threads(threads):
    batches = Batches(Source(), parse_net("layer { name: 'd' }").layer[0].transform_param, 4, TRAIN)
    batches.next()
    assert threads()
    del batches
    until = time.monotonic() + 10
    while threads() and time.monotonic() < until:
        gc.collect()
        time.sleep(0.01)
    assert not threads()


def test_computing_ahead_keeps_the_order():
    def slow(i):
        time.sleep(0.02 * (i % 3 == 0))
        return i * i
    assert [future.result() for future in ahead(slow, range(20), 3, 4)] == [i * i for i in range(20)]
    assert [future.result() for future in ahead(slow, [], 3, 4)] == []


def test_computing_ahead_can_be_given_up(threads):
    seen: list[int] = []
    futures = ahead(seen.append, range(1000), 5, 1)
    next(futures).result()
    futures.close()
    assert len(seen) <= 7 and not threads()


PROGRAM = """
import time
seconds = 0
import numpy as np
from spp.data.batches import Batches
from spp.proto import caffe_pb2
class Source:
    def __len__(self):
        return 10
    def name(self, index):
        return ""
    def read(self, index, color):
        time.sleep(seconds)
        return np.zeros((4, 4, 3), np.uint8), 0
batches = Batches(Source(), caffe_pb2.TransformationParameter(), 1000, caffe_pb2.TRAIN)
batches.next()
seconds = 0.05      # an image; a batch takes 50
print("ready", flush=True)
"""


@pytest.mark.parametrize("more, number, code", [
    ("", None, 0), ("raise SystemExit(3)", None, 3),
    ("while True: batches.next()", signal.SIGINT, -signal.SIGINT)])
def test_a_program_ends_at_once(more, number, code):
    process = subprocess.Popen([sys.executable, "-c", PROGRAM + more], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    start = time.monotonic()
    if number:
        time.sleep(0.3)
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code and time.monotonic() - start < 5
    assert errors.splitlines()[-1:] == ([b"KeyboardInterrupt"] if number else [])
