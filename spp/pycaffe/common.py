"""Settings of all nets and solvers of a process, as in Caffe's module: device, seed, log, errors."""
import logging
import os
import random
import sys
import time
import warnings
from contextlib import contextmanager
from datetime import datetime
from typing import Iterator

from spp import backend
from spp.errors import SppError
from spp.training.reporting import glog_prefix

LEVELS = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)    # glog's INFO, WARNING, ERROR, FATAL
MIN_LEVEL = "GLOG_minloglevel"      # environment variable: the lowest level that is logged

_log = logging.getLogger("spp")
_seeds = random.Random()
_state = {"gpu": False, "device_id": 0, "solver_count": 1, "solver_rank": 0}


class CaffeError(SppError, RuntimeError):
    """An SppError that is also the RuntimeError that scripts for Caffe catch."""


class CaffeValueError(CaffeError, ValueError):
    """The same for a wrong value, where Caffe raises ValueError."""


class CaffeTypeError(CaffeError, TypeError):
    """The same for a wrong type, where Caffe raises TypeError."""


@contextmanager
def caffe_errors() -> Iterator[None]:
    """Turn every SppError of the block, or of the function that this decorates, into a CaffeError."""
    try:
        yield
    except CaffeError:
        raise
    except SppError as error:
        raise CaffeError(str(error)) from error


def readable(path: str | os.PathLike[str]) -> str:
    """The path of a file that can be read; raises CaffeError, a RuntimeError, as Caffe does."""
    name = os.fspath(path)
    if not os.path.isfile(name) or not os.access(name, os.R_OK):
        raise CaffeError(f"Could not open file {name} (looked from {os.getcwd()}); check the path")
    return name


# --- device

def set_mode_cpu() -> None:
    """Nets that are created from now on compute on the CPU, which is the default."""
    _state["gpu"] = False


def set_mode_gpu() -> None:
    """Nets created from now on compute on the GPU of `set_device`; on the CPU, with a RuntimeWarning, if it fails."""
    _state["gpu"] = True
    device()


def set_device(device_id: int) -> None:
    """The number of the GPU for nets that are created from now on in GPU mode."""
    _state["device_id"] = device_id


def device() -> str:
    """The device of a net that is created now."""
    if not _state["gpu"]:
        return "cpu"
    name = f"cuda:{_state['device_id']}"
    try:
        backend.select(name)
    except SppError as error:
        warnings.warn(f"no GPU can be used, computing on the CPU: {error}", RuntimeWarning, stacklevel=3)
        _state["gpu"] = False
        return "cpu"
    return name


# --- randomness

def set_random_seed(seed: int) -> None:
    """Fix all randomness of nets and solvers that are created from now on; each of them gets its own seed."""
    _seeds.seed(seed)


def next_seed() -> int:
    """The seed of a net or solver that is created now; it varies between runs unless `set_random_seed` was called."""
    return _seeds.getrandbits(31)


# --- several solvers

def solver_count() -> int:
    """The value of `set_solver_count`, 1 by default."""
    return _state["solver_count"]


def set_solver_count(count: int) -> None:
    """The number of solvers that train together."""
    _state["solver_count"] = count


def solver_rank() -> int:
    """The value of `set_solver_rank`, 0 by default; random streams differ between ranks."""
    return _state["solver_rank"]


def set_solver_rank(rank: int) -> None:
    """The index of this process's solver."""
    _state["solver_rank"] = rank


def set_multiprocess(value: bool) -> None:
    """Whether each solver is a process of its own; it always is in spp, so this has no effect."""


def has_nccl() -> bool:
    """Whether gradients can be averaged over GPUs by NCCL; always False."""
    return False


class NCCL:
    """Caffe's averaging of gradients over several GPUs; not available, as has_nccl says."""

    def __init__(self, *args: object) -> None:
        raise CaffeError("caffe.NCCL needs NCCL, which this build does not use (has_nccl() is False); use one solver")


# --- log

class _Threshold(logging.Filter):
    """Passes records of a glog level and above; with None, the level is read from the environment each time."""

    def __init__(self, level: int | None) -> None:
        super().__init__()
        self.level = level

    def filter(self, record: logging.LogRecord) -> bool:
        text = os.environ.get(MIN_LEVEL, "0")
        level = self.level if self.level is not None else int(text) if text.isdigit() else 0
        return record.levelno >= LEVELS[min(level, len(LEVELS) - 1)]


class _Glog(logging.Formatter):
    """The format of glog's lines."""

    def format(self, record: logging.LogRecord) -> str:
        severity = "F" if record.levelno >= logging.CRITICAL else record.levelname[0]
        return glog_prefix(severity, datetime.fromtimestamp(record.created), record.process or 0,
                           f"{record.filename}:{record.lineno}") + record.getMessage()


def init_log(level: int | None = None, stderr: bool = True) -> None:
    """Print the log to the standard error in glog's format, from `level` on: 0 INFO, 1 WARNING, 2 ERROR, 3 FATAL.

    The default level is that of the environment variable GLOG_minloglevel, else INFO. The log always goes to the
    logger "spp" of Python's logging; before this is called, or with `stderr` False, it is not printed.
    """
    if level is not None and not 0 <= level < len(LEVELS):
        raise CaffeValueError(f"init_log: level must be 0 (INFO), 1 (WARNING), 2 (ERROR) or 3 (FATAL), found {level}")
    for previous in [h for h in _log.handlers if isinstance(h.formatter, _Glog)]:
        _log.removeHandler(previous)
    _log.setLevel(logging.INFO)
    if stderr:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Glog())
        handler.addFilter(_Threshold(level))
        _log.addHandler(handler)


def log(text: str) -> None:
    """Write a line to the log, at level INFO."""
    _log.info(text, stacklevel=2)


class Timer:
    """A stopwatch: `start`, `stop`, then `ms`."""

    def __init__(self) -> None:
        self._began = self._seconds = 0.0

    def start(self) -> None:
        """Begin to measure."""
        self._began = time.perf_counter()

    def stop(self) -> None:
        """Measure up to now."""
        self._seconds = time.perf_counter() - self._began

    @property
    def ms(self) -> float:
        """Milliseconds from `start` to `stop`."""
        return self._seconds * 1000
