"""Telling that kernels are compiled: a net's first use on a machine takes a minute, and later ones a second."""
from typing import Any, Callable

from numba.core import event


class _Once(event.Listener):
    """Calls a function where Numba first compiles rather than finding the kernel in its cache."""

    def __init__(self, tell: Callable[[], Any]) -> None:
        self._tell: Callable[[], Any] | None = tell

    def on_start(self, event: Any) -> None:
        if self._tell:
            self._tell()
        self._tell = None

    def on_end(self, event: Any) -> None:
        """Nothing to tell."""


def on_compilation(tell: Callable[[], Any]) -> None:
    """Call `tell` before the first kernel that has to be compiled; of several calls the last one counts."""
    if _listeners:
        event.unregister("numba:compile", _listeners.pop())
    _listeners.append(_Once(tell))
    event.register("numba:compile", _listeners[0])


_listeners: list[_Once] = []
