"""Notice that kernels are compiled: a net's first use on a machine takes a minute, later ones a second."""
from typing import Any, Callable

from numba.core import event


class _Once(event.Listener):
    """Calls a function when Numba first compiles a kernel instead of loading it from its cache."""

    def __init__(self, callback: Callable[[], Any]) -> None:
        self._callback: Callable[[], Any] | None = callback

    def on_start(self, event: Any) -> None:
        if self._callback:
            self._callback()
        self._callback = None

    def on_end(self, event: Any) -> None:
        """Do nothing; Numba calls it after each compilation."""


def on_compilation(callback: Callable[[], Any]) -> None:
    """Call `callback` before the first kernel that has to be compiled; a later call replaces the callback."""
    if _listeners:
        event.unregister("numba:compile", _listeners.pop())
    _listeners.append(_Once(callback))
    event.register("numba:compile", _listeners[0])


_listeners: list[_Once] = []
