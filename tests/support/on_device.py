"""The tests on another device than the host: SPP_TEST_DEVICE=cuda, a GPU that works, or emulated (emulated_cupy).

The tests read and write blobs as NumPy arrays. So outside of the engine's own functions `blob.data` and `blob.diff`
are what spp.host_copy shows of them, brought to the device when the engine begins to work and back when it ends; and
nets and layers that name no device are made on this one.
"""
import functools
import threading
import weakref
from contextlib import contextmanager
from typing import Any, Iterator

import numpy as np

from spp import backend, net, solver, weights
from spp.inspection import debug
from spp.inspection import flops
from spp import host_copy
from spp.blob import Blob
from spp.layers import base, layer_class, types
from spp.pycaffe import common

_inside = threading.local()
_blobs: "weakref.WeakSet[Blob]" = weakref.WeakSet()


def _depth() -> int:
    return getattr(_inside, "depth", 0)


@contextmanager
def _engine() -> Iterator[None]:
    """The engine's own work: blobs have the device's arrays."""
    if _depth():
        yield
        return
    with host_copy.device_access(list(_blobs)):
        _inside.depth = 1
        try:
            yield
        finally:
            _inside.depth = 0


def _engines(function: Any) -> Any:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _engine():
            return function(*args, **kwargs)
    return run


def _outside(function: Any) -> Any:
    """A function of the tests that the engine calls: it sees NumPy arrays."""
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with host_copy.host_access(list(_blobs)):
            depth, _inside.depth = _depth(), 0
            try:
                return function(*args, **kwargs)
            finally:
                _inside.depth = depth
    return run


@contextmanager
def by_default(device: str) -> Iterator[None]:
    """While the block runs, "auto" means this device."""
    select = backend.select
    setattr(backend, "select", lambda name: select(device if name == "auto" else name))
    try:
        yield
    finally:
        setattr(backend, "select", select)


@contextmanager
def used(device: str) -> Iterator[None]:
    """While the block runs, the device of all nets that name none, or "auto"."""
    undo = []

    def put(owner: Any, name: str, value: Any) -> None:
        undo.append((owner, name, owner.__dict__[name] if name in owner.__dict__ else getattr(owner, name)))
        setattr(owner, name, value)

    def engines(owner: Any, *names: str) -> None:
        for name in names:
            if name in vars(owner):
                attribute = vars(owner)[name]
                is_property = isinstance(attribute, property)
                put(owner, name, property(_engines(attribute.fget)) if is_property else _engines(attribute))

    select, view, blob_init = backend.select, Blob._view, Blob.__init__
    selected = select(device)

    def data_view(self: Blob, which: str) -> Any:
        if _depth() or self.backend.xp is np or isinstance(self, host_copy.HostBlob):
            return view(self, which)
        return host_copy.host_view(self)._view(which)

    def init(self: Blob, shape: Any = (), dtype: Any = np.float32, backend: Any = selected,
             channels_last: bool | None = None) -> None:
        blob_init(self, shape, dtype, backend, channels_last)
        _blobs.add(self)

    to_host = selected.to_host
    put(selected, "to_host", lambda array: array if isinstance(array, np.ndarray) else to_host(array))
    put(backend, "select", lambda name: selected if name == "auto" else select(name))
    put(Blob, "_view", data_view)
    put(Blob, "__init__", init)
    put(base.Context, "__init__", functools.partialmethod(_context, base.Context.__init__, selected))
    engines(net.Net, "__init__", "reshape", "forward_layers", "fetch_loss", "set_loss_diffs", "backward_layers",
            "clear_param_diffs", "copy_from", "save", "state", "restore", "_make_arena")
    put(net.Net, "forward", _forward(net.Net.forward))
    engines(solver.Solver, "__init__", "step", "solve", "apply_update", "test_all", "snapshot", "restore")
    engines(weights, "assign", "write", "to_proto")
    for name in types():
        for cls in layer_class(name).__mro__:
            if cls not in (object, base.Layer) and issubclass(cls, base.Layer):
                engines(cls, "setup", "reshape", "backward", "state", "restore")
                if "forward" in vars(cls):
                    put(cls, "forward", _settled(_engines(cls.forward)))
    put(solver.Solver, "_notify", _outside(solver.Solver._notify))
    engines(base.Layer, "add_filled")
    engines(debug, "log_norms", "_mean_abs")
    engines(flops, "costs")
    chosen = common.device
    put(common, "device", lambda: chosen() if common._state["gpu"] else device)
    try:
        yield
    finally:
        for owner, name, value in reversed(undo):
            setattr(owner, name, value)


def _settled(forward: Any) -> Any:
    """A layer's forward that, outside of a net, says what it put off."""
    @functools.wraps(forward)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        forward(self, *args, **kwargs)
        if not _depth() and self.deferred_check is not None:
            with _engine():
                base.DeferredCheck(self).raise_if_failed()
    return run


def _context(self: Any, init: Any, selected: Any, phase: int = 0, dtype: Any = np.float32, backend: Any = None,
             *rest: Any, **named: Any) -> None:
    init(self, phase, dtype, backend or selected, *rest, **named)


def _forward(forward: Any) -> Any:
    """Net.forward, which shows the outputs, and what a layer put off to say."""
    @functools.wraps(forward)
    def run(self: net.Net, **inputs: Any) -> dict[str, Any]:
        with _engine():
            forward(self, **inputs)
            if any(layer.deferred_check is not None for layer in self.layers):
                self.fetch_loss()()
        return {name: self.blobs[name].data for name in self.outputs}
    return run
