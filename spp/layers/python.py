"""Layers that users write in Python."""
import dataclasses
import importlib
import os
import sys
from contextlib import contextmanager
from typing import Any, Iterator, Sequence

from spp import host_copy
from spp.backend import host
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Context, Layer, host_views
from spp.layers.registry import register

FACTS = ("bottoms", "tops", "one_top_per_bottom", "in_place", "is_loss")


@register("Python")
class Python(Layer):
    """A layer computed by the class `layer` in `module` (Caffe: Python).

    The class derives from Layer and overrides setup, reshape, forward and backward; it can read `param_str` (also as
    `param_str_`), `phase` and `blobs`. It takes any number of bottoms and tops, and may work in place, unless it
    declares other facts. `module` is searched on sys.path, then in the prototxt's folder and the current folder.
    Exceptions of the class pass through unchanged, with a note of the layer's name.

    The arrays of its bottoms, tops and parameters are NumPy's on any device: on a GPU, those that it reads are copied
    to the host, and those that it writes are copied back.

    This object wraps the user's, `user`, so that no attribute of the user's class can hide one of the net's;
    attributes that this object lacks are read from and written to `user`. Raises NetError if there is no such class.
    """

    bottoms = (0, None)
    tops = (0, None)
    in_place = True
    keeps_blobs = True
    user: Layer

    def __init__(self, param: Any, context: Context) -> None:
        super().__init__(param, context)
        p = param.python_param
        if not p.module or not p.layer:
            raise NetError("python_param needs module and layer, the names of a Python module and of a class in it")
        self._where = f"layer {self.name!r} (Python: {p.module}.{p.layer})"
        with self._note_errors("__init__"):
            cls = user_class(p.module, p.layer, context.source)
            user: Any = cls(param, dataclasses.replace(context, backend=host))
        user.param_str = user.param_str_ = p.param_str
        user.phase = self.phase
        user.blobs = host_views(self.blobs)
        user.random_stream = self.random_stream      # so that it is saved with the solver's state
        declared = {name for base in cls.__mro__ if base not in Layer.__mro__ for name in vars(base)}
        for fact in declared.intersection(FACTS):
            setattr(self, fact, getattr(user, fact))
        self.user = user

    def __getattr__(self, name: str) -> Any:
        if name == "user":
            raise AttributeError(name)
        return getattr(self.user, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if "user" in self.__dict__ and name not in self.__dict__:
            setattr(self.user, name, value)
        else:
            super().__setattr__(name, value)

    def differentiable(self, bottom: int) -> bool:
        return self.user.differentiable(bottom)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        with self._host_blobs("setup", bottom, top) as blobs:
            self.user.setup(*blobs)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        with self._host_blobs("reshape", bottom, top) as blobs:
            self.user.reshape(*blobs)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        with self._host_blobs("forward", bottom, top) as blobs:
            self.user.forward(*blobs)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if type(self.user).backward is Layer.backward and any(propagate_down):
            raise NetError(f"class {type(self.user).__name__} has no backward(self, top, propagate_down, bottom), and "
                           "a bottom needs a gradient; write it, or say propagate_down: false in the prototxt")
        with self._host_blobs("backward", bottom, top) as (bottoms, tops):
            self.user.backward(tops, propagate_down, bottoms)

    def state(self) -> dict[str, Any] | None:
        return super().state() if type(self.user).state is Layer.state else self.user.state()

    def restore(self, state: dict[str, Any]) -> None:
        if type(self.user).restore is Layer.restore:
            super().restore(state)
        else:
            self.user.restore(state)

    def close(self) -> None:
        self.user.close()

    @contextmanager
    def _host_blobs(self, method: str, bottom: Sequence[Blob], top: Sequence[Blob]) -> Iterator[list[list[Blob]]]:
        """Bottoms and tops with NumPy arrays, while a method of the user's code runs."""
        with host_copy.host_access(bottom, top, self.blobs), self._note_errors(method):
            yield [[host_copy.host_view(blob) for blob in blobs] for blobs in (bottom, top)]

    @contextmanager
    def _note_errors(self, method: str) -> Iterator[None]:
        """Add to any exception of the user's code a note of the layer and method that raised it."""
        try:
            yield
        except Exception as error:
            if hasattr(error, "add_note"):      # Python 3.11
                error.add_note(f"raised in {self._where}, {method}")
                if isinstance(error, ModuleNotFoundError) and error.name == "caffe":
                    error.add_note("write `import spp.pycaffe as caffe`, or start by `python -m spp.pycaffe PROGRAM`")
            raise


def user_class(module: str, name: str, source: str | None) -> type[Layer]:
    """The class of a Python layer; `source` is the prototxt's path. Raises NetError if there is no such class."""
    cls = getattr(_import(module, source), name, None)
    if not isinstance(cls, type) or not issubclass(cls, Layer):
        what = "is missing" if cls is None else "does not derive from spp.pycaffe.Layer (spp.layers.Layer)"
        raise NetError(f"python_param: {name!r} {what} in {sys.modules[module].__file__}; write class {name}(Layer) "
                       "with setup, reshape, forward and backward")
    if cls.forward is Layer.forward:
        raise NetError(f"python_param: class {name!r} in {sys.modules[module].__file__} has no forward(self, bottom, "
                       "top); write it")
    return cls


def _import(module: str, source: str | None) -> Any:
    """The module, from sys.path or else from the prototxt's folder or the current one, which join sys.path."""
    folders = [os.path.dirname(os.path.abspath(source))] if source else []
    folders.append(os.getcwd())
    for folder in ("", *folders):
        if folder and folder in sys.path:
            continue
        if folder:
            sys.path.append(folder)     # permanently: the module may import its neighbours later
            importlib.invalidate_caches()
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not _is_part(error.name, module):
                raise
        if folder:
            sys.path.remove(folder)
    raise NetError(f"python_param: there is no module {module!r} on Python's path, nor in {' or '.join(folders)}; put "
                   "its file there, or its folder into PYTHONPATH")


def _is_part(missing: str | None, module: str) -> bool:
    """Whether a missing module is `module` or its package, and not one that it imports."""
    return missing is not None and (module + ".").startswith(missing + ".")
