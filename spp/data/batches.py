"""Batches of transformed images, read ahead on threads."""
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from spp.data.stream import Batch, Stream
from spp.data.transform import ORDER, RECORDS, SKIP, Transformer, generator
from spp.errors import DataError, format_shape
from spp.proto import caffe_pb2


class Images(Protocol):
    """A source of labelled images; `name` and `read` are called from several threads at once."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Description of image `index` for messages."""

    def read(self, index: int, color: bool | None) -> tuple[np.ndarray, int]:
        """Image (H x W x C, uint8 or float32) and label; raises DataError without the image's name."""

    def close(self) -> None: ...


class Batches(Stream):
    """Batches of transformed images from a source, epoch after epoch, read ahead.

    `next` returns data, float32, N x C x H x W (channels last in memory), and labels, float32, N. After `prepare` with
    as_bytes, data are Pixels, unless an image of the batch is float32 or its transformation needs floats.

    Batch k has the records k * batch_size to (k + 1) * batch_size - 1; record r is image (r + skip) modulo len(), with
    a random skip below rand_skip; `shuffle` permutes the images anew for every epoch of len() records.

    `phase` is caffe_pb2.TRAIN or TEST; `seed` is 0 or more. Raises DataError for a bad transform_param, and
    from `shapes` and `next` for a bad record, which it names.
    """

    def __init__(self, source: Images, transform_param: caffe_pb2.TransformationParameter, batch_size: int,
                 phase: int, seed: int = 0, prefetch: int = 4, *, rand_skip: int = 0, shuffle: bool = False) -> None:
        super().__init__(batch_size, seed, prefetch)
        self._source = source
        self._rand_skip = rand_skip
        self._shuffle = shuffle
        self._order = functools.lru_cache(2)(self._draw_order)      # a batch may be part of two epochs
        self._transformer = Transformer(transform_param, phase)

    def __len__(self) -> int:
        return len(self._source)

    @property
    def epoch(self) -> int:
        """The epoch of the next batch's first record."""
        return self._epoch(self.position)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the next batch's data and labels; reads one record if reading ahead has not begun."""
        if self._futures is not None:
            return [array.shape for array in self._peek().arrays]
        record = self.position * self._batch_size
        with self._named(record):
            image, _ = self._source.read(self._index(record), self._transformer.color)
        height, width, channels = self._transformer.shape(image.shape, self._size(self.position))
        return [(self._batch_size, channels, height, width), (self._batch_size,)]

    def close(self) -> None:
        """End the threads and close the source. May be called twice."""
        super().close()
        self._source.close()

    def _epoch(self, batch: int) -> int:
        return batch * self._batch_size // len(self)

    def _size(self, batch: int) -> int:
        return self._transformer.size(self._epoch(batch), self.seed)

    def _index(self, record: int) -> int:
        skip = generator(self.seed, SKIP, 0).integers(self._rand_skip) if self._rand_skip else 0
        epoch, place = divmod(record + int(skip), len(self))
        return int(self._order(self.seed, epoch)[place]) if self._shuffle else place

    def _draw_order(self, seed: int, epoch: int) -> np.ndarray:
        return generator(seed, ORDER, epoch).permutation(len(self))

    @contextmanager
    def _named(self, record: int) -> Iterator[None]:
        """Prefix DataErrors raised in a block with the name of a record's image."""
        try:
            yield
        except DataError as error:
            raise DataError(f"{self._source.name(self._index(record))}: {error}") from error

    def _make(self, batch: int) -> Batch | None:
        return self._fill(batch, self._as_bytes and self._transformer.stages(self._size(batch)))

    def _fill(self, batch: int, as_bytes: bool) -> Batch | None:
        size = self._size(batch)
        labels = np.empty(self._batch_size, np.float32)
        data: Any = None
        pixels: Any = None
        memory = None
        for i in range(self._batch_size):
            if self._unwanted:
                return None
            record = batch * self._batch_size + i
            with self._named(record):
                image, labels[i] = self._source.read(self._index(record), self._transformer.color)
            if as_bytes and image.dtype != np.uint8:
                return self._fill(batch, as_bytes=False)
            with self._named(record):
                shape = self._transformer.shape(image.shape, size)
                if data is None:
                    dtype = np.uint8 if as_bytes else np.float32
                    data, memory = self._empty((self._batch_size, *shape), dtype)
                    if as_bytes:
                        pixels = self._transformer.pixels(data)
                if shape != data.shape[1:]:
                    raise DataError(f"gives an input of {format_shape(shape)} (height x width x channels), but the "
                                    f"first image of its batch gives {format_shape(data.shape[1:])}; images of "
                                    "different sizes need batch_size 1, or crop_size")
                rng = generator(self.seed, RECORDS, record)
                if as_bytes:
                    self._transformer.stage(image, pixels, i, rng, size)
                else:
                    self._transformer.write(image, data[i], rng, size)
        return Batch((pixels if as_bytes else data.transpose(0, 3, 1, 2), labels), memory)
