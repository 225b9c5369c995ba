"""A GPU's blobs as NumPy arrays, for code that does not know about devices: users' Python layers and pycaffe.

Such an array is a host copy of the memory on the device. The engine copies what the user wrote to the device before
it computes, and copies the results back afterwards: `device_access` surrounds the engine's work, `host_access` the
user's. Only host copies that somebody still references are updated; others are fetched when they are next requested.
"""
import itertools
import weakref
from contextlib import contextmanager
from typing import Any, Iterable, Iterator, Sequence

import numpy as np

from spp.backend.protocol import Backend
from spp.blob import Blob, Memory


class HostCopy:
    """The host copy of a blob's memory. The Memory references its HostCopy, not the other way round."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._flat: Any = None                      # the device's array that was copied
        self._store = self._synced = np.empty(0)    # the copy, and its values when both were last equal
        self._base: Any = None                      # a weak reference to the array that is the base of all views
        self._pending: Any = None                   # that array, until the user's writes are on the device

    def array(self, memory: Memory) -> np.ndarray:
        """The flat copy, up to date."""
        base = self._alive(memory)
        if base is None:
            if self._flat is not memory.flat:
                self._flat = memory.flat
                self._store = np.empty(self._flat.shape, self._flat.dtype)
            if not self._store.size:
                return self._store
            # made from a buffer, not a slice of the store: so views have this array as their base and keep it alive
            base = np.frombuffer(self._store.data.cast("B"), self._store.dtype)
            self._base = weakref.ref(base)
            self._load()
        self._pending = base
        return base

    def push(self, memory: Memory) -> None:
        """Copy the user's writes to the device."""
        if self._alive(memory) is not None and not _same(self._store, self._synced):
            with self._backend.use():
                self._flat[...] = self._backend.from_host(self._store)
            self._synced = self._store.copy()
        self._pending = None
        if self._alive(memory) is None:     # no references are left
            self._flat, self._store, self._synced = None, np.empty(0), np.empty(0)

    def pull(self, memory: Memory) -> None:
        """Copy the device's values to the host copy, if anybody references it."""
        if self._alive(memory) is not None:
            self._load()

    def _alive(self, memory: Memory) -> Any:
        """The base array, if anybody references it and it belongs to the current memory."""
        base = self._base and self._base()
        return base if self._flat is memory.flat else None

    def _load(self) -> None:
        self._store[...] = self._backend.to_host(self._flat)
        self._synced = self._store.copy()


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit for bit: NaN is NaN, and 0 is not -0."""
    return np.array_equal(a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"))


class HostBlob(Blob):
    """A view of a blob whose `data` and `diff` are NumPy arrays, whatever the blob's device."""

    def __init__(self, blob: Blob) -> None:
        self.__dict__ = blob.__dict__       # both objects always have the same shape, memory and other attributes

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
    """The blob itself on the host; on a GPU its HostBlob, always the same object while somebody references it."""
    if not blob.backend.asynchronous:
        return blob
    view = blob.host_view and blob.host_view()
    if view is None:
        view = HostBlob(blob)
        blob.host_view = weakref.ref(view)
    return view


@contextmanager
def device_access(blobs: Iterable[Blob]) -> Iterator[None]:
    """Surround the engine's work: users' writes are copied to the device before it, results to the host after it."""
    blobs = list(blobs)
    push(blobs)
    try:
        yield
    finally:
        pull(blobs)


@contextmanager
def host_access(*blobs: Sequence[Blob]) -> Iterator[None]:
    """Surround a user's code within the engine's work: the copies go the other way round. It may extend the lists."""
    pull(itertools.chain(*blobs))
    try:
        yield
    finally:
        push(itertools.chain(*blobs))


def push(blobs: Iterable[Blob]) -> None:
    """Copy what was written into the arrays of these blobs to the device."""
    for memory in _copied(blobs):
        memory.host_copy.push(memory)


def pull(blobs: Iterable[Blob]) -> None:
    """Copy the device's values to those arrays of these blobs that somebody references."""
    for memory in _copied(blobs):
        memory.host_copy.pull(memory)


def _copied(blobs: Iterable[Blob]) -> Iterable[Memory]:
    """The memories that have a host copy, each once although blobs may share it."""
    return {memory: None for blob in blobs for memory in blob.memories if memory.host_copy is not None}
