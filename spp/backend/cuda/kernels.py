"""Launches of the kernels of kernels.cu, which is compiled once per dtype, when a kernel is first used."""
import functools
import os
from typing import Any

import cupy
import numpy as np

from spp.backend.cuda.failures import with_free_memory
from spp.backend.cuda.layout import empty, load, store

BLOCK = 256             # threads of a block, a power of 2
PLANES = 4              # planes in which a thread pools a region
TILE = 32               # regions, and channels, that a block pools together
CHANNELS = 8            # adjacent channels that a thread normalizes
NEAR = 2                # channels, rows or columns to each side whose ratios a block computes besides its own
CHUNK = 4096            # elements of a parameter that a block updates
MOST_BLOCKS = 1 << 16   # of a grid, which loops over a larger count
# As on the host, every product is rounded before an addition: only then do both break ties in the same way.
OPTIONS = ("--std=c++17", "--fmad=false", f"-DBLOCK={BLOCK}", f"-DPLANES={PLANES}", f"-DTILE={TILE}",
           f"-DCHANNELS={CHANNELS}", f"-DNEAR={NEAR}", f"-DCHUNK={CHUNK}")
_C_NAMES = {"f": "float", "d": "double"}
OUT: Any = object()     # stands for the array that a kernel writes


def source(name: str = "kernels.cu") -> str:
    """The text of a file of this folder in CUDA C++."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name), encoding="ascii") as file:
        return file.read()


def on_device(value: Any, dtype: Any) -> cupy.ndarray:
    """A number, or an array of one element, as an array of shape (1,) and this dtype."""
    if isinstance(value, cupy.ndarray):
        return value.reshape(1).astype(dtype, copy=False)
    return _constant(float(value), np.dtype(dtype), cupy.cuda.Device().id)


@functools.lru_cache(256)
def _constant(value: float, dtype: np.dtype, device: int) -> cupy.ndarray:
    return cupy.full(1, value, dtype)


@functools.cache
def _module(kind: str) -> Any:
    return cupy.RawModule(code=source(), options=(*OPTIONS, f"-Dreal={_C_NAMES[kind]}"))


@functools.cache
def _kernel(name: str, kind: str) -> Any:
    return with_free_memory(_module(kind).get_function, name)


def launch(name: str, count: int, dtype: Any, *args: Any) -> None:
    """Run a kernel with one thread per element, `count` in all; `dtype` (float32 or float64) is its type `real`.

    args: C-contiguous arrays, and numbers: Python's integers are passed as int, its floats as real, NumPy's scalars
    with their own type. Raises RuntimeError or MemoryError if the GPU fails (see failures.as_spp_error).
    """
    _launch(name, -(-count // BLOCK), count, np.dtype(dtype), args)


def launch_blocks(name: str, count: int, dtype: Any, *args: Any) -> None:
    """Like `launch`, with one block of BLOCK threads per item, `count` in all."""
    _launch(name, count, count, np.dtype(dtype), args)


def launch_into(target: cupy.ndarray, name: str, count: int, *args: Any, by_block: bool = False) -> None:
    """`launch`, or `launch_blocks`, of a kernel that writes `target`: OUT among the arguments stands for it.

    Arrays that are not in C order, `target` included, are replaced by copies in C order. `target` may be read, too.
    """
    out = empty(target)
    run = launch_blocks if by_block else launch
    run(name, count, target.dtype, *(out if arg is OUT else load(arg) if isinstance(arg, cupy.ndarray) else arg
                                     for arg in args))
    store(out, target)


def launch_one_block(name: str, count: int, dtype: Any, *args: Any) -> None:
    """Like `launch`, with one block for all elements."""
    _launch(name, 1, count, np.dtype(dtype), args)


def _launch(name: str, blocks: int, count: int, dtype: np.dtype, args: tuple) -> None:
    if count:
        values = (np.int64(count), *(_argument(arg, dtype) for arg in args))
        with_free_memory(_kernel(name, dtype.char), (min(blocks, MOST_BLOCKS),), (BLOCK,), values)


def _argument(value: Any, dtype: np.dtype) -> Any:
    if isinstance(value, np.generic):
        return value
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int):
        return np.int32(value)
    return dtype.type(value) if isinstance(value, float) else value
