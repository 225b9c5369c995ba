"""Parameter updates: all parameters in one launch. What each rule computes is said in spp.ops.update."""
import functools
from typing import Sequence

import cupy
import numpy as np

from spp.backend.cuda.kernels import CHUNK, launch_blocks

Arrays = Sequence[cupy.ndarray]
Numbers = Sequence[float]


def _run(name: str, arrays: Sequence[Arrays], rates: Numbers, decays: Numbers, l1: bool, *numbers: float) -> None:
    """Run a rule's kernel on a table of the parameters' arrays: data, diff and one or two histories."""
    if not arrays[0]:
        return
    dtype, device = arrays[0][0].dtype, cupy.cuda.Device().id
    pointers = tuple(tuple(array.data.ptr for array in kind) for kind in arrays)
    table, chunks = _table(pointers, tuple(array.size for array in arrays[0]), device)
    by_parameter = _numbers((*rates, *decays), dtype, device)
    launch_blocks(name, chunks, dtype, table, by_parameter, len(rates), bool(l1), *map(float, numbers))


@functools.lru_cache(8)
def _table(pointers: tuple[tuple[int, ...], ...], sizes: tuple[int, ...], device: int) -> tuple[cupy.ndarray, int]:
    """A row for each parameter, as kernels.cu's `Parameter`; and the number of chunks of all."""
    table = np.zeros((len(sizes), 6), np.int64)
    for i, kind in enumerate(pointers):
        table[:, i] = kind
    table[:, 4] = sizes
    chunks = -(-table[:, 4] // CHUNK)
    table[:, 5] = np.cumsum(chunks) - chunks
    return cupy.asarray(table), int(chunks.sum())


@functools.lru_cache(8)
def _numbers(values: tuple[float, ...], dtype: np.dtype, device: int) -> cupy.ndarray:
    return cupy.asarray(np.array(values, dtype))


def sgd_update(data: Arrays, diff: Arrays, history: Arrays, rate: Numbers, momentum: float, decay: Numbers, l1: bool,
               scale: float) -> None:
    """SGD with momentum."""
    _run("sgd_update", (data, diff, history), rate, decay, l1, scale, momentum)


def nesterov_update(data: Arrays, diff: Arrays, history: Arrays, rate: Numbers, momentum: float, decay: Numbers,
                    l1: bool, scale: float) -> None:
    """SGD with Nesterov's momentum."""
    _run("nesterov_update", (data, diff, history), rate, decay, l1, scale, momentum)


def adagrad_update(data: Arrays, diff: Arrays, history: Arrays, rate: Numbers, delta: float, decay: Numbers, l1: bool,
                   scale: float) -> None:
    """AdaGrad."""
    _run("adagrad_update", (data, diff, history), rate, decay, l1, scale, delta)


def rmsprop_update(data: Arrays, diff: Arrays, history: Arrays, rate: Numbers, rms_decay: float, delta: float,
                   decay: Numbers, l1: bool, scale: float) -> None:
    """RMSProp."""
    _run("rmsprop_update", (data, diff, history), rate, decay, l1, scale, delta, rms_decay, 1 - rms_decay)


def adadelta_update(data: Arrays, diff: Arrays, gradients: Arrays, updates: Arrays, rate: Numbers, momentum: float,
                    delta: float, decay: Numbers, l1: bool, scale: float) -> None:
    """AdaDelta."""
    _run("adadelta_update", (data, diff, gradients, updates), rate, decay, l1, scale, delta, momentum, 1 - momentum)


def adam_update(data: Arrays, diff: Arrays, first: Arrays, second: Arrays, rate: Numbers, momentum: float,
                momentum2: float, delta: float, decay: Numbers, l1: bool, scale: float) -> None:
    """Adam; `rate` is corrected for the bias already."""
    _run("adam_update", (data, diff, first, second), rate, decay, l1, scale, delta, momentum, 1 - momentum,
         momentum2, 1 - momentum2)
