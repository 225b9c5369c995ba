"""Computing ahead of use on threads, in order.

Threads, not processes: OpenCV decodes and resizes, and NumPy and LMDB copy, without Python's lock, so they
run in parallel; a batch need not be copied through a pipe; and a fork would be unsafe here, since the threads of
Numba and OpenMP do not survive it and an open LMDB must not be used after it.
"""
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

import cv2

from spp.errors import DataError

WORKERS = "SPP_DATA_WORKERS"        # environment variable: number of threads per source
MAX_WORKERS = 4                     # unless the variable is set
IDLE_CHECK = 0.2                    # seconds after which an idle thread checks whether the program has ended

Item = TypeVar("Item")
Result = TypeVar("Result")


def workers() -> int:
    """Number of reading threads: SPP_DATA_WORKERS, else one per processor, at most 4. Raises DataError."""
    text = os.environ.get(WORKERS)
    if text is None:
        return min(MAX_WORKERS, os.cpu_count() or 1)
    if not text.isdigit() or int(text) < 1:
        raise DataError(f"environment variable {WORKERS}: expected a number of threads, at least 1, found {text!r}")
    return int(text)


def program_ends() -> bool:
    """Whether the main thread has ended and the interpreter waits for the other threads."""
    return not threading.main_thread().is_alive()


def ahead(function: Callable[[Item], Result], items: Iterable[Item], depth: int,
          threads: int) -> Generator["Future[Result]", None, None]:
    """Yield a future of function(item) for each item, in order; up to `depth` later items are computed meanwhile.

    Closing the generator cancels the calls that have not begun and waits for the others.
    """
    # not a ThreadPoolExecutor, which would finish all queued calls before the program can end
    jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
    team = [threading.Thread(target=_work, args=(jobs,), name=f"spp-data-{i}") for i in range(threads)]
    for thread in team:
        thread.start()
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(Future())
            jobs.put((pending[-1], function, item))
            if len(pending) > depth:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        for future in pending:
            future.cancel()
        for _ in team:
            jobs.put(None)
        for thread in team:
            if thread is not threading.current_thread():    # the garbage collector may run this on any thread
                thread.join()


def _work(jobs: "queue.SimpleQueue[Any]") -> None:
    cv2.setNumThreads(1)        # OpenCV's own threads would compete with these
    while not program_ends():
        try:
            job = jobs.get(timeout=IDLE_CHECK)
        except queue.Empty:
            continue
        if job is None:
            return
        future, function, item = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function(item))
            except Exception as error:
                future.set_exception(error)
        del job, future, function, item     # an idle thread must not keep its source alive
