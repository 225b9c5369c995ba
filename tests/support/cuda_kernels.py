"""What the tests of the kernels share: the backend with its kernels on the CPU (cuda_cpu), and a comparison.

With SPP_TEST_DEVICE=cuda the kernels run on the GPU. A file of tests has `cuda = cuda_kernels.cuda` and
`dtype = cuda_kernels.dtype`, the fixtures.
"""
import importlib
import os
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

import cuda_cpu
import emulated_cupy
from spp import backend
from spp.backend import host

DEVICE = os.environ.get("SPP_TEST_DEVICE", "cpu")
ON_A_GPU = DEVICE.startswith("cuda")
needs_compiler = pytest.mark.skipif(cuda_cpu.COMPILER is None, reason=cuda_cpu.MISSING)
# of an array's largest element; a GPU's pow is right to 4 units in the last place
RELATIVE = {np.float32: 2e-6 if ON_A_GPU else 1e-6, np.float64: 1e-13}
TESTED: set[str] = set()       # the kernels that were run


@pytest.fixture(scope="module", autouse=True)
def cuda():
    with ExitStack() as stack:
        stack.enter_context(backend.select(DEVICE).use() if ON_A_GPU else emulated_cupy.installed())
        kernels: Any = importlib.import_module("spp.backend.cuda.kernels")
        launch, most_blocks = kernels._launch, kernels.MOST_BLOCKS

        def recorded(name, *args):
            TESTED.add(name)
            launch(name, *args)

        kernels.MOST_BLOCKS = 3         # so that threads and blocks have more than one element
        kernels._launch = recorded
        yield importlib.import_module("spp.backend.cuda")
        kernels._launch, kernels.MOST_BLOCKS = launch, most_blocks


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


def random(shape, dtype, seed=0):
    """Distinct values, negative ones too, of a 4-D array in one of two orders of memory."""
    values = np.random.default_rng([seed, *shape]).permutation(int(np.prod(shape))).reshape(shape)
    values = (values / values.size - 0.4).astype(dtype)
    if len(shape) == 4 and seed % 2:
        return np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return values


def on(move, value):
    """A function's argument with `move` done to the arrays in it."""
    if hasattr(value, "_make"):         # a named tuple
        return value._make(on(move, part) for part in value)
    if isinstance(value, (list, tuple)):
        return type(value)(on(move, part) for part in value)
    return move(value) if isinstance(value, np.ndarray) or hasattr(value, "get") else value


def arrays(value):
    if isinstance(value, (list, tuple)):
        return [array for part in value for array in arrays(part)]
    return [value] if isinstance(value, (np.ndarray, np.generic)) else []


def compare(cuda, name, *args, exact=False, **kwargs):
    """Call both backends: what is returned, and every array after the call, must be the same."""
    args = tuple(args)
    here = on(lambda array: array.copy(order="K"), args)
    there = on(cuda.from_host, args)
    expected = getattr(host, name)(*here, **kwargs)
    results = on(cuda.to_host, getattr(cuda, name)(*there, **kwargs))
    pairs = list(zip(arrays([here, expected]), arrays([on(cuda.to_host, there), results]), strict=True))
    assert pairs
    for mine, its in pairs:
        assert its.dtype == mine.dtype and its.shape == mine.shape
        if exact or mine.dtype.kind != "f":
            np.testing.assert_array_equal(its, mine)
        else:
            largest = np.abs(mine[np.isfinite(mine)]).max(initial=0)
            np.testing.assert_allclose(its, mine, 0, RELATIVE[args_type(args)] * largest)


def args_type(args):
    """The type of the numbers that a function computes with."""
    return np.float32 if any(array.dtype == np.float32 for array in arrays(args)) else np.float64
