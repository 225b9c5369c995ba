"""A cache of bounded size, one for each thread."""
import threading
from typing import Any, Callable, Hashable


class Cache(threading.local):
    """At most `capacity` values per thread; a new one displaces the oldest."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.values: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[..., Any], *arguments: Any) -> Any:
        """The value of this key; a missing one is make(*arguments)."""
        if key not in self.values:
            value = make(*arguments)
            if len(self.values) >= self.capacity:
                del self.values[next(iter(self.values))]
            self.values[key] = value
        return self.values[key]
