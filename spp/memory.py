"""Memory planning: a Concat's inputs are stored in its output, and inference nets reuse the memory of dead blobs."""
import collections
import math
from dataclasses import dataclass, field
from typing import Any, Iterable, Iterator, Mapping, Sequence

from spp.blob import Blob, Memory
from spp.layers import Layer
from spp.layers.concat import Concat

ALIGNMENT = 32      # elements; a multiple of the width of vector instructions


def join_concats(layers: Sequence[Layer], bottoms: Sequence[Sequence[Blob]], tops: Sequence[Sequence[Blob]],
                 chains: Mapping[int, Sequence[int]]) -> None:
    """Let layers write directly into the top of the Concat that reads their tops.

    This is done for a Concat of channels if all of its bottoms come from layers that write channels, and no other
    layer reads them. `chains` maps a layer's index to the layers fused into it (spp/fusion.py). It is not done where
    backward is planned: the backward of a ReLU reads these blobs too, and is slowed down by more than the copy takes.
    """
    producer = {id(top[0]): i for i, (layer, top) in enumerate(zip(layers, tops)) if layer.writes_channels}
    readers = collections.Counter(id(blob) for bottom in bottoms for blob in bottom)

    def has_other_readers(blob: Blob) -> bool:
        return readers[id(blob)] != 1 + len(chains.get(producer[id(blob)], ()))

    for layer, bottom, top in zip(layers, bottoms, tops):
        joins_channels = (isinstance(layer, Concat) and layer.axis == 1 and not layer.runs_backward and len(bottom) > 1
                          and len(top[0].shape) == 4 and top[0].channels_last)
        if joins_channels and all(id(blob) in producer and not has_other_readers(blob) for blob in bottom):
            channel = 0
            for blob in bottom:
                blob.place_in(top[0], channel)
                channel += blob.shape[1]


@dataclass(eq=False)
class Allocation:
    """Part of the arena, and its lifetime: from the index of the layer that writes it to that of its last reader."""

    memory: Memory
    name: str                   # of the first blob that is stored there
    count: int                  # the number of elements of the largest blob that is stored there
    first: int
    last: int
    start: int = 0              # its offset in the arena
    overwrites: list[tuple[Memory, str]] = field(default_factory=list)     # the memory and name of other allocations

    def lives_with(self, other: "Allocation") -> bool:
        """Whether the two lifetimes intersect."""
        return self.first <= other.last and other.first <= self.last

    def overlaps(self, other: "Allocation") -> bool:
        """Whether the two share an element of the arena."""
        return (self.count > 0 and other.count > 0
                and self.start < other.start + other.count and other.start < self.start + self.count)


def allocations(names: Sequence[Sequence[str]], bottoms: Sequence[Sequence[Blob]], tops: Sequence[Sequence[Blob]],
                keep: Iterable[Blob]) -> list[Allocation]:
    """The allocations that the tops of a net need; `names` of the tops, `bottoms` and `tops` per layer in net order.

    Blobs that share memory are one allocation. The blobs in `keep` live to the end. The tops of layers without
    bottoms are left out: the caller fills them, or the layer fills them once.
    """
    lifetimes: dict[Memory, Allocation] = {}
    fixed: set[Memory] = set()
    for i, (bottom, top) in enumerate(zip(bottoms, tops)):
        for blob in bottom:
            if blob.memory in lifetimes:
                lifetimes[blob.memory].last = i
        if not bottom:
            fixed.update(blob.memory for blob in top)
        for name, blob in zip([*names[i], *[""] * len(top)], top):
            if blob.memory not in fixed:
                allocation = lifetimes.setdefault(blob.memory, Allocation(blob.memory, name, 0, i, i))
                allocation.count = max(allocation.count, blob.count)
    for blob in keep:
        if blob.memory in lifetimes:
            lifetimes[blob.memory].last = len(tops)
    return list(lifetimes.values())


def plan_offsets(wanted: Sequence[Allocation]) -> int:
    """Set the offset of every allocation; returns the number of elements of the arena.

    Allocations that live at the same time do not overlap. The largest is placed first, each in the narrowest gap.
    """
    placed: list[Allocation] = []
    for allocation in sorted(wanted, key=lambda allocation: -allocation.count):
        alive = sorted((other for other in placed if allocation.lives_with(other)), key=lambda other: other.start)
        allocation.start = min(_gaps(alive, allocation.count))[1]
        placed.append(allocation)
    for allocation in placed:
        allocation.overwrites = [(other.memory, other.name) for other in placed
                                 if other is not allocation and allocation.overlaps(other)]
    return max((allocation.start + allocation.count for allocation in placed), default=0)


def _gaps(taken: Sequence[Allocation], count: int) -> Iterator[tuple[float, int]]:
    """Width and start of every gap for `count` elements between those taken, which are sorted by start."""
    end = 0
    for allocation in taken:
        if allocation.start - end >= count:
            yield allocation.start - end, end
        end = max(end, -(-(allocation.start + allocation.count) // ALIGNMENT) * ALIGNMENT)
    yield float("inf"), end


class Arena:
    """One array for the blobs of a net that runs forward only. It is planned again when a blob outgrows its place.

    keep: the blobs whose values stay to the end. Other blobs are overwritten when another blob takes their memory;
    reading them then raises NetError.
    """

    def __init__(self, keep: Sequence[Blob]) -> None:
        self._keep = keep
        self._allocations: list[Allocation] = []
        self._by_layer: list[list[Allocation]] = []
        self._capacities: list[tuple[Blob, Memory, float]] = []     # of every top, in elements
        self._flat: Any = None

    def prepare(self, net: Any) -> None:
        """Shape the whole net before a forward pass, and plan the arena again if a blob does not fit."""
        reasons = [allocation.memory.overwritten for allocation in self._allocations]
        try:
            for allocation in self._allocations:
                # a layer whose sizes depend on values (Filter) reads old values here
                allocation.memory.overwritten = ""
            net.reshape()
        finally:
            for allocation, reason in zip(self._allocations, reasons):
                allocation.memory.overwritten = reason
        if not self._capacities or any(blob.memory is not memory or blob.count > capacity
                                       for blob, memory, capacity in self._capacities):
            self._plan(net)

    def _plan(self, net: Any) -> None:
        wanted = allocations([layer.param.top for layer in net.layers], net.bottoms, net.tops, self._keep)
        for allocation in self._allocations:
            allocation.memory.flat, allocation.memory.overwritten = None, ""
        size = plan_offsets(wanted)
        if self._flat is None or self._flat.size < size:
            self._flat = None               # released before the larger array is allocated
            self._flat = net.context.backend.zeros(size, net.context.dtype)
        for allocation in wanted:
            allocation.memory.flat = self._flat[allocation.start:allocation.start + allocation.count]
            allocation.memory.overwritten = _overwritten(allocation.name)
        self._allocations = wanted
        capacity = {allocation.memory: allocation.count for allocation in wanted}
        self._capacities = [(blob, blob.memory, capacity.get(blob.memory, math.inf))
                            for top in net.tops for blob in top]
        self._by_layer = [[] for _ in net.layers]
        for allocation in wanted:
            self._by_layer[allocation.first].append(allocation)

    def enter(self, index: int) -> None:
        """Record that the layer of this index is about to write its tops."""
        for allocation in self._by_layer[index]:
            for memory, name in allocation.overwrites:
                memory.overwritten = _overwritten(name)
            allocation.memory.overwritten = ""


def _overwritten(name: str) -> str:
    return (f"blob {name!r} is overwritten: with reuse_memory others have taken its memory; add {name!r} to the Net's "
            "keep, or build the Net without reuse_memory")
