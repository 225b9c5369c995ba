"""The kernels of normalisation over a region, of resizing and of columns, on the CPU, against the host."""
import importlib

import numpy as np
import pytest

import cuda_kernels
from cuda_kernels import RELATIVE, compare, random
from spp.backend.types import Geometry, LrnParameters
from spp.ops import resize

pytestmark = cuda_kernels.needs_compiler
cuda = cuda_kernels.cuda
dtype = cuda_kernels.dtype


# --- local response normalisation

@pytest.mark.parametrize("size, beta", [(5, 0.75), (3, 0.6), (1, 0.75), (99, 0.5)])
@pytest.mark.parametrize("shape, seed", [((2, 19, 5, 7), 0), ((2, 19, 5, 7), 1), ((3, 6), 0), ((1, 9, 2, 3, 4), 0),
                                         ((2, 67, 6, 11), 0)])
def test_lrn_across(cuda, dtype, shape, seed, size, beta):
    x, dy = random(shape, dtype, seed), random(shape, dtype, seed + 2)
    compare(cuda, "lrn_across", x, np.empty_like(x), LrnParameters(size, 1.0, beta, 2.0))
    compare(cuda, "lrn_across_backward", dy, x, np.empty_like(x), LrnParameters(size, 1.0, beta, 2.0))


@pytest.mark.parametrize("size, beta", [(3, 0.75), (5, 0.6), (99, 0.75)])
@pytest.mark.parametrize("shape, seed", [((2, 3, 9, 7), 0), ((2, 3, 9, 7), 1), ((1, 2, 19, 67), 0)])
def test_lrn_within(cuda, dtype, shape, seed, size, beta):
    x, dy = random(shape, dtype, seed), random(shape, dtype, seed + 2)
    compare(cuda, "lrn_within", x, np.empty_like(x), LrnParameters(size, 1.0, beta))
    compare(cuda, "lrn_within_backward", dy, x, np.empty_like(x), LrnParameters(size, 1.0, beta))


# --- bilinear resizing

@pytest.mark.parametrize("height, width", [(13, 22), (4, 5), (7, 1), (1, 9), (7, 9)])
@pytest.mark.parametrize("seed", [0, 1])
def test_bilinear(cuda, dtype, seed, height, width):
    x = random((2, 3, 7, 9), dtype, seed)
    rows, columns = resize.bilinear_axis(0, 7, height, dtype), resize.bilinear_axis(1, 8, width, dtype)
    y = random((2, 3, height, width), dtype, seed)
    compare(cuda, "bilinear", x, rows, columns, y)
    compare(cuda, "bilinear_backward", y, rows, columns, np.empty_like(x))


# --- windows of a convolution as columns

@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kernel, stride, pad, dilation", [
    ((3, 2), (1, 1), (0, 0), (1, 1)), ((3, 3), (2, 1), (1, 2), (1, 1)), ((2, 3), (1, 3), (2, 0), (3, 2)),
    ((1, 1), (2, 2), (0, 0), (1, 1)), ((9, 10), (4, 4), (0, 1), (1, 1))])
def test_im2col(cuda, dtype, seed, kernel, stride, pad, dilation):
    columns_of = importlib.import_module("spp.backend.cuda.convolution_fallback")
    x = random((2, 3, 8, 10), dtype, seed)
    out = [max(1, (size + 2 * p - (k - 1) * d - 1) // s + 1)
           for size, k, s, p, d in zip(x.shape[2:], kernel, stride, pad, dilation)]
    expected = np.zeros((3, *kernel, 2, *out), dtype)
    back = random(expected.shape, dtype)
    dx = np.zeros_like(x)
    for c, i, j, n, row, column in np.ndindex(expected.shape):
        h, w = row * stride[0] - pad[0] + i * dilation[0], column * stride[1] - pad[1] + j * dilation[1]
        if 0 <= h < 8 and 0 <= w < 10:
            expected[c, i, j, n, row, column] = x[n, c, h, w]
            dx[n, c, h, w] += back[c, i, j, n, row, column]
    result = cuda.from_host(np.empty_like(x))
    geometry = Geometry(kernel, stride, pad, dilation)
    columns = columns_of.im2col(cuda.from_host(x), tuple(out), geometry)
    columns_of.col2im(cuda.from_host(back), result, geometry)
    np.testing.assert_array_equal(cuda.to_host(columns), expected)
    np.testing.assert_allclose(cuda.to_host(result), dx, RELATIVE[dtype], RELATIVE[dtype])


# --- images

@pytest.mark.parametrize("mean_shape", [(3,), (11, 13, 3)])
def test_transform(cuda, dtype, mean_shape):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 7, 8, 3), np.uint8)
    mirrored = np.array([True, False, True, False, True])
    shift = rng.normal(0, 10, (5, 3)).astype(np.float32)
    place = np.array([[0, 5], [4, 0], [2, 1], [3, 2], [1, 3]], np.int32)
    mean = rng.uniform(90, 120, mean_shape).astype(np.float32)
    for y in (np.empty((5, 3, 7, 8), dtype), np.empty((5, 7, 8, 3), dtype).transpose(0, 3, 1, 2)):
        compare(cuda, "transform", images, mirrored, shift, place, mean, 1 / 255, y, exact=True)
