"""LRN across channels and within a channel: against loops, the reference and central differences."""
import numpy as np
import pytest

from one_layer import OneLayer, assert_golden, assert_gradient, distinct, in_orders
from spp.backend.types import Geometry, LrnParameters
from spp.errors import NetError
from spp.ops import lrn, pooling

ACROSS = [      # shape, local_size, alpha, beta, k: every constant matters
    ((2, 7, 4, 5), 5, 1.3, 0.75, 2.0),
    ((2, 4, 3, 2), 3, 0.7, 0.6, 1.0),
    ((1, 3, 2, 3), 7, 2.0, 0.75, 0.5),      # a window wider than the channels
    ((2, 5, 3, 3), 1, 1.1, 1.0, 1.5),
    ((1, 1, 3, 2), 3, 1.0, 0.75, 1.0),
    ((70, 6), 5, 1.0, 0.75, 1.0),           # more positions than one task takes
    ((2, 6, 5), 3, 0.9, 0.5, 1.0),
    ((2, 5, 2, 3, 2), 5, 1.0, 0.75, 1.0),
]
WITHIN = [((2, 3, 6, 5), 3, 1.2, 0.75), ((1, 2, 4, 7), 5, 0.8, 0.6), ((2, 1, 2, 3), 7, 3.0, 0.75),
          ((1, 2, 3, 3), 1, 1.0, 1.0)]


def text(region, size, alpha, beta, k=1.0):
    return (f"type: 'LRN' lrn_param {{ norm_region: {region} local_size: {size} alpha: {alpha} beta: {beta} "
            f"k: {k} }}")


def as_stored(*numbers):
    """What a prototxt's numbers are after the message has stored them as float."""
    return [float(np.float32(number)) for number in numbers]


def across(x, size, alpha, beta, k):
    """y by loops over single numbers."""
    y = np.empty(x.shape)
    for n, c, *rest in np.ndindex(*x.shape):
        near = range(max(0, c - size // 2), min(x.shape[1], c + size // 2 + 1))
        squares = sum(float(x[(n, other, *rest)]) ** 2 for other in near)
        y[(n, c, *rest)] = x[(n, c, *rest)] / (k + alpha / size * squares) ** beta
    return y


def within(x, size, alpha, beta):
    """y by loops over single numbers."""
    y = np.empty(x.shape)
    for n, c, i, j in np.ndindex(*x.shape):
        squares = sum(float(x[n, c, a, b]) ** 2
                      for a in range(max(0, i - size // 2), min(x.shape[2], i + size // 2 + 1))
                      for b in range(max(0, j - size // 2), min(x.shape[3], j + size // 2 + 1)))
        y[n, c, i, j] = x[n, c, i, j] / (1 + alpha / size ** 2 * squares) ** beta
    return y


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 1e-6)])
@pytest.mark.parametrize("shape, size, alpha, beta, k", ACROSS)
def test_across_against_loops(shape, size, alpha, beta, k, dtype, tolerance):
    x = distinct(shape)
    y = OneLayer(text("ACROSS_CHANNELS", size, alpha, beta, k), shape, dtype=dtype).forward(x)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, across(x, size, *as_stored(alpha, beta, k)), tolerance)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 1e-6)])
@pytest.mark.parametrize("shape, size, alpha, beta", WITHIN)
def test_within_against_loops(shape, size, alpha, beta, dtype, tolerance):
    x = distinct(shape)
    ignored_k = 9.0
    y = OneLayer(text("WITHIN_CHANNEL", size, alpha, beta, ignored_k), shape, dtype=dtype).forward(x)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, within(x, size, *as_stored(alpha, beta)), tolerance)


def test_within_is_average_pooling_of_squares():
    x = distinct((2, 3, 7, 5))
    _, regions, areas = pooling.sliding_regions((7, 5), Geometry((3, 3), (1, 1), (1, 1)))
    mean, y = np.empty_like(x), np.empty_like(x)
    pooling.average_forward(x * x, regions, areas, mean)
    lrn.within_forward(x, y, LrnParameters(3, 1.3, 0.75))
    np.testing.assert_allclose(y, x * (1 + 1.3 * mean) ** -0.75, 1e-13)


@pytest.mark.parametrize("shape, size, alpha, beta, k", ACROSS)
def test_gradient_across(shape, size, alpha, beta, k):
    assert_gradient(OneLayer(text("ACROSS_CHANNELS", size, alpha, beta, k), shape), distinct(shape))


@pytest.mark.parametrize("shape, size, alpha, beta", WITHIN)
def test_gradient_within(shape, size, alpha, beta):
    assert_gradient(OneLayer(text("WITHIN_CHANNEL", size, alpha, beta), shape), distinct(shape))


@pytest.mark.parametrize("case", ["across", "across_3", "within"])
def test_golden(case):
    assert_golden(f"lrn_{case}")


@pytest.mark.parametrize("region, numbers", [("across", (5, 1.2, 0.75, 2.0)), ("within", (3, 1.2, 0.75))])
def test_any_order_of_memory(region, numbers):
    x, dy = distinct((2, 7, 5, 4)), distinct((2, 7, 5, 4), seed=1)
    forward, backward = getattr(lrn, f"{region}_forward"), getattr(lrn, f"{region}_backward")
    results = []
    for a, b, y, dx in zip(*map(in_orders, [x, dy, np.zeros(x.shape), np.zeros(x.shape)])):
        forward(a, y, LrnParameters(*numbers))
        backward(b, a, dx, LrnParameters(*numbers))
        results.append((y, dx))
    np.testing.assert_allclose(results[0][0], globals()[region](x, *numbers), 1e-13)
    assert len(results) == 5
    for y, dx in results[1:]:
        np.testing.assert_array_equal(y, results[0][0])
        np.testing.assert_array_equal(dx, results[0][1])


@pytest.mark.parametrize("region, reach", [("ACROSS_CHANNELS", {(0, 3), (0, 4), (0, 5)}),
                                           ("WITHIN_CHANNEL", {(0, 4)})])
@pytest.mark.parametrize("beta", [0.75, 0.6])
def test_nan_is_seen_and_stays_where_it_reaches(region, reach, beta):
    x = distinct((2, 7, 3, 3))
    x[0, 4, 1, 1] = np.nan
    y = OneLayer(text(region, 3, 1, beta), x.shape).forward(x)
    assert np.isnan(y[0, 4, 1, 1]) and {(n, c) for n, c, *_ in np.argwhere(np.isnan(y)).tolist()} == reach


def test_a_map_of_another_size():
    one = OneLayer(text("WITHIN_CHANNEL", 3, 1, 0.75), (1, 2, 3, 4))
    for shape in (1, 2, 3, 4), (3, 2, 6, 5), (1, 2, 3, 4):
        np.testing.assert_allclose(one.forward(distinct(shape)), within(distinct(shape), 3, 1, 0.75), 1e-13)


@pytest.mark.parametrize("text, shape, message", [
    ("local_size: 4", (2, 3, 5, 6), "local_size must be odd, found 4"),
    ("local_size: 0", (2, 3, 5, 6), "local_size must be odd, found 0"),
    ("norm_region: WITHIN_CHANNEL", (2, 3, 5), r"needs a bottom of N x C x H x W, found shape \(2, 3, 5\)"),
    ("", (4,), r"needs a bottom of at least the 2 axes N x C, found shape \(4,\)")])
def test_errors(text, shape, message):
    with pytest.raises(NetError, match=message):
        OneLayer(f"type: 'LRN' lrn_param {{ {text} }}", shape)
