"""Batches made ahead on threads, in order, from any source."""
import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from spp.data.ahead import ahead, program_ends, workers
from spp.errors import DataError


class Batch(NamedTuple):
    """The arrays of a batch, and the flat memory (uint8) of the first one if a later batch may use it again."""

    arrays: tuple[Any, ...]
    memory: np.ndarray | None = None


class Stream(ABC):
    """Batches 0, 1, 2, ... from `_make`, made ahead on `threads` threads (None: `ahead.workers`).

    At least `prefetch` batches are made ahead, and at least one per thread. Everything about a batch is a pure
    function of the seed and its number (draw with `transform.generator`). So the numbers do not depend on the threads,
    and `seek` costs nothing. Raises DataError for a batch_size below 1.
    """

    def __init__(self, batch_size: int, seed: int, prefetch: int, threads: int | None = None) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, found {batch_size}")
        self._batch_size = batch_size
        self.seed = seed        # of all random draws
        self._threads = threads or workers()
        self._depth = max(prefetch, self._threads)
        self.position = 0       # the number of the next batch
        self._futures: Any = None                   # the generator of futures of the batches from `position` on
        self._head: Any = None                      # the future of batch `position`, after it was taken from there
        self._lent: np.ndarray | None = None        # memory of the batch that the caller has
        self._spare: list[np.ndarray] = []          # memory of batches that the caller has finished with
        self._closing = False
        self._allocate: Callable[[int], np.ndarray] = functools.partial(np.empty, dtype=np.uint8)
        self._as_bytes = False

    def prepare(self, allocate: Callable[[int], np.ndarray], as_bytes: bool) -> None:
        """Set the form of the batches; call it before the first batch is requested.

        allocate: returns the memory (uint8, of the number of bytes that it is given) of a batch's first array; the
        threads call it. as_bytes: a batch of images may be `pixels.Pixels`, which the caller transforms.
        """
        self._allocate, self._as_bytes = allocate, as_bytes

    @abstractmethod
    def _make(self, batch: int) -> Batch | None:
        """Make a batch; runs on a thread. It may return None if `_unwanted`."""

    @property
    @abstractmethod
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the next batch's arrays."""

    def seek(self, position: int, seed: int | None = None) -> None:
        """Continue with batch `position`, of another stream if a seed is given."""
        self._stop()
        self.position = position
        self.seed = self.seed if seed is None else seed

    def next(self) -> tuple[Any, ...]:
        """The next batch's arrays, valid until the following call; raises what `_make` raised, until `seek`."""
        batch = self._peek()
        self._head = None
        self.position += 1
        if self._lent is not None:
            self._spare.append(self._lent)
        self._lent = batch.memory
        return batch.arrays

    def ready(self) -> tuple[Any, ...] | None:
        """The arrays that `next` will return if they have been made already, else None; does not wait."""
        if self._futures is None:
            return None
        self._take_head()
        return self._head.result().arrays if self._head.done() and not self._head.exception() else None

    def close(self) -> None:
        """End the threads. May be called twice."""
        self._stop()

    @property
    def _unwanted(self) -> bool:
        """Whether the batches that are being made will not be used."""
        return self._closing or program_ends()

    def _peek(self) -> Batch:
        """The next batch as `_make` returned it; raises what that raised, every time."""
        if self._futures is None:
            self._futures = ahead(self._make, itertools.count(self.position), self._depth, self._threads)
        self._take_head()
        return self._head.result()

    def _take_head(self) -> None:
        if self._head is None:
            self._head = next(self._futures)

    def _stop(self) -> None:
        if self._futures is not None:
            self._closing = True
            self._futures.close()
            self._closing = False
            self._futures = self._head = None

    def _empty(self, shape: tuple[int, ...], dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
        """A batch's first array, and its memory: that of an earlier batch if it is large enough."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        try:
            memory: np.ndarray | None = self._spare.pop()
        except IndexError:
            memory = None
        if memory is None or memory.size < size:
            memory = self._allocate(size)
        return memory[:size].view(dtype).reshape(shape), memory
