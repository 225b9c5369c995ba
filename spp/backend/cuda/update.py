"""Parameter updates: all parameters in one launch. spp.ops.update documents the rules."""
import functools
from typing import Sequence

import cupy
import numpy as np

from spp.backend.cuda.kernels import CHUNK, launch_blocks
from spp.backend.types import UpdateStep

Arrays = Sequence[cupy.ndarray]


def _run(name: str, arrays: Sequence[Arrays], step: UpdateStep, *numbers: float) -> None:
    """Run a rule's kernel on a table of the parameters' arrays: data, diff and one or two histories each."""
    if not arrays[0]:
        return
    dtype, device = arrays[0][0].dtype, cupy.cuda.Device().id
    pointers = tuple(tuple(array.data.ptr for array in kind) for kind in arrays)
    table, chunks = _table(pointers, tuple(array.size for array in arrays[0]), device)
    by_parameter = _numbers((*step.rate, *step.decay), dtype, device)
    launch_blocks(name, chunks, dtype, table, by_parameter, len(step.rate), bool(step.l1), float(step.scale),
                  *map(float, numbers))


@functools.lru_cache(8)
def _table(pointers: tuple[tuple[int, ...], ...], sizes: tuple[int, ...], device: int) -> tuple[cupy.ndarray, int]:
    """One row per parameter, laid out as `Parameter` in kernels.cu; and the total number of chunks."""
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


def sgd_update(data: Arrays, diff: Arrays, history: Arrays, step: UpdateStep, momentum: float) -> None:
    """SGD with momentum."""
    _run("sgd_update", (data, diff, history), step, momentum)


def nesterov_update(data: Arrays, diff: Arrays, history: Arrays, step: UpdateStep, momentum: float) -> None:
    """SGD with Nesterov's momentum."""
    _run("nesterov_update", (data, diff, history), step, momentum)


def adagrad_update(data: Arrays, diff: Arrays, history: Arrays, step: UpdateStep, delta: float) -> None:
    """AdaGrad."""
    _run("adagrad_update", (data, diff, history), step, delta)


def rmsprop_update(data: Arrays, diff: Arrays, history: Arrays, step: UpdateStep, rms_decay: float,
                   delta: float) -> None:
    """RMSProp."""
    _run("rmsprop_update", (data, diff, history), step, delta, rms_decay, 1 - rms_decay)


def adadelta_update(data: Arrays, diff: Arrays, gradients: Arrays, updates: Arrays, step: UpdateStep,
                    momentum: float, delta: float) -> None:
    """AdaDelta."""
    _run("adadelta_update", (data, diff, gradients, updates), step, delta, momentum, 1 - momentum)


def adam_update(data: Arrays, diff: Arrays, first: Arrays, second: Arrays, step: UpdateStep,
                momenta: tuple[float, float], delta: float) -> None:
    """Adam; `step.rate` includes the correction of the bias."""
    momentum, momentum2 = momenta
    _run("adam_update", (data, diff, first, second), step, delta, momentum, 1 - momentum, momentum2, 1 - momentum2)
