"""Batches made ahead on threads, in order; whatever they are made from."""
import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from spp.data.ahead import ahead, program_ends


class Stream(ABC):
    """Batches 0, 1, 2, ... from `_make`, of which `depth` are made ahead on `threads` threads.

    Everything about a batch is a pure function of the seed and its number (draw with `transform.generator`).
    So the numbers do not depend on the threads, and going to another position costs nothing.

    `empty` makes the memory of a batch's first array, so many bytes (uint8); another function of that kind may be
    set before the first batch is asked for. The threads call it. `as_bytes`, likewise, lets a batch of images be
    `pixels.Pixels`, which their reader transforms.
    """

    def __init__(self, seed: int, depth: int, threads: int) -> None:
        self._seed = seed
        self._depth = depth
        self._threads = threads
        self._position = 0
        self._futures: Any = None           # the generator of futures of the batches from `_position` on
        self._head: Any = None              # the future of batch `_position`, once it was taken from there
        self._lent: Any = None              # memory of the batch that the caller has
        self._spare: list[np.ndarray] = []  # memory of batches that he had
        self._closing = False
        self.empty: Callable[[int], np.ndarray] = functools.partial(np.empty, dtype=np.uint8)
        self.as_bytes = False

    @abstractmethod
    def _make(self, batch: int) -> tuple[Any, ...] | None:
        """The arrays of a batch; runs on a thread. It may return None where `_unwanted`."""

    @property
    @abstractmethod
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the next batch's arrays."""

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
        """What all random draws come from; set it, with `position`, to go on as another stream did."""
        return self._seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self._stop()
        self._seed = seed

    def next(self) -> tuple[Any, ...]:
        """The arrays of the next batch, the caller's until he calls `next` again.

        Raises what making the batch raised, every time until the position is set.
        """
        arrays = self._peek()
        self._head = None
        self._position += 1
        if self._lent is not None:
            self._spare.append(self._lent)
        self._lent = arrays[0].base
        return arrays

    def ready(self) -> tuple[Any, ...] | None:
        """What `next` will return, if reading ahead has made it already; does not wait for it."""
        if self._futures is None:
            return None
        self._take_head()
        return self._head.result() if self._head.done() and not self._head.exception() else None

    def close(self) -> None:
        """End the threads. May be called twice."""
        self._stop()

    @property
    def _begun(self) -> bool:
        """Whether batches are being made."""
        return self._futures is not None

    @property
    def _unwanted(self) -> bool:
        """Whether nobody will want the batches that are being made."""
        return self._closing or program_ends()

    def _peek(self) -> Any:
        """The next batch as `_make` made it; raises what that raised, every time."""
        if self._futures is None:
            self._futures = ahead(self._make, itertools.count(self._position), self._depth, self._threads)
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

    def _memory(self, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        """An array for a batch's first array, in memory of an earlier batch where that is large enough."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        flat = None
        try:
            flat = self._spare.pop()
        except IndexError:
            pass
        if flat is None or flat.size < size:
            flat = self.empty(size)
        return flat[:size].view(dtype).reshape(shape)
