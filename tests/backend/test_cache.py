"""The bounded cache of each thread."""
import threading

from spp.backend.host.cache import Cache


def test_the_oldest_value_is_dropped():
    cache, calls = Cache(2), []

    def double(number):
        calls.append(number)
        return 2 * number

    assert [cache.get(n, double, n) for n in (1, 2, 1, 3, 2, 1)] == [2, 4, 2, 6, 4, 2]
    assert calls == [1, 2, 3, 1]
    assert list(cache.values) == [3, 1]


def test_each_thread_has_its_own_values():
    cache = Cache(2)
    cache.get("key", int, 5)
    others = []
    thread = threading.Thread(target=lambda: others.append(cache.get("key", int, 7)))
    thread.start()
    thread.join()
    assert others == [7] and cache.get("key", int, 9) == 5


def test_none_is_a_value():
    cache = Cache(1)
    calls: list[int] = []
    for _ in range(2):
        assert cache.get("key", calls.append, 1) is None
    assert calls == [1]
