"""Blob: the N-D array of data and gradient that layers pass to each other (Caffe's Blob)."""
import functools
import math
import os
from typing import Any, Callable

import numpy as np

from spp.backend import host
from spp.backend.protocol import Backend
from spp.backend.types import Array, Numbers
from spp.errors import NetError, format_shape, too_little_memory

MAX_AXES = 32       # Caffe's


class Memory:
    """A flat array that only grows, so that a change of image size reuses it. It is allocated on first use.

    overwritten: a message that says so once another blob has been written there; reading then raises it as a NetError.
    fill: returns the first array; without it the first array is zeros. host_copy: the spp.host_copy.HostCopy of a
    GPU's memory, once somebody has asked for one.
    """

    def __init__(self) -> None:
        self.flat: Array = None
        self.overwritten = ""
        self.fill: Callable[[], Array] | None = None
        self.host_copy: Any = None

    def at_least(self, count: int, dtype: Any, backend: Backend) -> Array:
        """The array, with `count` elements or more. Raises NetError if there is not enough memory."""
        if self.overwritten:
            raise NetError(self.overwritten)
        try:
            if self.flat is None and self.fill:
                self.flat, self.fill = self.fill(), None
            if self.flat is None or self.flat.size < count:
                self.flat = backend.zeros(count, dtype)
        except MemoryError as error:
            raise too_little_memory(error) from error
        return self.flat


def _legacy_axis(axis: int) -> property:
    def size(self: "Blob") -> int:
        if len(self.shape) > 4:
            raise ValueError(f"num, channels, height and width need at most 4 axes; the shape is {self.shape}")
        return self.shape[axis] if axis < len(self.shape) else 1
    return property(size, doc=f"Legacy name of the size of axis {axis} (1 if missing).")


class Blob:
    """`data` and `diff` of one shape, in arrays of one device.

    The arrays of a 4-D blob have the shape N x C x H x W and may be channels-last in memory (see `caffe_order`);
    other arrays are in C order. Memory is allocated when `data` or `diff` is first used, only grows, and is zero at
    first. `data` and `diff` return the same arrays as long as the blob's shape stays the same.
    """

    def __init__(self, shape: Numbers = (), dtype: Any = np.float32, backend: Backend = host,
                 channels_last: bool | None = None) -> None:
        self.dtype = np.dtype(dtype)
        self.shape: Numbers = _checked(tuple(shape), self.dtype)
        self.backend = backend
        self.channels_last = backend.prefers_channels_last if channels_last is None else channels_last
        self._memory = {"data": Memory(), "diff": Memory()}
        self._views: dict[str, Any] = {}
        self.shared = False         # whether it uses the memory of another blob
        self._channels: tuple[int, int] | None = None   # its first channel in another blob, and that blob's channels
        self.host_view: Any = None      # a weak reference to the spp.host_copy.HostBlob of this blob

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def caffe_order(self) -> bool:
        """Whether the memory is in Caffe's order: C order of the shape."""
        if len(self.shape) != 4 or not self.channels_last:
            return True
        if self._channels:
            return False
        return self.shape[1] == 1 or self.shape[2] * self.shape[3] == 1

    def reshape(self, *shape: Any) -> None:
        """Set the shape: `reshape(2, 3)` or `reshape((2, 3))`. Contents are undefined if the shape changes.

        Raises NetError for more than 32 axes, a negative size, or a blob that is larger than the memory.
        """
        sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], (int, np.integer)) else shape
        sizes = tuple(int(size) for size in sizes)
        if sizes != self.shape:
            self.shape = _checked(sizes, self.dtype)
            self._views.clear()

    @property
    def data(self) -> Array:
        """The values, shaped `shape`."""
        return self._view("data")

    def set(self, values: Array) -> None:
        """Write all values, of the blob's device, and drop a pending filler, which `data[...] = values` would run."""
        self.memory.fill = None
        self.data[...] = values

    @property
    def diff(self) -> Array:
        """The gradient of the loss by the values, shaped `shape`."""
        return self._view("diff")

    @property
    def has_diff(self) -> bool:
        """Whether memory for the gradient was ever allocated."""
        return self._memory["diff"].flat is not None

    def _view(self, which: str) -> Array:
        memory, (flat, view) = self._memory[which], self._views.get(which, (None, None))
        if flat is not None and flat is memory.flat and not memory.overwritten:
            return view
        count = self.count
        if which == "data" and self._channels:
            count = count // max(1, self.shape[1]) * self._channels[1]
        flat = memory.at_least(count, self.dtype, self.backend)
        view = self._part(flat[:count]) if count != self.count else self._shaped(flat)
        self._views[which] = flat, view
        return view

    def _part(self, flat: Array) -> Array:
        """The view of this blob's channels in a flat N x H x W x C array of the blob that it is placed in."""
        assert self._channels
        first, total = self._channels
        n, c, h, w = self.shape
        return flat.reshape(n, h, w, total)[..., first:first + c].transpose(0, 3, 1, 2)

    def _shaped(self, flat: Array) -> Array:
        """The view of a flat array with this blob's shape and memory order."""
        part = flat[:self.count]
        if len(self.shape) == 4 and self.channels_last:
            n, c, h, w = self.shape
            return part.reshape(n, h, w, c).transpose(0, 3, 1, 2)
        return part.reshape(self.shape)

    def share_data(self, other: "Blob") -> None:
        """Use the memory of `other` for the values; the shapes may differ if `other` is in Caffe's order."""
        self._share("data", other)

    def share_diff(self, other: "Blob") -> None:
        """Use the memory of `other` for the gradient; the shapes may differ if `other` is in Caffe's order."""
        self._share("diff", other)

    def place_in(self, other: "Blob", channel: int) -> None:
        """Store the values in the memory of `other`, as its channels from `channel` on; both 4-D and channels-last.

        From then on the number and size of the images must change together in both blobs, and nothing else may
        change. The gradient keeps its own memory.
        """
        self._memory["data"] = other._memory["data"]
        self._channels = channel, other.shape[1]
        self.shared = True
        self._views.clear()

    def _share(self, which: str, other: "Blob") -> None:
        if self.shape == other.shape:
            channels_last = other.channels_last
        elif self.count == other.count and other.caffe_order:
            channels_last = False
        else:
            raise ValueError(f"blobs of shapes {self.shape} and {other.shape} cannot share memory")
        self._set_order(channels_last)
        self._memory[which] = other._memory[which]
        self.shared = True

    @property
    def memory(self) -> Memory:
        """The memory of the values: one object for all blobs that share them."""
        return self._memory["data"]

    @property
    def memories(self) -> list[Memory]:
        """The memory of the values and of the gradient."""
        return list(self._memory.values())

    def own_in_caffe_order(self) -> None:
        """Stop sharing memory, and use C order whatever the device prefers."""
        if self.shared:
            self._memory = {"data": Memory(), "diff": Memory()}
            self.shared = False
            self._views.clear()
        self._set_order(channels_last=False)

    def _set_order(self, channels_last: bool) -> None:
        if channels_last != self.channels_last:
            self.channels_last = channels_last
            self._views.clear()

    num, channels, height, width = map(_legacy_axis, range(4))

    def __repr__(self) -> str:
        return f"Blob{self.shape}"


def _checked(shape: Numbers, dtype: np.dtype) -> Numbers:
    """The shape. Raises NetError if a blob cannot have it."""
    if len(shape) > MAX_AXES:
        raise NetError(f"a blob has at most {MAX_AXES} axes, found {len(shape)}")
    if any(size < 0 for size in shape):
        raise NetError(f"a blob's sizes must be at least 0, found {format_shape(shape)}")
    needed = math.prod(shape) * dtype.itemsize
    if needed > _machine_memory():
        raise NetError(f"a blob of {format_shape(shape)} takes {needed / 1e9:.1f} GB, and this machine has "
                       f"{_machine_memory() / 1e9:.1f} GB of memory; check the layer's sizes and those of its bottoms")
    return shape


@functools.cache
def _machine_memory() -> int:
    """The memory of the machine in bytes; 4 TB if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2 ** 42
