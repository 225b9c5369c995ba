"""Where blobs lie: what a Concat reads, in its top; in little memory, one blob where another was that nobody reads."""
import collections
import math
from dataclasses import dataclass, field
from typing import Any, Iterable, Iterator, Mapping, Sequence

from spp.blob import Blob, Memory

ALIGNMENT = 32      # elements: a multiple of what vector instructions load at once


def join_concats(layers: Sequence[Any], bottoms: Sequence[Sequence[Blob]], tops: Sequence[Sequence[Blob]],
                 fused: Mapping[int, Sequence[int]]) -> None:
    """Let layers write right into the top of the Concat of channels that reads them, where that does not read others.

    `fused`: by its number, the layers that a layer does in its own pass. Not where backward is planned: a ReLU's
    reads these blobs too, and is slower so than the copy takes that forward saves.
    """
    maker = {id(top[0]): i for i, (layer, top) in enumerate(zip(layers, tops)) if layer.writes_channels}
    readers = collections.Counter(id(blob) for bottom in bottoms for blob in bottom)
    for layer, bottom, top in zip(layers, bottoms, tops):
        if (layer.type == "Concat" and layer.axis == 1 and not layer.runs_backward and len(bottom) > 1
                and len(top[0].shape) == 4 and top[0].channels_last
                and all(id(blob) in maker and readers[id(blob)] == 1 + len(fused.get(maker[id(blob)], ()))
                        for blob in bottom)):
            first = 0
            for blob in bottom:
                blob.place_in(top[0], first)
                first += blob.shape[1]


@dataclass(eq=False)
class Allocation:
    """A piece of memory and the layers, by number, from the one that writes it to the last that reads it."""

    memory: Memory
    name: str                   # of the first blob that lies there
    count: int                  # elements of the largest one
    first: int
    last: int
    start: int = 0              # where it lies in the arena
    overwrites: list[tuple[Memory, str]] = field(default_factory=list)     # memory and name of those it overwrites

    def meets(self, other: "Allocation") -> bool:
        """Whether both are alive at some time."""
        return self.first <= other.last and other.first <= self.last

    def overlaps(self, other: "Allocation") -> bool:
        """Whether both lie at some element."""
        return (self.count > 0 and other.count > 0
                and self.start < other.start + other.count and other.start < self.start + self.count)


def allocations(names: Sequence[Sequence[str]], bottoms: Sequence[Sequence[Blob]], tops: Sequence[Sequence[Blob]],
                kept: Iterable[Blob]) -> list[Allocation]:
    """What lies in the memory of a net's tops, and when; by layer in net order: `names` of the tops, bottoms, tops.

    Blobs that share memory are one allocation. `kept` are alive to the end. The tops of layers without bottoms are
    left out: the caller fills them, or the layer does it once.
    """
    found: dict[Memory, Allocation] = {}
    fixed: set[Memory] = set()
    for i, (bottom, top) in enumerate(zip(bottoms, tops)):
        for blob in bottom:
            if blob.memory in found:
                found[blob.memory].last = i
        if not bottom:
            fixed.update(blob.memory for blob in top)
        for name, blob in zip([*names[i], *[""] * len(top)], top):
            if blob.memory not in fixed:
                allocation = found.setdefault(blob.memory, Allocation(blob.memory, name, 0, i, i))
                allocation.count = max(allocation.count, blob.count)
    for blob in kept:
        if blob.memory in found:
            found[blob.memory].last = len(tops)
    return list(found.values())


def plan_offsets(found: Sequence[Allocation]) -> int:
    """Give every allocation its place, none to two at the same time; returns the number of elements of the arena.

    The largest first, each into the narrowest gap between those that it meets.
    """
    placed: list[Allocation] = []
    for allocation in sorted(found, key=lambda allocation: -allocation.count):
        meeting = sorted((other for other in placed if allocation.meets(other)), key=lambda other: other.start)
        allocation.start = min(_gaps(meeting, allocation.count))[1]
        placed.append(allocation)
    for allocation in placed:
        allocation.overwrites = [(other.memory, other.name) for other in placed
                                 if other is not allocation and allocation.overlaps(other)]
    return max((allocation.start + allocation.count for allocation in placed), default=0)


def _gaps(taken: Sequence[Allocation], count: int) -> Iterator[tuple[float, int]]:
    """Width and start of every place for `count` elements beside those taken, which are sorted by start."""
    end = 0
    for allocation in taken:
        if allocation.start - end >= count:
            yield allocation.start - end, end
        end = max(end, -(-(allocation.start + allocation.count) // ALIGNMENT) * ALIGNMENT)
    yield float("inf"), end


class Arena:
    """One array for the blobs of a net that runs forward only, laid out anew where blobs outgrow their places.

    kept: the blobs to keep to the end. Of every other blob the values are lost when another blob has taken its
    place: reading them raises NetError.
    """

    def __init__(self, kept: Sequence[Blob]) -> None:
        self._kept = kept
        self._allocations: list[Allocation] = []
        self._by_layer: list[list[Allocation]] = []
        self._rooms: list[tuple[Blob, Memory, float]] = []      # of every top, and the elements that it may have
        self._flat: Any = None

    def prepare(self, net: Any) -> None:
        """Shape the whole net, and lay it out anew if it does not fit its layout; before a forward pass."""
        reasons = [allocation.memory.overwritten for allocation in self._allocations]
        try:
            for allocation in self._allocations:
                # a layer whose sizes depend on values (Filter) reads old values here
                allocation.memory.overwritten = ""
            net.reshape()
        finally:
            for allocation, reason in zip(self._allocations, reasons):
                allocation.memory.overwritten = reason
        if not self._rooms or any(blob.memory is not memory or blob.count > room
                                  for blob, memory, room in self._rooms):
            self._move_in(net)

    def _move_in(self, net: Any) -> None:
        wanted = allocations([layer.param.top for layer in net.layers], net.bottoms, net.tops, self._kept)
        for allocation in self._allocations:
            allocation.memory.flat, allocation.memory.overwritten = None, ""
        size = plan_offsets(wanted)
        if self._flat is None or self._flat.size < size:
            self._flat = None               # given back before the larger one is taken
            self._flat = net.context.backend.zeros(size, net.context.dtype)
        for allocation in wanted:
            allocation.memory.flat = self._flat[allocation.start:allocation.start + allocation.count]
            allocation.memory.overwritten = _lost(allocation.name)
        self._allocations = wanted
        rooms = {allocation.memory: allocation.count for allocation in wanted}
        self._rooms = [(blob, blob.memory, rooms.get(blob.memory, math.inf)) for top in net.tops for blob in top]
        self._by_layer = [[] for _ in net.layers]
        for allocation in wanted:
            self._by_layer[allocation.first].append(allocation)

    def enter(self, index: int) -> None:
        """The layer of this number is about to write its tops."""
        for allocation in self._by_layer[index]:
            for memory, name in allocation.overwrites:
                memory.overwritten = _lost(name)
            allocation.memory.overwritten = ""


def _lost(name: str) -> str:
    return (f"blob {name!r} is overwritten: with reuse_memory others have taken its memory; add {name!r} to the Net's "
            "keep, or build the Net without reuse_memory")
