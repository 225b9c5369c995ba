"""The functions and methods of CuPy that are emulated, by NumPy's of the same name; SIGNATURES are CuPy's."""
import inspect
from typing import Any, Callable

import numpy as np

from emulated_cupy import memory
from emulated_cupy.arrays import ndarray, unwrap, wrap, wrapped

# Universal functions: any number of axes, `out` and `dtype`, and no `where`.
UFUNCS = ("absolute add bitwise_and bitwise_or bitwise_xor copysign divide equal exp expm1 floor floor_divide greater "
          "greater_equal invert isfinite isinf isnan less less_equal log log1p logical_and logical_not logical_or "
          "maximum minimum multiply negative not_equal power remainder rint sign sqrt square subtract tanh "
          "true_divide").split()
# Parameters as CuPy has them (perhaps not all); test_cuda_backend.py compares them with CuPy.
SIGNATURES = """
all(a, axis=None, out=None, keepdims=False)
any(a, axis=None, out=None, keepdims=False)
argmax(a, axis=None, dtype=None, out=None, keepdims=False)
argsort(a, axis=-1, kind=None)
bincount(x, weights=None, minlength=None)
broadcast_to(array, shape)
clip(a, a_min, a_max, out=None)
concatenate(tup, axis=0, out=None)
copyto(dst, src, casting='same_kind', where=None)
dot(a, b, out=None)
expand_dims(a, axis)
flatnonzero(a)
flip(a, axis=None)
max(a, axis=None, out=None, keepdims=False)
may_share_memory(a, b, max_work=None)
mean(a, axis=None, dtype=None, out=None, keepdims=False)
min(a, axis=None, out=None, keepdims=False)
moveaxis(a, source, destination)
put_along_axis(arr, indices, values, axis)
ravel(a, order='C')
repeat(a, repeats, axis=None)
reshape(a, newshape, order='C')
shape(a)
stack(tup, axis=0, out=None)
sum(a, axis=None, dtype=None, out=None, keepdims=False)
swapaxes(a, axis1, axis2)
take(a, indices, axis=None, out=None)
take_along_axis(a, indices, axis)
tile(A, reps)
transpose(a, axes=None)
vdot(a, b)
where(condition, x=None, y=None)
"""
METHODS = """
all(axis=None, out=None, keepdims=False)
any(axis=None, out=None, keepdims=False)
argmax(axis=None, out=None, dtype=None, keepdims=False)
argsort(axis=-1, kind=None)
astype(dtype, order='K', casting=None, subok=None, copy=True)
clip(min=None, max=None, out=None)
copy(order='C')
dot(b, out=None)
flatten(order='C')
max(axis=None, out=None, keepdims=False)
mean(axis=None, dtype=None, out=None, keepdims=False)
min(axis=None, out=None, keepdims=False)
prod(axis=None, dtype=None, out=None, keepdims=None)
ravel(order='C')
repeat(repeats, axis=None)
squeeze(axis=None)
sum(axis=None, dtype=None, out=None, keepdims=False)
swapaxes(axis1, axis2)
take(indices, axis=None, out=None)
view(dtype=None)
"""
OPERATORS = {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide",
             "mod": "remainder", "pow": "power", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"}
COMPARISONS = {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal",
               "ne": "not_equal"}
WAITING = ("bincount", "flatnonzero")       # the size of their result depends on the values
# Like universal functions they give new arrays in C order, whatever the order of their arguments.
IN_C_ORDER = ("all any argmax argsort clip concatenate max mean min prod repeat stack sum take take_along_axis tile "
              "where").split()


class ufunc:
    """cupy.ufunc."""

    def __init__(self, name: str) -> None:
        self.name = self.__name__ = name
        self._function = getattr(np, name)

    def __call__(self, *args: Any, out: Any = None, dtype: Any = None, casting: str = "same_kind") -> ndarray:
        memory.check()
        count = self._function.nin
        if len(args) > count:
            out, = args[count:]
        if isinstance(out, tuple):
            out, = out
        if out is not None and not isinstance(out, ndarray):
            raise TypeError("Output arguments type must be cupy.ndarray")
        result = self._function(*map(unwrap, args[:count]), out=unwrap(out), dtype=dtype, casting=casting)
        return wrap(np.asarray(result, order="C")) if out is None else out


def _bound(line: str) -> tuple[str, inspect.Signature]:
    """Name and parameters of a line like "sum(a, axis=None)"."""
    scope: dict[str, Any] = {}
    exec(f"def {line}: pass", scope)
    name = line.split("(")[0]
    return name, inspect.signature(scope[name])


def _deep(value: Any) -> Any:
    return [unwrap(part) for part in value] if isinstance(value, (list, tuple)) else unwrap(value)


PLAIN_ARGUMENTS = ("axis", "axes", "dtype", "casting", "kind", "order", "shape", "newshape", "reps", "source",
                   "destination", "keepdims", "subok", "copy", "minlength", "repeats", "max_work")


def _call(name: str, call: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    out = arguments.get("out")
    if out is not None and not isinstance(out, ndarray):
        raise TypeError("Output arguments type must be cupy.ndarray")
    values = {name: value if name in PLAIN_ARGUMENTS else _deep(value) for name, value in arguments.items()}
    if values.get("keepdims") is None:
        values.pop("keepdims", None)
    result = call(values)
    if isinstance(result, (bool, type(None), tuple)):
        return result
    if out is not None:
        return out
    return wrap(np.asarray(result, order="C") if name in IN_C_ORDER else result)


def _function(name: str, signature: inspect.Signature) -> Callable[..., Any]:
    def call(arguments: dict[str, Any]) -> Any:
        positional = [arguments.pop(key) for key, p in signature.parameters.items() if p.default is p.empty]
        drop = {"where": True} if name == "copyto" else {}
        rest: dict[str, Any] = {key: drop.get(key, value) if value is None else value
                                for key, value in arguments.items()}
        if name in ("take", "take_along_axis", "put_along_axis"):
            at = arguments["axis"] if name == "take" else positional[-1]
            positional[1] = wrapped(positional[1], positional[0].size if at is None else positional[0].shape[at])
        if name == "where":
            return np.where(positional[0], rest["x"], rest["y"])
        if name in ("shape", "may_share_memory"):
            return getattr(np, name)(*positional)
        if name in ("concatenate", "stack"):
            positional[0] = tuple(positional[0])
        rest = {key: value for key, value in rest.items() if value is not None}
        return getattr(np, name)(*positional, **rest)

    def function(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs)
        if name not in ("where", "shape"):
            first = next(iter(arguments.arguments.values()))
            if not isinstance(first, (ndarray, list, tuple)):
                raise TypeError(f"{name}: unsupported type {type(first)}")
        if name in WAITING:
            memory.waits()
        arguments.apply_defaults()
        return _call(name, call, arguments.arguments)

    function.__name__ = name
    return function


def _method(name: str, signature: inspect.Signature) -> Callable[..., Any]:
    def method(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        def call(arguments: dict[str, Any]) -> Any:
            positional = [arguments.pop(key) for key, p in signature.parameters.items() if p.default is p.empty]
            return getattr(unwrap(self), name)(*positional, **arguments)
        return _call(name, call, signature.bind(*args, **kwargs).arguments)

    method.__name__ = name
    return method


def _install() -> None:
    scope = globals()
    for name in UFUNCS:
        scope[name] = ufunc(name)
    scope["abs"] = scope["absolute"]
    for line in SIGNATURES.split("\n")[1:-1]:
        name, signature = _bound(line)
        scope[name] = _function(name, signature)
    for line in METHODS.split("\n")[1:-1]:
        name, signature = _bound(line)
        setattr(ndarray, name, _method(name, signature))
    for short, name in OPERATORS.items():
        call = scope[name]
        setattr(ndarray, f"__{short}__", lambda x, y, call=call: _operate(call, x, y))
        setattr(ndarray, f"__r{short}__", lambda x, y, call=call: _operate(call, y, x))
        setattr(ndarray, f"__i{short}__", lambda x, y, call=call: call(x, y, x))
    for short, name in COMPARISONS.items():
        setattr(ndarray, f"__{short}__", lambda x, y, call=scope[name]: _operate(call, x, y))
    setattr(ndarray, "__hash__", None)
    for short, name in (("neg", "negative"), ("abs", "absolute"), ("invert", "invert")):
        setattr(ndarray, f"__{short}__", lambda x, call=scope[name]: call(x))


def _operate(call: ufunc, x: Any, y: Any) -> Any:
    for value in (x, y):
        if value is None or isinstance(value, str):
            return NotImplemented
    return call(x, y)


def _transpose(self: ndarray, *axes: Any) -> ndarray:
    return wrap(self._a.transpose(*axes), self._device)      # a view on any device


def _reshape(self: ndarray, *shape: Any, order: Any = "C") -> ndarray:
    return wrap(self._a.reshape(*shape, order=order), self._device)


setattr(ndarray, "transpose", _transpose)
setattr(ndarray, "reshape", _reshape)


# --- making arrays

def array(obj: Any, dtype: Any = None, copy: bool = True, order: Any = "K") -> ndarray:
    if isinstance(obj, np.ndarray) and order in ("K", "A"):
        order = "F" if obj.flags.f_contiguous else "C"      # no other order crosses over
    options: Any = {"dtype": dtype, "copy": copy or None, "order": order}
    result = np.array(obj._a if isinstance(obj, ndarray) else obj, **options)
    memory.take(result.shape, result.dtype)
    return wrap(result if isinstance(obj, ndarray) else result.copy("K"))


def asarray(a: Any, dtype: Any = None, order: Any = None) -> ndarray:
    if isinstance(a, ndarray) and dtype in (None, a.dtype):
        return a
    return array(a, dtype, order=order or "K")


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    if isinstance(a, ndarray) and dtype in (None, a.dtype) and a.flags.c_contiguous:
        return a if a.ndim else _reshape(a, 1)      # never without axes, as NumPy's
    return array(a, dtype, order="C")


def empty(shape: Any, dtype: Any = float, order: Any = "C") -> ndarray:
    result = ndarray(shape, dtype, order)
    if result.dtype.kind == "f":
        result._a.fill(np.nan)        # so that no caller relies on zeros
    return result


def zeros(shape: Any, dtype: Any = float, order: Any = "C") -> ndarray:
    return full(shape, 0, dtype, order)


def ones(shape: Any, dtype: Any = float, order: Any = "C") -> ndarray:
    return full(shape, 1, dtype, order)


def full(shape: Any, fill_value: Any, dtype: Any = None, order: Any = "C") -> ndarray:
    result = ndarray(shape, np.asarray(unwrap(fill_value)).dtype if dtype is None else dtype, order)
    result[...] = fill_value
    return result


def empty_like(prototype: ndarray, dtype: Any = None, order: Any = "K", subok: None = None,
               shape: Any = None) -> ndarray:
    result: Any = np.empty_like(unwrap(prototype), dtype, order, shape=shape)
    memory.take(result.shape, result.dtype)
    return wrap(result)


def zeros_like(a: ndarray, dtype: Any = None, order: Any = "K", subok: None = None, shape: Any = None) -> ndarray:
    result = empty_like(a, dtype, order, shape=shape)
    result[...] = 0
    return result


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> ndarray:
    first, end = (start, stop) if stop is not None else (0, start)
    return wrap(np.arange(first, end, step, dtype=dtype))


def asnumpy(a: Any, stream: Any = None, order: Any = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    return a.get(stream, order, out, blocking) if isinstance(a, ndarray) else np.asarray(a, order=order)


_install()
