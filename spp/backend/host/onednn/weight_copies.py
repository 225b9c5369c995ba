"""Copies of weights in oneDNN's order, used again only while a hash of all weights has not changed.

Each thread has its own, as long as the array of weights exists.
"""
import threading
import weakref
from typing import Any, Callable, Hashable, Protocol

import numba
import numpy as np

from spp.backend.host.onednn.library import ALIGNMENT, Library, aligned
from spp.backend.host.scratch import scratch
from spp.backend.types import Array

HASH_PARTS = 8
HASHED_BY_ONE = 1 << 20     # bytes of weights: waking another thread takes longer than to hash so many
_MULTIPLIER, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)

_local = threading.local()


class Order(Protocol):
    """A computation with an order of its own for the weights: its description, and its size in bytes."""

    onednn: Library
    layout: Any
    bytes: int


class _Copy:
    """Reordered weights, with the hash of the weights that were copied."""

    def __init__(self, order: Order, weight: np.ndarray, dropped: Callable[[Any], Any]) -> None:
        self.memory = aligned(np.empty(order.bytes + ALIGNMENT, np.uint8), order.bytes)
        self.order, self.hash = order, -1
        self.source = weakref.ref(weight, dropped)

    def fill(self, order: Order, hashed: int, write: Callable[[np.ndarray], None]) -> None:
        write(self.memory)
        self.order, self.hash = order, hashed


def in_order(order: Order, weight: np.ndarray, name: Hashable, part: np.ndarray,
             write: Callable[[np.ndarray], None]) -> np.ndarray:
    """This thread's copy `name` of a C-contiguous `part` of the weights; `write` writes it again if they changed."""
    copies: dict[Hashable, _Copy] = _local.__dict__.setdefault("copies", {})
    key = id(weight), name
    copy = copies.get(key)
    if copy is None or copy.memory.size != order.bytes:
        copy = copies[key] = _Copy(order, weight, lambda _: copies.pop(key, None))
    hashed = content_hash(part)
    same = copy.order is order or order.onednn.functions.dnnl_memory_desc_equal(order.layout, copy.order.layout)
    if hashed != copy.hash or not same:
        copy.fill(order, hashed, write)
    return copy.memory


@numba.njit(cache=True, nogil=True)
def _hash(words: Array, seed: np.uint64) -> np.uint64:
    """64 bits of the words, in order: each step is one to one in its word and in the previous hash."""
    lanes = np.empty(32, np.uint64)
    for lane in range(32):
        lanes[lane] = seed + np.uint64(lane)
    for block in range(words.size // 32):
        for lane in range(32):
            value = (lanes[lane] ^ words[32 * block + lane]) * _MULTIPLIER
            lanes[lane] = value ^ (value >> _HALF)
    total = np.uint64(words.size)
    for i in range(words.size // 32 * 32, words.size):
        total = (total ^ words[i]) * _MULTIPLIER
        total ^= total >> _HALF
    for lane in range(32):
        total = (total ^ lanes[lane]) * _MULTIPLIER
        total ^= total >> _HALF
    return total


@numba.njit(cache=True, nogil=True, parallel=True)
def _hash_parts(words: Array, hashes: Array) -> None:
    parts = hashes.size
    for part in numba.prange(parts):
        hashes[part] = _hash(words[part * words.size // parts:(part + 1) * words.size // parts], np.uint64(part))


def content_hash(array: np.ndarray) -> int:
    """64 bits that differ, except with probability 2^-64, if any element of a C-contiguous float32 array differs."""
    flat = array.reshape(-1)
    words, rest = flat[:flat.size // 2 * 2].view(np.uint64), flat[flat.size // 2 * 2:].view(np.uint32)
    seed = np.uint64(rest[0] if rest.size else 0)
    if array.nbytes <= HASHED_BY_ONE:
        return int(_hash(words, seed))
    hashes = scratch("onednn.hashes", (HASH_PARTS,), np.uint64)
    _hash_parts(words, hashes)
    return int(_hash(hashes, seed))
