"""Batches of transformed images, read ahead (`ahead` says why on threads).

Everything about a batch is a pure function of its number: which records it has, and (by
`transform.generator`) every random draw. So the numbers do not depend on the threads, and going to another
position costs nothing.
"""
import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from spp.data.ahead import ahead, program_ends, workers
from spp.data.transform import RECORDS, SKIP, Transformer, generator
from spp.errors import DataError
from spp.proto import caffe_pb2


class Images(Protocol):
    """A source of labelled images; `name` and `read` are called from several threads at once."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Words for messages about image `index`."""

    def read(self, index: int, color: bool | None) -> tuple[np.ndarray, int]:
        """Image (H x W x C, uint8 or float32) and label; raises DataError without the image's name."""

    def close(self) -> None: ...


class Batches:
    """Batches of transformed images from a source, round and round, read ahead.

    Batch k has the running records k * batch_size .. (k + 1) * batch_size - 1; running record r is image
    (r + skip) modulo len() of the source, where skip < rand_skip is drawn from the seed. An epoch is len()
    running records. `prefetch` batches are made ahead, or as many as there are threads if that is more.

    `phase` is caffe_pb2.TRAIN or TEST; `seed` is 0 or more. Raises DataError for a bad transform_param, and
    from `peek_shape` and `next` for a bad record, which it names.
    """

    def __init__(self, source: Images, transform_param: caffe_pb2.TransformationParameter, batch_size: int,
                 phase: int, seed: int = 0, prefetch: int = 4, rand_skip: int = 0) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, found {batch_size}")
        self._source = source
        self._batch_size = batch_size
        self._seed = seed
        self._rand_skip = rand_skip
        self._threads = workers()
        self._depth = max(prefetch, self._threads)
        self._transformer = Transformer(transform_param, phase)
        self._position = 0
        self._stream: Any = None            # the generator of futures of the batches from `_position` on
        self._head: Any = None              # the future of batch `_position`, once it was taken from there
        self._lent: Any = None              # memory of the batch that the caller has
        self._spare: list[np.ndarray] = []  # memory of batches that he had
        self._closing = False

    def __len__(self) -> int:
        return len(self._source)

    @property
    def position(self) -> int:
        """Number of the next batch; set it to go on from there."""
        return self._position

    @position.setter
    def position(self, batch: int) -> None:
        self._stop()
        self._position = batch

    @property
    def seed(self) -> int:
        """What all random draws come from; set it, with `position`, to go on as other Batches did."""
        return self._seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self._stop()
        self._seed = seed

    @property
    def epoch(self) -> int:
        """The epoch in which the next batch's first record lies."""
        return self._epoch(self._position)

    def peek_shape(self) -> tuple[int, int, int, int]:
        """The shape N x C x H x W of the next batch's data.

        Where reading ahead has not begun, one record is read for it.
        """
        if self._stream is not None:
            count, height, width, channels = self._peek()[0].shape
            return count, channels, height, width
        record = self._position * self._batch_size
        with self._named(record):
            image, _ = self._source.read(self._index(record), self._transformer.color)
        height, width, channels = self._transformer.shape(image.shape, self._size(self._position))
        return self._batch_size, channels, height, width

    def next(self) -> tuple[np.ndarray, np.ndarray]:
        """The next batch: data, float32, N x C x H x W (channels last in memory), and labels, float32, N.

        Both are the caller's until he calls `next` again.
        """
        data, labels = self._peek()
        self._head = None
        self._position += 1
        if self._lent is not None:
            self._spare.append(self._lent)
        self._lent = data.base
        return data.transpose(0, 3, 1, 2), labels

    def close(self) -> None:
        """End the threads and close the source. May be called twice."""
        self._stop()
        self._source.close()

    def _peek(self) -> Any:
        """The next batch as `_make` made it; raises what that raised, every time."""
        if self._stream is None:
            self._stream = ahead(self._make, itertools.count(self._position), self._depth, self._threads)
        if self._head is None:
            self._head = next(self._stream)
        return self._head.result()

    def _stop(self) -> None:
        if self._stream is not None:
            self._closing = True
            self._stream.close()
            self._closing = False
            self._stream = self._head = None

    def _epoch(self, batch: int) -> int:
        return batch * self._batch_size // len(self)

    def _size(self, batch: int) -> int:
        return self._transformer.size(self._epoch(batch), self._seed)

    def _index(self, record: int) -> int:
        skip = generator(self._seed, SKIP, 0).integers(self._rand_skip) if self._rand_skip else 0
        return (record + int(skip)) % len(self)

    @contextmanager
    def _named(self, record: int) -> Iterator[None]:
        """Put the name of the image behind a running record before the DataErrors of a block."""
        try:
            yield
        except DataError as error:
            raise DataError(f"{self._source.name(self._index(record))}: {error}") from error

    def _make(self, batch: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Data, N x H x W x C, and labels of a batch; runs on a thread. None if nobody will want it."""
        size = self._size(batch)
        labels = np.empty(self._batch_size, np.float32)
        data: Any = None
        for i in range(self._batch_size):
            if self._closing or program_ends():
                return None
            record = batch * self._batch_size + i
            with self._named(record):
                image, labels[i] = self._source.read(self._index(record), self._transformer.color)
                shape = self._transformer.shape(image.shape, size)
                if data is None:
                    data = self._memory((self._batch_size, *shape))
                if shape != data.shape[1:]:
                    raise DataError(f"makes an input of {_text(shape)} (height x width x channels), the "
                                    f"first of its batch one of {_text(data.shape[1:])}; images of different "
                                    "sizes need batch_size 1, or crop_size")
                self._transformer.write(image, data[i], generator(self._seed, RECORDS, record), size)
        return data, labels

    def _memory(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array of this shape, in memory of an earlier batch where that is large enough."""
        count = math.prod(shape)
        flat = None
        try:
            flat = self._spare.pop()
        except IndexError:
            pass
        if flat is None or flat.size < count:
            flat = np.empty(count, np.float32)
        return flat[:count].reshape(shape)


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
