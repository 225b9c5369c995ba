"""Arrays of 16-bit floating-point numbers, channels last for cuDNN. CuPy has no bfloat16, so the kernels are ours.

A float32 array N x C x pixels and its 16-bit form, N x pixels x C, the bits in uint16.
"""
import functools
import math
from typing import Any

import cupy
import numpy as np

from spp.backend.cuda.failures import with_free_memory
from spp.backend.cuda.kernels import source
from spp.backend.types import Array, Epilogue, Numbers

TILE, BLOCK, MOST_BLOCKS = 32, 256, 1 << 16     # as in half.cu


@functools.cache
def _kernel(name: str, precision: str) -> Any:
    options = ("--std=c++17", *(("-DFP16=1",) if precision == "fp16" else ()))
    return with_free_memory(cupy.RawModule(code=source("half.cu"), options=options).get_function, name)


def empty(shape: Numbers) -> Array:
    """Memory for the 16-bit form of an array of this shape."""
    return cupy.empty(math.prod(shape), np.uint16)


def narrow(x: Array, precision: str) -> Array:
    """The 16-bit form of `x`, N x C x ..., float32; rounded to nearest, ties to even. precision: fp16 or bf16."""
    x = cupy.ascontiguousarray(x)
    out = empty(x.shape)
    _launch("narrow", precision, x.shape, x, out)
    return out


def widen(half: Array, y: Array, precision: str, epilogue: Epilogue = Epilogue(), add: bool = False) -> None:
    """Write to the C-contiguous `y` (N x C x ..., float32) the values of its 16-bit form, with the epilogue applied.

    If `add`, the old values of `y` are added before the epilogue's ReLU.
    """
    bias, scale, shift, relu = epilogue
    flags = [np.int32(flag) for flag in (bias is not None, scale is not None, add, relu)]
    _launch("widen", precision, y.shape, half, y, *(y if v is None else v for v in (bias, scale, shift)), flags=flags)


def _launch(name: str, precision: str, shape: Numbers, *arrays: Array, flags: Any = ()) -> None:
    images, channels, pixels = shape[0], shape[1], math.prod(shape[2:])
    tiles = images * -(-channels // TILE) * -(-pixels // TILE)
    if tiles:
        with_free_memory(_kernel(name, precision), (min(tiles, MOST_BLOCKS),), (BLOCK,), (
            np.int64(tiles), *arrays, np.int32(channels), np.int32(pixels), *flags))
