"""A GPU's blobs as NumPy arrays, for code that knows nothing of devices: users' Python layers and pycaffe.

An array that is handed out is a copy on the host, a twin of the memory on the device. The engine brings what was
written into it to the device before it computes, and what was computed back afterwards: `device_access` around the
engine's work, or `host_access` around the user's. Only twins that somebody still looks at are brought back; others are
fetched when they are asked for.
"""
import itertools
import weakref
from contextlib import contextmanager
from typing import Any, Iterable, Iterator, Sequence

import numpy as np

from spp.blob import Blob, Memory


class HostCopy:
    """The host's copy of a blob's memory; that holds the twin, and the twin does not hold it."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._flat: Any = None                      # the device's array that this is a copy of
        self._store = self._seen = np.empty(0)      # the copy, and how it was when both were last the same
        self._given: Any = None                     # a weak reference to the array that all views are made of
        self._held: Any = None                      # that array, until what may be written there was brought over

    def array(self, memory: Memory) -> np.ndarray:
        """The copy, flat, up to date."""
        given = self._alive(memory)
        if given is None:
            if self._flat is not memory.flat:
                self._flat = memory.flat
                self._store = np.empty(self._flat.shape, self._flat.dtype)
            if not self._store.size:
                return self._store
            # of its own, not of NumPy's array: so that views have this one as their base, and keep it alive
            given = np.frombuffer(self._store.data.cast("B"), self._store.dtype)
            self._given = weakref.ref(given)
            self._load()
        self._held = given
        return given

    def push(self, memory: Memory) -> None:
        """Bring what was written here to the device."""
        if self._alive(memory) is not None and not _same(self._store, self._seen):
            with self._backend.use():
                self._flat[...] = self._backend.from_host(self._store)
            self._seen = self._store.copy()
        self._held = None
        if self._alive(memory) is None:     # nobody has it any more
            self._flat, self._store, self._seen = None, np.empty(0), np.empty(0)

    def pull(self, memory: Memory) -> None:
        """Bring what is on the device here, if anybody looks at it."""
        if self._alive(memory) is not None:
            self._load()

    def _alive(self, memory: Memory) -> Any:
        """The array that was given out, if anybody has it and it is still that of the memory."""
        given = self._given and self._given()
        return given if self._flat is memory.flat else None

    def _load(self) -> None:
        self._store[...] = self._backend.to_host(self._flat)
        self._seen = self._store.copy()


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit for bit: NaN is NaN, and 0 is not -0."""
    return np.array_equal(a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"))


class HostBlob(Blob):
    """A blob whose `data` and `diff` are NumPy arrays, whatever its device: another face of the same blob."""

    def __init__(self, blob: Blob) -> None:
        self.__dict__ = blob.__dict__

    def _view(self, which: str) -> np.ndarray:
        memory = self._memory[which]
        memory.at_least(self.count, self.dtype, self.backend)
        if memory.host_copy is None:
            memory.host_copy = HostCopy(self.backend)
        flat = memory.host_copy.array(memory)
        known = self._views.get(f"host {which}")
        view = known and known()
        if view is None or view.base is not flat:
            view = self._shaped(flat)
            self._views[f"host {which}"] = weakref.ref(view)
        return view


def host_view(blob: Blob) -> Blob:
    """The blob with NumPy arrays: itself on the host, on a GPU the same HostBlob as long as somebody has it."""
    if not blob.backend.asynchronous:
        return blob
    face = blob.host_view and blob.host_view()
    if face is None:
        face = HostBlob(blob)
        blob.host_view = weakref.ref(face)
    return face


@contextmanager
def device_access(blobs: Iterable[Blob]) -> Iterator[None]:
    """Around the engine's work: what users wrote goes to the device before it, what was computed comes back after."""
    blobs = list(blobs)
    push(blobs)
    try:
        yield
    finally:
        pull(blobs)


@contextmanager
def host_access(*blobs: Sequence[Blob]) -> Iterator[None]:
    """Around a user's code in the middle of the engine's work: the other way round. It may make these lists longer."""
    pull(itertools.chain(*blobs))
    try:
        yield
    finally:
        push(itertools.chain(*blobs))


def push(blobs: Iterable[Blob]) -> None:
    """Bring what was written into the arrays of these blobs to the device."""
    for memory in _seen(blobs):
        memory.host_copy.push(memory)


def pull(blobs: Iterable[Blob]) -> None:
    """Bring what is on the device to the arrays of these blobs that somebody looks at."""
    for memory in _seen(blobs):
        memory.host_copy.pull(memory)


def _seen(blobs: Iterable[Blob]) -> Iterable[Memory]:
    """The memory that has a twin, each once, though blobs share it."""
    return {memory: None for blob in blobs for memory in blob.memories if memory.host_copy is not None}
