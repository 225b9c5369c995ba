"""The kernels of single elements, of channels and of softmax, on the CPU, against the host."""
import importlib
import itertools

import numpy as np
import pytest

import cuda_kernels
from cuda_kernels import compare, random
from spp.backend.types import Combination, Epilogue
from spp.backend import host

pytestmark = cuda_kernels.needs_compiler
cuda = cuda_kernels.cuda
dtype = cuda_kernels.dtype


# --- elementwise

@pytest.mark.parametrize("slope", [0, 0.25, -0.5])
def test_relu(cuda, dtype, slope):
    for seed, shape in enumerate([(2, 3, 13, 11), (2, 3, 13, 11), (1000,), (0, 3)]):
        x, dy = random(shape, dtype, seed), random(shape, dtype, 3)
        if x.size:
            x.flat[:4] = np.nan, -np.inf, np.inf, 0
        compare(cuda, "relu", x, np.empty_like(x), slope, exact=True)
        compare(cuda, "relu_backward", dy, x, np.empty_like(x), slope, exact=True)
    both = cuda.from_host(x)
    cuda.relu(both, both, slope)        # in place
    np.testing.assert_array_equal(cuda.to_host(both), np.where(x > 0, x, slope * x))


def test_weighted_sum(cuda, dtype):
    for seed, shape in enumerate([(2, 3, 13, 11), (2, 3, 13, 11), (1000,), (0, 3)]):
        x, z = random(shape, dtype, seed), random(shape, dtype, 3)
        if x.size:
            x.flat[:4] = np.nan, -np.inf, np.inf, 0
        for relu in (False, True):
            compare(cuda, "weighted_sum", x, 0.5, z, -2.0, np.empty_like(x), relu, exact=True)
    x = random((4, 5), dtype)
    both = cuda.from_host(x)
    cuda.weighted_sum(both, 1.0, both, -3.0, both, True)        # in place
    np.testing.assert_array_equal(cuda.to_host(both), np.maximum(x + -3 * x, 0))


# --- dropout

def test_dropout_mask(cuda, dtype):
    first, second = (cuda.xp.empty((7, 30011), dtype) for _ in range(2))
    stream = np.random.default_rng(5)
    cuda.draw_mask(stream, 0.3, 1 / 0.7, first)
    cuda.draw_mask(stream, 0.3, 1 / 0.7, second)
    one, other = cuda.to_host(first), cuda.to_host(second)
    assert set(np.unique(one)) == {dtype(0), dtype(1 / 0.7)}
    passes = one != 0
    assert abs(passes.mean() - 0.7) < 0.004       # 4 standard deviations
    assert abs(passes.reshape(-1, 7).mean(0) - 0.7).max() < 0.012
    assert abs((passes & (other != 0)).mean() - 0.49) < 0.005         # independent of each other
    assert abs((passes[:, 1:] & passes[:, :-1]).mean() - 0.49) < 0.005
    again = cuda.xp.empty((7, 30011), dtype)
    cuda.draw_mask(np.random.default_rng(5), 0.3, 1 / 0.7, again)
    np.testing.assert_array_equal(cuda.to_host(again), one)


def test_philox_gives_its_published_numbers(cuda):
    """The known answers of the generator's authors (Random123) for counter and key 0; as ratios they are exact."""
    words = np.array([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8], np.uint64) >> np.uint64(8)

    class Zero:
        def integers(self, most):
            return 0

    ratios = (words / (1 << 24)).astype(np.float32)
    for k in range(4):
        for ratio, expected in ((ratios[k], 1), (np.nextafter(ratios[k], np.float32(1)), 0)):
            mask = cuda.xp.empty(5, np.float32)
            cuda.draw_mask(Zero(), ratio, 1.0, mask)
            assert cuda.to_host(mask)[k] == expected


# --- channels

CHANNELS = [((3, 5, 7, 6), 1, 2), ((3, 5, 7, 6), 0, 2), ((3, 5, 7, 6), 2, 4), ((40, 9), 1, 2), ((40, 9), 1, 1),
            ((2, 3, 4, 5, 6), 1, 3), ((2, 2, 90, 60), 1, 2)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shape, first, last", CHANNELS)
def test_channels(cuda, dtype, shape, first, last, seed):
    x, z = random(shape, dtype, seed) + dtype(5), random(shape, dtype, seed + 2)
    axes = first, last - first
    compare(cuda, "channel_moments", x, *axes)
    compare(cuda, "channel_sums", x, *axes)
    compare(cuda, "channel_dots", x, z, *axes)
    a, shift, b, c = (np.random.default_rng(k).standard_normal(shape[first:last]) for k in range(4))
    y = np.empty_like(x)
    compare(cuda, "channel_combine", x, z, Combination(a, shift, b, c), y, *axes)
    compare(cuda, "channel_affine", x, shift, a, b.astype(dtype), y, *axes)
    compare(cuda, "channel_affine", x, 0, a.astype(dtype), 0.5, y, *axes)
    x.flat[5] = np.nan
    compare(cuda, "channel_affine", x, 5, a, b, y, *axes, relu=True)


def test_variance_far_from_zero(cuda):
    x = (1e4 + random((4, 2, 9, 8), np.float64)).astype(np.float32)
    _, variance = cuda.channel_moments(cuda.from_host(x), 1, 1)
    np.testing.assert_allclose(cuda.to_host(variance), x.astype(np.float64).var((0, 2, 3)), 1e-9)
    constant = cuda.xp.full((3, 2), 7, np.float32)
    assert not cuda.to_host(cuda.channel_moments(constant, 1, 1)[1]).any()
    assert not cuda.to_host(cuda.channel_sums(cuda.xp.empty((0, 2), np.float32), 1, 1)).any()


# --- what follows a convolution

@pytest.mark.parametrize("shape", [(2, 5, 3, 7), (3, 4, 2), (2, 3), (1, 1, 13, 11), (1, 9, 1, 1), (4, 2, 40, 30)])
def test_convolution_finish(cuda, dtype, shape):
    apply = importlib.import_module("spp.backend.cuda.convolution")._apply
    before = random(shape, dtype)
    before.flat[1] = np.nan
    bias, scale, shift = (np.random.default_rng(k).standard_normal(shape[1]).astype(dtype) for k in range(3))
    b, a, c = (values.reshape(-1, *[1] * (len(shape) - 2)) for values in (bias, scale, shift))
    for biased, scaled, relu in itertools.product((False, True), repeat=3):
        y = cuda.from_host(before)
        vectors = [cuda.from_host(values) if used else None
                   for values, used in ((bias, biased), (scale, scaled), (shift, scaled))]
        apply(y, Epilogue(vectors[0], vectors[1], vectors[2], relu))
        expected = before + b if biased else before
        expected = expected * a + c if scaled else expected
        np.testing.assert_array_equal(cuda.to_host(y), np.maximum(expected, 0) if relu else expected)


# --- softmax

@pytest.mark.parametrize("shape, axis", [((9, 1000), 1), ((3, 11, 5, 7), 1), ((3, 70, 2, 3), 1), ((5, 4, 3), 2),
                                         ((300, 7), 1), ((1, 7), 0), ((2, 3, 40, 30), 1)])
def test_softmax(cuda, dtype, shape, axis):
    rng = np.random.default_rng(0)
    x, dy = (3 * random(shape, dtype, seed) for seed in (1, 2))
    y = np.empty_like(x)
    compare(cuda, "softmax", x, y, axis)
    host.softmax(x, y, axis)
    compare(cuda, "softmax_backward", dy, y, np.empty_like(x), axis)
    samples = shape[:axis] + shape[axis + 1:]
    labels = rng.integers(0, shape[axis], samples)
    counted = rng.random(samples) < 0.8
    compare(cuda, "softmax_loss", y, labels, axis, counted, 1e-20)
    compare(cuda, "softmax_loss_backward", y, labels, axis, counted, 0.3, np.empty_like(x))


def test_softmax_loss_of_extremes(cuda):
    x = np.array([[1e4, 0, -1e4], [np.nan, 0, 0], [0, 1, 2], [np.inf, 0, 0]], np.float32)
    with np.errstate(invalid="ignore"):
        compare(cuda, "softmax", x, np.empty_like(x), 1)
    compare(cuda, "softmax", 1000 * np.eye(300, dtype=np.float32), np.empty((300, 300), np.float32), 1)
    prob, counted = np.array([[0, 1], [np.nan, 1]], np.float32), np.array([True, False])
    for rows, mask in ((slice(0, 1), counted[:1]), (slice(1, 2), counted[:1])):
        compare(cuda, "softmax_loss", prob[rows], np.zeros(1, np.int64), 1, mask, float(np.finfo(np.float32).tiny))


def test_the_scale_of_a_gradient_may_lie_on_the_gpu(cuda):
    prob = cuda.from_host(np.full((2, 2), 0.5, np.float32))
    dx, labels = cuda.xp.empty((2, 2), np.float32), cuda.xp.zeros(2, np.int64)
    scale = cuda.number(cuda.from_host(np.array([4.0])))
    cuda.softmax_loss_backward(prob, labels, 1, cuda.xp.ones(2, bool), scale, dx)
    assert cuda.to_host(dx).tolist() == [[-2, 2], [-2, 2]]
