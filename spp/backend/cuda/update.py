"""Parameter updates: all parameters in one launch. spp.ops.update documents the rules."""
import functools
from typing import Sequence

import cupy
import numpy as np

from spp.backend.cuda.kernels import CHUNK, launch_blocks
from spp.backend.types import UpdateStep


def update(rule: str, arrays: Sequence[Sequence[cupy.ndarray]], step: UpdateStep, numbers: Sequence[float]) -> None:
    """Change all parameters by a rule: sgd, nesterov, adagrad, rmsprop, adadelta or adam."""
    if not arrays[0]:
        return
    dtype, device = arrays[0][0].dtype, cupy.cuda.Device().id
    pointers = tuple(tuple(array.data.ptr for array in kind) for kind in arrays)
    table, chunks = _table(pointers, tuple(array.size for array in arrays[0]), device)
    by_parameter = _numbers((*step.rate, *step.decay), dtype, device)
    launch_blocks(f"{rule}_update", chunks, dtype, table, by_parameter, len(step.rate), bool(step.l1),
                  float(step.scale), *map(float, numbers))


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
