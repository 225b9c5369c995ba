"""How much memory a piece of work allocates."""
import tracemalloc

SMALL = 40 << 10    # bytes: Python objects, sums a channel, NumPy's buffers of 8192 elements; blobs have 10 times that


def most_allocated(work):
    """Bytes that `work` holds at most beyond what is held before it, after two rounds to warm up."""
    for _ in range(2):
        work()
    tracemalloc.start()
    try:
        work()      # what tracemalloc itself makes happen once
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
