"""cuda_cpu, CUDA C++ on the CPU, is as strict as it says."""
import numpy as np
import pytest

import cuda_cpu

pytestmark = pytest.mark.skipif(cuda_cpu.COMPILER is None, reason=cuda_cpu.MISSING)

SUM = """
extern "C" __global__ void total(long long count, const real *x, real *out, int half_waits) {
    __shared__ real sums[BLOCK];
    sums[threadIdx.x] = threadIdx.x < count ? x[threadIdx.x] : real(0);
    if (half_waits && threadIdx.x % 2)
        return;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int i = 0; i < BLOCK; ++i)
            *out += sums[i];
}
"""


@pytest.fixture(scope="module")
def module():
    return cuda_cpu.Module(SUM, ("--std=c++17", "-Dreal=float", "-DBLOCK=64"))


@pytest.mark.parametrize("change, error, message", [
    ({}, None, None),
    ({0: 5}, None, None),                               # Python's integers are of 8 bytes, as with CuPy
    ({0: np.int32(5)}, TypeError, "total: parameter 0 is i8, and the argument i4"),
    ({1: np.ones(5)}, TypeError, r"parameter 1 is \*f4, and the argument \*f8"),
    ({2: np.float32(0)}, TypeError, r"parameter 2 is \*f4, and the argument f4"),
    ({3: np.int32(1)}, RuntimeError, "some threads of a block ended while others waited"),
    ({4: 0}, TypeError, "total takes 4 arguments, found 5"),
])
def test_a_launch_is_checked(module, change, error, message):
    x, out = np.arange(5, dtype=np.float32), np.zeros(1, np.float32)
    args = {0: np.int64(5), 1: x, 2: out, 3: np.int32(0), **change}
    if error:
        with pytest.raises(error, match=message):
            module.get_function("total")((1,), (64,), tuple(args.values()))
    else:
        module.get_function("total")((1,), (64,), tuple(args.values()))
        assert out == 10


@pytest.mark.parametrize("grid, block", [((0,), (64,)), ((1,), (2048,)), ((1, 65536), (1,)), ((2 ** 31,), (1,))])
def test_a_grid_is_checked(module, grid, block):
    with pytest.raises(ValueError, match="total: no GPU takes grid"):
        module.get_function("total")(grid, block, ())


def test_a_source_that_does_not_compile():
    with pytest.raises(RuntimeError, match="kernels.cu:1:.*nothing"):
        cuda_cpu.Module('extern "C" __global__ void f(int n) { nothing(n); }')
