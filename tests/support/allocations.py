"""How much memory a piece of work allocates."""
import tracemalloc

SMALL = 40 << 10    # bytes: Python objects, sums per channel, NumPy's buffers of 8192 elements. Blobs are larger


def most_allocated(work):
    """The most bytes that `work` has allocated at any time, after two runs to warm up."""
    for _ in range(2):
        work()
    tracemalloc.start()
    try:
        work()      # allocations that tracemalloc itself makes once
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
