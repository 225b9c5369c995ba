"""The emulated machine: devices, their memory, and how often the host waited for one of them."""
import threading
from typing import Any

import numpy as np

DEVICES = 2


class State:
    """limit: bytes that one array may take (None: any number); waits: how often the host has waited for a device;
    freed: how often the pool gave back what it did not use; failed: what every call says, once the devices are lost.
    """

    limit: int | None = None
    waits = 0
    freed = 0
    failed = ""


class OutOfMemoryError(MemoryError):
    """CuPy's, in its words."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: 0 bytes, limit set to: "
                         f"{limit:,} bytes).")


class _Local(threading.local):
    def __init__(self) -> None:
        self.devices = [0]


_local = _Local()


def current() -> int:
    """The index of the calling thread's current device."""
    return _local.devices[-1]


def check() -> None:
    """Raise what is said of a device that is lost."""
    if State.failed:
        raise CUDARuntimeError(State.failed)


def take(shape: Any, dtype: Any) -> None:
    """Refuse an array that is larger than the limit."""
    check()
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if State.limit is not None and size > State.limit:
        raise OutOfMemoryError(size, State.limit)


def waits() -> None:
    """Count that the host waits for the device."""
    check()
    State.waits += 1


class Device:
    """cupy.cuda.Device."""

    def __init__(self, device: Any = None) -> None:
        self.id = current() if device is None else int(device)

    def __enter__(self) -> "Device":
        if not 0 <= self.id < DEVICES:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        _local.devices.append(self.id)
        return self

    def __exit__(self, *error: Any) -> None:
        _local.devices.pop()

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def use(self) -> None:
        _local.devices[-1] = self.id

    def synchronize(self) -> None:
        waits()

    compute_capability = "90"


class CUDARuntimeError(RuntimeError):
    """CuPy's."""


class Pointer:
    """cupy.cuda.MemoryPointer."""

    def __init__(self, ptr: int, device_id: int) -> None:
        self.ptr, self.device_id = ptr, device_id


class Flags:
    """cupy's flags: fewer than NumPy's."""

    def __init__(self, array: np.ndarray) -> None:
        self.c_contiguous, self.f_contiguous = array.flags.c_contiguous, array.flags.f_contiguous
        self.owndata = array.base is None
