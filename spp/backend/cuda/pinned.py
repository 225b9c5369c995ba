"""Batches copied to the GPU, by a stream beside the stream that computes, and images transformed there."""
import itertools
import weakref
from typing import Any, Sequence

import cupy
import cupyx
import numpy as np

from spp.backend.cuda.kernels import OUT, launch_into


class _Slot:
    """Device memory of one batch, and the events with which the two streams wait for each other."""

    def __init__(self) -> None:
        self.flat: dict[tuple[int, str], Any] = {}              # by place in the batch and dtype; only grows
        self.batch: Sequence[Any] | None = None                 # the batch that is stored here, or being copied
        self.views: list[Any] = []                              # the arrays on the device, one list per top
        self.copied = cupy.cuda.Event(disable_timing=True)      # the batch has been read from the host's memory
        self.used = cupy.cuda.Event(disable_timing=True)        # the net has read the batch


class Feed:
    """The host's Feed, for a GPU: two slots, of which one is read by the net while the other is filled.

    The streams wait for each other by events. The host waits only if it is more than a batch ahead of the GPU: in
    `finish`, for a copy that began a whole step earlier. The device is the one that is current at construction.

    Images are copied as bytes (spp.data.pixels.Pixels). The stream that computes transforms them, directly into the
    net's array: only that stream knows that the array is free, and it has to write there anyway.
    """

    transforms = True

    def __init__(self) -> None:
        self._device = cupy.cuda.runtime.getDevice()
        self._stream: Any = None
        self._slots: list[_Slot] = []
        self._started: _Slot | None = None
        self._put: _Slot | None = None
        self._mean: tuple[Any, Any] = None, None    # the last batch's mean, on the host and on the device

    def empty(self, size: int) -> np.ndarray:
        """Pinned memory of `size` bytes, which the GPU reads without the host. May be called on any thread."""
        with cupy.cuda.Device(self._device):        # else a reading thread would create a context on GPU 0
            return cupyx.empty_pinned((size,), np.uint8)

    def finish(self) -> None:
        """Wait until the memory of the batch that was last put has been read and can be overwritten."""
        if self._put is not None:
            self._put.copied.synchronize()

    def put(self, arrays: Sequence[Any], targets: Sequence[Any]) -> None:
        """Write each array of a batch to the equally shaped target, an array of the net, on the current stream."""
        with cupy.cuda.Device(self._device):
            if self._started is None or self._started.batch is not arrays:
                self.start(arrays)
            slot, self._started = self._started, None
            assert slot is not None
            stream = cupy.cuda.get_current_stream()
            stream.wait_event(slot.copied)
            for values, views, target in zip(arrays, slot.views, targets):
                if isinstance(values, np.ndarray):
                    target[...] = views[0]
                else:
                    images, mirrored, shift, place = views
                    mean = self._on_device(values.mean)
                    transform(images, mirrored, shift, place, mean, values.scale, target)
            slot.used.record(stream)
            self._put = slot

    def start(self, arrays: Sequence[Any]) -> None:
        """Begin to copy the arrays of the next `put`, on the stream of copies."""
        with cupy.cuda.Device(self._device):
            if self._stream is None:
                self._stream = cupy.cuda.Stream(non_blocking=True)
                self._slots = [_Slot(), _Slot()]
                weakref.finalize(self, _settle, self._slots).atexit = False
            slot = self._slots[self._slots[0] is self._put]
            # Complete by now, except for a batch that was started but never put, whose pinned memory is released here.
            slot.copied.synchronize()
            self._stream.wait_event(slot.used)
            place = itertools.count()
            slot.views = [[self._copy(slot, next(place), part) for part in _parts(values)] for values in arrays]
            slot.batch = arrays
            slot.copied.record(self._stream)
            self._started = slot

    def _copy(self, slot: _Slot, index: int, values: np.ndarray) -> Any:
        """Begin to copy an array to the slot's memory; returns the copy, with the same order of axes in memory."""
        axes = sorted(range(values.ndim), key=lambda axis: -abs(values.strides[axis]))
        contiguous = np.ascontiguousarray(values.transpose(axes))
        key = index, contiguous.dtype.char
        flat = slot.flat.get(key)
        if flat is None or flat.size < contiguous.size:
            # allocated for this stream: only this stream, which waits for `used`, gets its memory again
            with self._stream:
                flat = slot.flat[key] = cupy.empty(contiguous.size, contiguous.dtype)
        part = flat[:contiguous.size].reshape(contiguous.shape)
        part.set(contiguous, self._stream)
        return part.transpose([axes.index(axis) for axis in range(values.ndim)])

    def _on_device(self, mean: np.ndarray) -> Any:
        """A mean in the device's memory, allocated for the stream that computes. Many batches have the same mean."""
        if self._mean[0] is not mean:
            self._mean = mean, cupy.asarray(mean)
        return self._mean[1]


def _settle(slots: list[_Slot]) -> None:
    """Wait for the streams of a deleted feed: the pool reuses its memory for the next stream with the same handle."""
    for slot in slots:
        slot.copied.synchronize()
        slot.used.synchronize()


def _parts(values: Any) -> tuple[np.ndarray, ...]:
    return (values,) if isinstance(values, np.ndarray) else values.arrays


def transform(images: cupy.ndarray, mirrored: cupy.ndarray, shift: cupy.ndarray, place: cupy.ndarray,
              mean: cupy.ndarray, scale: float, y: cupy.ndarray) -> None:
    """y = (images + shift - mean) * scale, computed in float32, and flipped left to right where `mirrored`."""
    height, width, channels = images.shape[1:]
    columns, by = (mean.shape[1], channels) if mean.ndim == 3 else (0, 0)
    launch_into(y, "transform", y.size, images, mirrored, shift, place, mean, columns, by, np.float32(scale), OUT,
                height, width, channels)
