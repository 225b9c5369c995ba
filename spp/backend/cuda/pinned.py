"""Batches on their way to the GPU: pinned memory, and a stream of copies beside the stream that computes."""
from typing import Any, Sequence

import cupy
import cupyx
import numpy as np


class _Slot:
    """Device memory of one batch, and the events by which the two streams wait for each other."""

    def __init__(self) -> None:
        self.flat: list[Any] = []                               # one array a top, which only grows
        self.batch: Sequence[np.ndarray] | None = None          # what is in it, or on its way
        self.views: list[Any] = []                              # the batch's arrays on the device
        self.copied = cupy.cuda.Event(disable_timing=True)      # the batch has left the host's memory
        self.used = cupy.cuda.Event(disable_timing=True)        # the net has taken the batch out


class Feed:
    """The host's Feed, on a GPU: two slots, one being computed from while the other is filled.

    The streams wait for each other by events. The host waits only where it is more than a batch ahead of the GPU:
    in `finish`, for a copy that began a whole step earlier. Works on the device that is current when it is made.
    """

    def __init__(self) -> None:
        self._device = cupy.cuda.runtime.getDevice()
        self._stream: Any = None
        self._slots: list[_Slot] = []
        self._started: _Slot | None = None
        self._put: _Slot | None = None

    def empty(self, count: int) -> np.ndarray:
        """Pinned memory for `count` float32 numbers: the GPU copies from it by itself."""
        with cupy.cuda.Device(self._device):        # or a reading thread would make a context on GPU 0
            return cupyx.empty_pinned((count,), np.float32)

    def finish(self) -> None:
        """Return when the memory of the batch that was last put has been read."""
        if self._put is not None:
            self._put.copied.synchronize()

    def put(self, arrays: Sequence[np.ndarray], targets: Sequence[Any]) -> None:
        """Write each of a batch's arrays to the equally shaped target, an array of the net, on the current stream."""
        with cupy.cuda.Device(self._device):
            if self._started is None or self._started.batch is not arrays:
                self.start(arrays)
            slot, self._started = self._started, None
            assert slot is not None
            stream = cupy.cuda.get_current_stream()
            stream.wait_event(slot.copied)
            for values, target in zip(slot.views, targets):
                target[...] = values
            slot.used.record(stream)
            self._put = slot

    def start(self, arrays: Sequence[np.ndarray]) -> None:
        """Begin to copy the arrays that `put` will be given next, on the stream of copies."""
        with cupy.cuda.Device(self._device):
            if self._stream is None:
                self._stream = cupy.cuda.Stream(non_blocking=True)
                self._slots = [_Slot(), _Slot()]
            slot = self._slots[self._slots[0] is self._put]
            self._stream.wait_event(slot.used)
            slot.views = [self._copy(slot, i, values) for i, values in enumerate(arrays)]
            slot.batch = arrays
            slot.copied.record(self._stream)
            self._started = slot

    def _copy(self, slot: _Slot, index: int, values: np.ndarray) -> Any:
        """Begin to copy an array to the slot's memory: the array there, its axes lying as they do here."""
        axes = sorted(range(values.ndim), key=lambda axis: -abs(values.strides[axis]))
        laid = np.ascontiguousarray(values.transpose(axes))
        if index == len(slot.flat):
            slot.flat.append(None)
        flat = slot.flat[index]
        if flat is None or flat.size < laid.size or flat.dtype != laid.dtype:
            if flat is not None:        # the pool would hand it out again while the net still reads it
                slot.used.synchronize()
            # made for this stream: what the pool hands out here was last used on it
            with self._stream:
                flat = slot.flat[index] = cupy.empty(laid.size, laid.dtype)
        part = flat[:laid.size].reshape(laid.shape)
        part.set(laid, self._stream)
        return part.transpose([axes.index(axis) for axis in range(values.ndim)])
