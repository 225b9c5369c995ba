"""Batches on their way to a GPU: right though the copies begin as late as a GPU may begin them."""
import os

import emulated_cupy
import numpy as np
import pytest

from spp.backend import host
from spp.data.stream import Stream
from spp.layers import TRAIN
from spp.net import Net
from spp.proto import text


class LateStream:
    """A stream whose copies are done when somebody waits for them, and not before."""

    def __init__(self, null=False, non_blocking=False, ptds=False):
        self.waiting = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def wait_event(self, event):
        pass            # of the stream that computes, which here does everything at once

    def run(self, count):
        for work in self.waiting[:count]:
            work()
        del self.waiting[:count]


class LateEvent:
    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.stream = None

    def record(self, stream):
        self.stream = stream if isinstance(stream, LateStream) else None
        if self.stream:
            reached = []
            self.stream.waiting.append(lambda: reached.append(True))
            self.reached = reached

    def synchronize(self):
        while self.stream and not self.reached:
            self.stream.run(1)


class Now:
    """The stream that computes: it waits for an event by having the work before it done."""

    ptr = 0

    def wait_event(self, event):
        event.synchronize()


@pytest.fixture
def late(monkeypatch):
    with emulated_cupy.installed() as cupy:
        monkeypatch.setattr(cupy.cuda, "Stream", LateStream)
        monkeypatch.setattr(cupy.cuda, "Event", LateEvent)
        monkeypatch.setattr(cupy.cuda, "get_current_stream", Now)
        write = cupy.ndarray.set

        def put_off(self, arr, stream=None):
            values = arr if _is_pinned(arr) else arr.copy()     # what is not pinned, the driver sets aside at once
            stream.waiting.append(lambda: write(self, values))
        monkeypatch.setattr(cupy.ndarray, "set", put_off)
        yield cupy


def _is_pinned(array):
    return array.base is not None


class Batches(Stream):
    """Batch k has k in all places; its size changes."""

    def __init__(self):
        super().__init__(0, 2, 2)

    @property
    def shapes(self):
        shape = (2, 3, 4 + self._position % 3, 5)
        return [shape, (2,)]

    def _make(self, batch):
        data = self._memory((2, 4 + batch % 3, 5, 3))
        data[...] = batch
        data[0, 0, 0] += (0.1, 0.2, 0.3)
        return data.transpose(0, 3, 1, 2), np.full(2, batch, np.float32)


def _steps(feed, batches, zeros, read, count):
    """What a net's arrays hold after each step, done as StreamLayer.forward does it."""
    batches.empty = feed.empty
    for _ in range(count):
        data, labels = (zeros(shape) for shape in batches.shapes)
        feed.finish()
        feed.put(batches.next(), [data, labels])
        upcoming = batches.ready()
        if upcoming is not None:
            feed.start(upcoming)
        yield read(data), read(labels)
    batches.close()


def test_late_copies(late):
    from spp.backend.cuda import Feed
    found = _steps(Feed(), Batches(), lambda shape: late.zeros(shape, np.float32), lambda a: a.get(), 12)
    expected = _steps(host.Feed(), Batches(), lambda shape: np.zeros(shape, np.float32), np.copy, 12)
    for (data, labels), (wanted, numbers) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(data, wanted)
        np.testing.assert_array_equal(labels, numbers)


def test_on_a_gpu():
    if not os.environ.get("SPP_TEST_DEVICE", "cpu").startswith("cuda"):
        pytest.skip("copies to a GPU: SPP_TEST_DEVICE=cuda")
    import cupy
    from spp.backend.cuda import Feed
    found = _steps(Feed(), Batches(), lambda shape: cupy.zeros(shape, np.float32), lambda a: a.get(), 40)
    for number, (data, labels) in enumerate(found):
        assert (labels == number).all() and (data[1] == number).all()


def test_the_test_sees_a_copy_that_nobody_waited_for(late, monkeypatch):
    from spp.backend.cuda import Feed
    monkeypatch.setattr(Now, "wait_event", lambda self, event: None)
    data, labels = next(_steps(Feed(), Batches(), lambda shape: late.zeros(shape, np.float32), lambda a: a.get(), 1))
    assert not (labels == 0).all()


def test_another_position_in_the_data(late):
    from spp.backend.cuda import Feed
    feed, batches = Feed(), Batches()
    batches.empty = feed.empty
    for position in (0, 7, 3):
        batches.position = position
        for number in range(position, position + 3):
            labels = late.zeros(2, np.float32)
            data = late.zeros(batches.shapes[0], np.float32)
            feed.finish()
            feed.put(batches.next(), [data, labels])
            batches._take_head()
            feed.start(batches._head.result())      # the next batch, on its way when the position changes
            assert (labels.get() == number).all() and (data.get()[1] == number).all()
    batches.close()


def test_ready_does_not_wait():
    batches = Batches()
    assert batches.ready() is None          # reading ahead has not begun
    first = batches.next()
    batches._take_head()
    second = batches._head.result()
    assert batches.ready() is second and batches.position == 1
    assert batches.next() is second and first is not second
    batches._take_head()
    batches._head.result()
    batches._head.exception = lambda: ValueError("a bad record")
    assert batches.ready() is None          # `next` will tell
    batches.close()


def test_host_and_gpu_read_the_same(tmp_path):
    from spp.data.database import DatabaseWriter
    from spp.proto import caffe_pb2
    rng = np.random.default_rng(0)
    with DatabaseWriter(str(tmp_path / "lmdb")) as writer:
        for i in range(7):
            image = rng.integers(0, 256, (3, 9, 8), np.uint8)
            datum = caffe_pb2.Datum(channels=3, height=9, width=8, data=image.tobytes(), label=i)
            writer.put(f"{i:04d}".encode(), datum.SerializeToString())
    param = text.parse_net(f"""layer {{ name: "data" type: "Data" top: "data" top: "label"
        data_param {{ source: "{tmp_path / 'lmdb'}" backend: LMDB batch_size: 3 }}
        transform_param {{ crop_size: 6 mirror: true mean_value: 100 }} }}""")
    with Net(param, TRAIN, device="cpu", seed=5) as net:
        wanted = [{name: values.copy() for name, values in net.forward().items()} for _ in range(5)]
        state = net.state()
    with emulated_cupy.installed(), Net(param, TRAIN, device="cuda", seed=5) as net:
        for batch in wanted:
            found = net.forward()
            for name, values in batch.items():
                np.testing.assert_array_equal(found[name].get(), values)
        assert net.state() == state         # though the sixth batch may be on its way
