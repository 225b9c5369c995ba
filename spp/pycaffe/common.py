"""What holds for all nets and solvers of a process, as Caffe's own module keeps it: device, seed, log, errors."""
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
MIN_LEVEL = "GLOG_minloglevel"      # environment variable: the least level that is shown

_log = logging.getLogger("spp")
_seeds = random.Random()
_state = {"gpu": False, "device_id": 0, "solver_count": 1, "solver_rank": 0, "multiprocess": False}


class CaffeError(SppError, RuntimeError):
    """What went wrong, as the RuntimeError that scripts for Caffe catch."""


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
    """Nets made from now on compute on the CPU; so do those made before any mode is set."""
    _state["gpu"] = False


def set_mode_gpu() -> None:
    """Nets made from now on compute on the GPU that `set_device` names (0 at first).

    Where no GPU can be used, a RuntimeWarning says why, and they compute on the CPU.
    """
    _state["gpu"] = True
    device()


def set_device(device_id: int) -> None:
    """The number of the GPU that nets made from now on use in GPU mode."""
    _state["device_id"] = device_id


def device() -> str:
    """The device of a net that is made now."""
    if not _state["gpu"]:
        return "cpu"
    name = f"cuda:{_state['device_id']}"
    try:
        backend.select(name)
    except SppError as error:
        warnings.warn(f"no GPU to be had, computing on the CPU: {error}", RuntimeWarning, stacklevel=3)
        _state["gpu"] = False
        return "cpu"
    return name


# --- randomness

def set_random_seed(seed: int) -> None:
    """Fix all randomness of nets and solvers made from now on; each of them gets a seed of its own."""
    _seeds.seed(seed)


def next_seed() -> int:
    """The seed of a net or solver that is made now; it differs from run to run unless `set_random_seed` was called."""
    return _seeds.getrandbits(31)


# --- several solvers

def solver_count() -> int:
    """The number that `set_solver_count` was given, 1 at first."""
    return _state["solver_count"]


def set_solver_count(count: int) -> None:
    """How many solvers train together."""
    _state["solver_count"] = count


def solver_rank() -> int:
    """The number that `set_solver_rank` was given, 0 at first; random streams differ between ranks."""
    return _state["solver_rank"]


def set_solver_rank(rank: int) -> None:
    """Which of the solvers this process has."""
    _state["solver_rank"] = rank


def set_multiprocess(value: bool) -> None:
    """Whether the solvers are processes of their own: here they always are, so that it changes nothing."""
    _state["multiprocess"] = value


def has_nccl() -> bool:
    """Whether gradients can be averaged over GPUs by NCCL: no."""
    return False


class NCCL:
    """Caffe's averaging of gradients over several GPUs, which this module has not."""

    def __init__(self, *args: object) -> None:
        raise CaffeError("caffe.NCCL needs NCCL, which this build does not use (has_nccl() tells); use one solver")


# --- log

class _Threshold(logging.Filter):
    """Lets records of a glog level and above through; None: of the level in the environment at that moment."""

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
    """Show the log on the standard error in glog's form, from `level` on: 0 INFO, 1 WARNING, 2 ERROR, 3 FATAL.

    Without a level, the environment variable GLOG_minloglevel tells it, else INFO. The log goes to the logger
    "spp" of Python's logging in any case; until this is called, or with `stderr` False, nothing shows it.
    """
    if level is not None and not 0 <= level < len(LEVELS):
        raise CaffeValueError(f"init_log: level must be 0 (INFO), 1 (WARNING), 2 (ERROR) or 3 (FATAL), found {level}")
    for handler in [h for h in _log.handlers if isinstance(h.formatter, _Glog)]:
        _log.removeHandler(handler)
    _log.setLevel(logging.INFO)
    if stderr:
        shown = logging.StreamHandler(sys.stderr)
        shown.setFormatter(_Glog())
        shown.addFilter(_Threshold(level))
        _log.addHandler(shown)


def log(text: str) -> None:
    """Put a line of one's own into the log."""
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
