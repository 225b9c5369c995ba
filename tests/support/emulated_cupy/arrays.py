"""cupy.ndarray on NumPy: nothing turns into a NumPy array by itself, and reductions stay arrays."""
import operator
from typing import Any

import numpy as np

from emulated_cupy import memory

PLAIN = (bool, int, float, complex, np.generic)


class ndarray:      # the name is CuPy's
    """An array of one of the emulated devices, `_a` being its memory."""

    __array_priority__ = 100

    def __init__(self, shape: Any, dtype: Any = float, order: Any = "C") -> None:
        memory.take(shape, dtype)
        self._a = np.empty(shape, dtype, order)
        self._device = memory.current()

    # --- attributes

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    strides = property(lambda self: self._a.strides)
    itemsize = property(lambda self: self._a.itemsize)
    nbytes = property(lambda self: self._a.nbytes)
    flags = property(lambda self: memory.Flags(self._a))
    data = property(lambda self: memory.Pointer(self._a.ctypes.data, self._device))
    device = property(lambda self: memory.Device(self._device))
    base = property(lambda self: self._a.base)
    T = property(lambda self: wrap(self._a.T, self._device))

    # --- to the host and back

    def get(self, stream: Any = None, order: Any = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        if blocking:
            memory.waits()
        if out is None:
            return self._a.copy(order)
        if not isinstance(out, np.ndarray):
            raise TypeError("Only numpy.ndarray can be obtained from cupy.ndarray")
        if out.dtype != self.dtype:
            raise TypeError(f"{out.dtype} array cannot be obtained from {self.dtype} array")
        if out.shape != self.shape:
            raise ValueError(f"Shape mismatch. Expected shape: {self.shape}, actual shape: {out.shape}")
        if not (out.flags.c_contiguous or out.flags.f_contiguous):
            raise RuntimeError("`out` cannot be specified when copying to non-contiguous ndarray")
        out[...] = self._a
        return out

    def set(self, arr: Any, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not (self._a.flags.c_contiguous or self._a.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        self._a[...] = arr

    def item(self) -> Any:
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a "
                        "NumPy array explicitly.")

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError("The truth value of an array with other than one element is ambiguous. Use a.any() or "
                             "a.all()")
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __index__(self) -> int:
        return operator.index(self.get())

    def __format__(self, spec: str) -> str:
        return format(self.get(), spec)

    def __repr__(self) -> str:
        return f"device {self._device}: {self._a!r}"

    # --- items

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __iter__(self) -> Any:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> "ndarray":
        key, advanced = _key(key, self.shape)
        return wrap(self._a[key], self._here() if advanced else self._device)

    def __setitem__(self, key: Any, value: Any) -> None:
        key, advanced = _key(key, self.shape)
        self._here()
        if isinstance(value, ndarray):
            self._a[key] = unwrap(value)
            return
        if isinstance(value, np.ndarray) and value.shape and not advanced:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        if not isinstance(value, (*PLAIN, np.ndarray)):
            raise TypeError(f"Unsupported type {type(value)}")
        self._a[key] = value

    def fill(self, value: Any) -> None:
        self[...] = value

    # --- NumPy's own functions, given such arrays

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from emulated_cupy import functions
        if "out" in kwargs:
            kwargs["out"], = kwargs["out"]
        mine = getattr(functions, ufunc.__name__, None)
        if method != "__call__" or mine is None:
            return NotImplemented
        return mine(*inputs, **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        from emulated_cupy import functions
        mine = getattr(functions, func.__name__, None)
        if mine is None or func.__module__ != "numpy" or any(t not in (ndarray, np.ndarray) for t in types):
            return NotImplemented
        return mine(*args, **kwargs)

    def _here(self) -> int:
        """The array's device, which must be the current one: CuPy would start to copy between devices."""
        if self._device != memory.current():
            raise ValueError(f"The device where the array resides ({self._device}) is different from the current "
                             f"device ({memory.current()}). Peer access is unavailable between these devices.")
        return self._device


def wrap(array: Any, device: int | None = None) -> ndarray:
    """A NumPy array, or a scalar that a reduction gave, as an array of a device: the current one unless given."""
    result = ndarray.__new__(ndarray)
    result._a = np.asarray(array)
    result._device = memory.current() if device is None else device
    return result


def unwrap(value: Any) -> Any:
    """What NumPy computes with for an argument of a CuPy function; raises TypeError for what CuPy refuses."""
    if isinstance(value, ndarray):
        value._here()
        return value._a
    if value is None or isinstance(value, PLAIN):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def wrapped(indices: Any, size: int) -> Any:
    """Integer indices as CuPy takes them: one that is out of range begins again at 0, and is no error."""
    return indices % size if size else indices


def _key(key: Any, shape: tuple[int, ...]) -> tuple[Any, bool]:
    """An index for NumPy that gives a view where CuPy gives one, and whether it has arrays in it."""
    parts, advanced, ellipsis = [], False, False
    key = key if isinstance(key, tuple) else (key,)
    indexed = sum(part.ndim if getattr(part, "dtype", None) == bool else part is not None and part is not Ellipsis
                  for part in key)
    axis = 0
    for part in key:
        first, axis = axis, axis + (part is not None)
        if isinstance(part, ndarray):
            if part.dtype == bool:
                memory.waits()          # for the number of elements picked
                axis = first + part.ndim
            part, advanced = unwrap(part), True
            if part.dtype != bool:
                part = wrapped(part, shape[first])
        elif part is Ellipsis:
            ellipsis = True
            axis = first + len(shape) - indexed
        elif isinstance(part, (list, np.ndarray, bool, np.bool_)):
            advanced = True             # copied to the device
        elif not (part is None or isinstance(part, (slice, int, np.integer))):
            raise IndexError("only integers, slices (`:`), ellipsis (`...`), numpy.newaxis (`None`) and integer or "
                             "boolean arrays are valid indices")
        parts.append(part)
    if not ellipsis:
        parts.append(Ellipsis)          # so that all indices given make a view of no axes, and not a scalar
    return tuple(parts), advanced
