"""The kernels of solvers' updates, of non-maximum suppression and of rows by index, on the CPU, against the host."""
import importlib

import numpy as np
import pytest

import cuda_kernels
from cuda_kernels import compare, random
from spp.backend.types import UpdateStep

pytestmark = cuda_kernels.needs_compiler
cuda = cuda_kernels.cuda
dtype = cuda_kernels.dtype


# --- non-maximum suppression

@pytest.mark.parametrize("threshold, eta", [(0.3, 1.0), (0.7, 0.8), (0.0, 1.0), (-1.0, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("count", [1, 150, 300])
def test_nms(cuda, dtype, count, threshold, eta):
    rng = np.random.default_rng(count)
    corners = rng.random((count, 2)).astype(dtype)
    boxes = np.concatenate([corners, corners + rng.random((count, 2)).astype(dtype) * dtype(0.4)], 1)
    boxes[::17] = boxes[0]
    boxes[5::29, 2] -= 1        # inside out
    compare(cuda, "nms", boxes, threshold, eta, np.zeros(count, bool))


# --- rows added by index

@pytest.mark.parametrize("count, length, targets", [(5, 7, 3), (700, 3, 41), (1000, 300, 9), (256, 1, 256), (0, 4, 5)])
def test_add_rows(cuda, dtype, count, length, targets):
    rows, y = random((count, length), dtype), random((targets, length), dtype, 1)
    indices = np.random.default_rng(0).integers(0, targets, count)
    compare(cuda, "add_rows", rows, indices, y, exact=True)        # in the host's order


def test_add_rows_of_any_layout_and_beyond_the_end(cuda):
    rows, y = (random(shape, np.float32, 1) for shape in ((6, 3, 5, 4), (4, 3, 5, 4)))
    compare(cuda, "add_rows", rows, np.array([3, 0, 3, 2, 0, 3]), y, exact=True)
    compare(cuda, "add_rows", rows.reshape(2, 3, 3, 20), np.array([[3, 0, 3], [2, 0, 3]]),
            y.reshape(4, 3, 20), exact=True)
    there = cuda.from_host(y)
    cuda.add_rows(cuda.from_host(rows[:3]), cuda.from_host(np.array([4, 1, -1])), there)
    expected = y.copy()
    expected[1] += rows[1]
    np.testing.assert_array_equal(cuda.to_host(there), expected)


@pytest.mark.parametrize("count, size", [(5, 9), (900, 41), (0, 3)])
def test_put_last(cuda, dtype, count, size):
    indices = np.random.default_rng(0).integers(0, size, count)
    compare(cuda, "put_last", random((count,), dtype), indices, random((size,), dtype, 1), exact=True)
    there = cuda.from_host(random((4,), dtype))
    cuda.put_last(cuda.from_host(np.array([7, 8, 9], dtype)), cuda.from_host(np.array([4, 1, -1])), there)
    np.testing.assert_array_equal(cuda.to_host(there), np.where(np.arange(4) == 1, dtype(8), random((4,), dtype)))


# --- updates

RULES = {       # histories; numbers
    "sgd": (1, (0.9,)), "nesterov": (1, (0.9,)), "adagrad": (1, (0.01,)), "rmsprop": (1, (0.01, 0.8, 0.2)),
    "adadelta": (2, (0.01, 0.95, 0.05)), "adam": (2, (0.01, 0.9, 0.1, 0.99, 0.01))}


@pytest.mark.parametrize("l1", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_update(cuda, dtype, rule, l1):
    kinds, numbers = RULES[rule]
    sizes = [3, 0, 9001, 4096, 1, 4097, 700]
    data, diff, *histories = ([random((size,), dtype, 10 * i + k) for k, size in enumerate(sizes)]
                              for i in range(2 + kinds))
    histories = [[np.abs(array) for array in kind] for kind in histories]
    data[2][:3] = 0, np.nan, -0.0
    rates, decays = [0.1 * (i + 1) for i in range(len(sizes))], [0.01 * i for i in range(len(sizes))]
    compare(cuda, "update", rule, [data, diff, *histories], UpdateStep(rates, decays, l1, 0.5), numbers)


def test_the_table_of_an_update_is_made_once(cuda):
    update = importlib.import_module("spp.backend.cuda.update")
    data, diff, history = ([cuda.xp.ones(5, np.float32)] for _ in range(3))
    update._table.cache_clear()
    for rate in (0.1, 0.2, 0.3):
        cuda.update("sgd", (data, diff, history), UpdateStep([rate], [0.0], False, 1.0), (0.5,))
    assert update._table.cache_info().misses == 1
    cuda.update("sgd", ([], [], []), UpdateStep([], [], False, 1.0), (0.5,))
