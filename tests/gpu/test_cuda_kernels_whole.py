"""That every kernel of kernels.cu was run by the tests of the kernels, and what all of them rest on."""
import glob
import importlib
import os
import re

import numpy as np
import pytest

import cuda_cpu
import cuda_kernels
from cuda_kernels import TESTED

pytestmark = cuda_kernels.needs_compiler
cuda = cuda_kernels.cuda


def of_the_kernels():
    """File and name of each test function beside this file that runs kernels."""
    paths = glob.glob(os.path.join(os.path.dirname(os.path.abspath(__file__)), "test_cuda_kernels_*.py"))
    assert len(paths) > 4
    tests = set()
    for path in set(paths) - {os.path.abspath(__file__)}:
        with open(path) as file:
            tests |= {(os.path.basename(path), name) for name in re.findall(r"^def (test_\w+)", file.read(), re.M)}
    return tests


def test_every_kernel_was_run(request, cuda):
    """TESTED holds what the session's tests before this one ran: meant to be complete only where all of them did."""
    before = request.session.items[:request.session.items.index(request.node)]
    ran = {(item.path.name, item.originalname) for item in before}
    if not of_the_kernels() <= ran:
        pytest.skip("only after all tests of kernels: tests/gpu/test_cuda_kernels_*.py")
    source = importlib.import_module("spp.backend.cuda.kernels").source()
    assert TESTED == set(cuda_cpu.kernel_names(source))


def test_division_of_large_indices():
    source = importlib.import_module("spp.backend.cuda.kernels").source()
    start = source.index("__device__ inline long long divide")
    kernel = cuda_cpu.Module(source[start:source.index("\n}\n", start) + 3] + """
extern "C" __global__ void divided(long long a, int b, long long *quotient, int *rest) {
    *quotient = divide(a, b, *rest);
}
""").get_function("divided")
    for a in (0, 5, 2 ** 31 - 1, 2 ** 31, 2 ** 32 + 7, 2 ** 40 + 3):
        for b in (1, 3, 1000, 2 ** 31 - 1):
            quotient, rest = np.zeros(1, np.int64), np.zeros(1, np.int32)
            kernel((1,), (1,), (np.int64(a), np.int32(b), quotient, rest))
            assert (quotient[0], rest[0]) == divmod(a, b)
