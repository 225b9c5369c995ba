"""Batches on their way to a GPU: right in whatever order its two streams work."""
import gc
import importlib
import os
from collections import deque
from typing import Any

import emulated_cupy
import numpy as np
import pytest

import cuda_cpu
from spp.backend import host
from spp.data.pixels import Pixels
from spp.data.stream import Batch, Stream

pytestmark = pytest.mark.skipif(cuda_cpu.COMPILER is None, reason=cuda_cpu.MISSING)


# --- two streams, whose work is done when it must be, or as soon as it may be

class Mark:
    """A place in a stream's work."""

    def __init__(self, queue=None):
        self.queue = queue
        self.reached = queue is None

    def reach(self):
        while not self.reached:
            self.queue.go_on()


class Queue:
    """A stream. Eager, it works at once, up to a mark of another that it has to wait for; else only if waited for."""

    ptr = 0

    def __init__(self, eager):
        self.eager = eager
        self.work: deque[Any] = deque()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def add(self, work):
        self.work.append(work)
        self.hurry()

    def wait_event(self, event):
        self.add(event.mark)

    def go_on(self):
        work = self.work[0]
        if isinstance(work, Mark):
            work.reach()
        self.work.popleft()
        if not isinstance(work, Mark):
            work()

    def hurry(self):
        while self.eager and self.work and not (isinstance(self.work[0], Mark) and not self.work[0].reached):
            self.go_on()


class Event:
    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.mark = Mark()

    def record(self, queue):
        mark = self.mark = Mark(queue)
        queue.add(lambda: setattr(mark, "reached", True))

    def synchronize(self):
        self.mark.reach()


class Target:
    """An array of the net, written when the stream that computes gets there."""

    def __init__(self, array, net):
        self.array, self.net = array, net

    def __setitem__(self, key, values):
        self.net.add(lambda: self.array.__setitem__(key, values))


@pytest.fixture(params=["none eager", "copies eager", "net eager"])
def streams(request, monkeypatch):
    """The stream that computes and that of copies, and CuPy, whose copies and `transform` they do."""
    with emulated_cupy.installed() as cupy:
        net, copies = Queue(request.param == "net eager"), Queue(request.param == "copies eager")
        monkeypatch.setattr(cupy.cuda, "Stream", lambda **kind: copies)
        monkeypatch.setattr(cupy.cuda, "Event", Event)
        monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda: net)
        write = cupy.ndarray.set

        def later(self, arr, stream=None):
            values = arr if _is_pinned(arr) else arr.copy()     # what is not pinned, the driver sets aside at once
            stream.add(lambda: write(self, values))
        monkeypatch.setattr(cupy.ndarray, "set", later)
        pinned = importlib.import_module("spp.backend.cuda.pinned")
        transform = pinned.transform
        monkeypatch.setattr(pinned, "transform", lambda *args: net.add(
            lambda: transform(*args[:-1], args[-1].array)))
        yield net, copies, cupy


def _is_pinned(array):
    return array.base is not None


class Batches(Stream):
    """Bytes, or floats if requested and in every fourth batch; sizes and means change."""

    means: Any = (np.array([1.5, 20, 300], np.float32),
                  np.random.default_rng(0).normal(100, 30, (20, 9, 3)).astype(np.float32))

    def __init__(self):
        super().__init__(batch_size=2, seed=0, prefetch=2, threads=2)

    @staticmethod
    def _shape(batch):
        return 2, 4 + batch % 3 + 6 * (batch > 5), 5, 3

    @property
    def shapes(self):
        count, height, width, channels = self._shape(self.position)
        return [(count, channels, height, width), (2,)]

    def _make(self, batch):
        rng = np.random.default_rng(batch)
        shape, as_bytes = self._shape(batch), self._as_bytes and batch % 4 != 3
        array, memory = self._empty(shape, np.uint8 if as_bytes else np.float32)
        pixels = Pixels(array if as_bytes else np.empty(shape, np.uint8), 0.1)
        pixels.images[...] = rng.integers(0, 256, shape)
        pixels.mirrored[...] = rng.integers(0, 2, 2)
        pixels.shift[...] = rng.normal(0, 9, (2, 3))
        pixels.place[...] = rng.integers(0, 5, (2, 2))
        pixels.mean = self.means[batch // 2 % 2]
        labels = np.full(2, batch, np.float32)
        if as_bytes:
            return Batch((pixels, labels), memory)
        data = array.transpose(0, 3, 1, 2)
        host.transform(*pixels.arrays, pixels.mean, pixels.scale, data)
        return Batch((data, labels), memory)


def _steps(feed, batches, target, count):
    """A net's arrays, new ones for each step, filled as StreamLayer.forward does it."""
    batches.prepare(feed.empty, as_bytes=feed.transforms)
    results = []
    for _ in range(count):
        targets = [target(shape) for shape in batches.shapes]
        feed.finish()
        feed.put(batches.next(), targets)
        batches._take_head()
        batches._head.exception()       # so that there is always one
        feed.start(batches.ready())
        results.append(targets)
        yield targets
    batches.close()


def _on_host(count, batches=None):
    return list(_steps(host.Feed(), batches or Batches(), lambda shape: np.zeros(shape, np.float32), count))


def _on_streams(streams, feed, count, batches=None):
    net, copies, cupy = streams
    results: list[Any] = []
    blocks: dict[int, Any] = {}
    for targets in _steps(feed, batches or Batches(), lambda s: Target(cupy.zeros(s, np.float32), net), count):
        results.append(targets)
        mine = {id(flat._a): flat for slot in feed._slots for flat in slot.flat.values()}
        for freed in set(blocks) - set(mine):       # the pool reuses it on the stream that allocated it
            copies.add(lambda block=blocks.pop(freed): block.fill(77))
        blocks.update(mine)
    for queue in (net, copies):
        while queue.work:
            queue.go_on()
    return [[target.array.get() for target in targets] for targets in results]


def _equal(results, expected):
    return all(np.array_equal(a, b) for one, other in zip(results, expected, strict=True)
               for a, b in zip(one, other, strict=True))


def test_whatever_the_streams_do_first(streams):
    from spp.backend.cuda import Feed
    results, expected = _on_streams(streams, Feed(), 16), _on_host(16)
    assert _equal(results, expected) and len({data.tobytes() for data, _ in expected}) == 16


@pytest.mark.parametrize("streams, fault", [("net eager", "net"), ("copies eager", "copies"), ("none eager", "host")],
                         indirect=["streams"])
def test_these_tests_see_what_nobody_waits_for(streams, fault, monkeypatch):
    from spp.backend.cuda import Feed
    feed = Feed()
    if fault == "host":
        monkeypatch.setattr(feed, "finish", lambda: None)
    else:
        streams[fault == "copies"].wait_event = lambda event: None
    assert not _equal(_on_streams(streams, feed, 16), _on_host(16))


def test_another_position_in_the_data(streams):
    from spp.backend.cuda import Feed
    feed, batches, other = Feed(), Batches(), Batches()
    for position in (0, 7, 3):          # though the next batch is on its way
        batches.seek(position)
        other.seek(position)
        assert _equal(_on_streams(streams, feed, 3, batches), _on_host(3, other))


def test_a_forgotten_feed_waits_for_its_copies(streams):
    from spp.backend.cuda import Feed
    net, copies, cupy = streams
    feed, batches = Feed(), Batches()
    for _ in _steps(feed, batches, lambda shape: Target(cupy.zeros(shape, np.float32), net), 2):
        pass
    assert copies.work or copies.eager or net.eager
    del feed, batches
    gc.collect()
    assert not copies.work and not any(isinstance(work, Mark) for work in net.work)


def test_on_a_gpu():
    if not os.environ.get("SPP_TEST_DEVICE", "cpu").startswith("cuda"):
        pytest.skip("copies to a GPU: SPP_TEST_DEVICE=cuda")
    import cupy
    from spp.backend.cuda import Feed
    results = list(_steps(Feed(), Batches(), lambda shape: cupy.zeros(shape, np.float32), 40))
    assert _equal([[array.get() for array in targets] for targets in results], _on_host(40))


def test_ready_does_not_wait():
    batches = Batches()
    assert batches.ready() is None          # reading ahead has not begun
    first = batches.next()
    batches._take_head()
    second = batches._head.result().arrays
    assert batches.ready() is second and batches.position == 1
    assert batches.next() is second and first is not second
    batches._take_head()
    batches._head.result()
    batches._head.exception = lambda: ValueError("a bad record")
    assert batches.ready() is None          # `next` will tell
    batches.close()
