"""Several processes that run tests at the same time (pytest -n): threads, the cache of compiled kernels, the order."""
import fcntl
import functools
import os
from typing import Any, Callable

from folders import ROOT

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
# Each worker computes with its share of the cores; with two threads at least, so that parallel kernels are tested.
if WORKER:
    _share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(2, _share)))
# Files that take longest begin first, so that no worker is left with one of them at the end.
LONG = ("test_device_nets", "test_train_net", "test_cuda_compile", "test_onednn", "test_convert_onnx_torch",
        "test_demo", "test_cuda_kernels", "test_threads", "test_scale_fusion", "test_winograd", "test_tools",
        "test_convert_onnx", "test_cuda_backend", "test_snapshots", "test_pycaffe_scripts", "test_benchmarks")
# These belong together: the last test checks which kernels the others ran.
TOGETHER = "test_cuda_kernels_"


def group(path: str) -> str:
    """The name of the tests that run in one worker, in order, with a test file."""
    stem = os.path.splitext(os.path.basename(path))[0]
    return TOGETHER.rstrip("_") if stem.startswith(TOGETHER) else stem


def long_first(items: list[Any]) -> None:
    """Sort the tests of a worker; the tests of one file stay in order."""
    if WORKER:
        items.sort(key=lambda item: LONG.index(group(item.path)) if group(item.path) in LONG else len(LONG))


def scheduler(config: Any, log: Any) -> Any:
    """For pytest-xdist: whole groups, in the order in which they were collected."""
    from xdist.scheduler import LoadFileScheduling

    class ByGroup(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid.split("::")[0])

    config.option.loadscopereorder = False
    return ByGroup(config, log)


def lock_cache() -> None:
    """Let one worker at a time read or write Numba's cache of compiled kernels.

    Otherwise two workers that save two signatures of a kernel at once may give them the same file, and a third process
    would run one for the other.
    """
    if WORKER:
        from numba.core.caching import IndexDataCacheFile
        for name in ("load", "save"):
            setattr(IndexDataCacheFile, name, _locked(getattr(IndexDataCacheFile, name)))


def _locked(function: Callable[..., Any]) -> Callable[..., Any]:
    path = ROOT / "build" / "numba.lock"
    path.parent.mkdir(exist_ok=True)

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        with open(path, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return function(*args)
    return run
