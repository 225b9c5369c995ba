"""The host's ReLU: in every order of memory, in place, and with what is not finite."""
import numpy as np
import pytest

from one_layer import in_orders
from spp.backend.host.layout import flat_views
from spp.ops import eltwise, neuron

X = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
DY = np.random.default_rng(1).normal(size=X.shape)
X[0, 1, 2, 3] = 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("slope", [0, 0.25, -0.5])
def test_relu_in_every_order_of_memory(slope, dtype):
    x, dy, factor = X.astype(dtype), DY.astype(dtype), dtype(slope)
    y, dx = np.where(x > 0, x, factor * x), np.where(x > 0, dy, factor * dy)
    layouts = [list(in_orders(array)) for array in (x, dy, np.full_like(x, np.nan))]
    for i in range(len(layouts[0])):
        for j in range(len(layouts[0])):
            out = layouts[2][j]
            neuron.relu_forward(layouts[0][i], out, slope)
            np.testing.assert_array_equal(out, y)
            neuron.relu_backward(layouts[1][j], layouts[0][i], out, slope)
            np.testing.assert_array_equal(out, dx)
    for a, b in zip(*(list(in_orders(array)) for array in (x, dy))):
        neuron.relu_backward(b, a, b, slope)
        np.testing.assert_array_equal(b, dx)
        neuron.relu_forward(a, a, slope)
        np.testing.assert_array_equal(a, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("relu", [False, True])
def test_weighted_sum_in_every_order_of_memory(relu, dtype):
    x, z = X.astype(dtype), DY.astype(dtype)
    x[0, 0, 0, :3], z[0, 0, 0, 1:4] = (np.nan, np.inf, -np.inf), (1, 0, np.nan)
    for coeffs in (1.0, 1.0), (0.5, -2.0):
        expected = dtype(coeffs[0]) * x + dtype(coeffs[1]) * z
        assert np.isnan(expected).sum() == 2
        if relu:
            expected = np.maximum(expected, 0)
        layouts = [list(in_orders(array)) for array in (x, z, np.full_like(x, 7))]
        for first in layouts[0]:
            for second in layouts[1]:
                for out in layouts[2]:
                    eltwise.sum_forward([first, second], coeffs, out, relu)
                    np.testing.assert_array_equal(out, expected)
        for first, second in zip(*(list(in_orders(array.copy())) for array in (x, z))):        # in place
            eltwise.sum_forward([first, second], coeffs, first, relu)
            np.testing.assert_array_equal(first, expected)
        for first, second in zip(*(list(in_orders(array.copy())) for array in (x, z))):
            eltwise.sum_forward([first, second], coeffs, second, relu)
            np.testing.assert_array_equal(second, expected)


@pytest.mark.parametrize("relu", [False, True])
def test_sum_of_three(relu):
    y = np.empty_like(X)
    eltwise.sum_forward([X, DY, X], [2.0, 0.5, -3.0], y, relu)
    expected = 2 * X + 0.5 * DY - 3 * X
    assert ((2 * X + 0.5 * DY) * expected < 0).any()        # no ReLU before the last one is added
    np.testing.assert_allclose(y, np.maximum(expected, 0) if relu else expected, 1e-13, 1e-13)


def test_what_lies_beside_a_slice_is_left_alone():
    wide = np.full((2, 5, 5, 4), -7.0)
    neuron.relu_forward(X, wide[:, 1:-1], 0)
    np.testing.assert_array_equal(wide[:, 1:-1], np.maximum(X, 0))
    neuron.relu_backward(DY, X, wide[:, 1:-1], 0)
    np.testing.assert_array_equal(wide[:, 1:-1], DY * (X > 0))
    assert (wide[:, [0, -1]] == -7).all()


def test_what_is_not_finite():
    x, y = np.array([np.nan, np.inf, -np.inf]), np.empty(3)
    neuron.relu_forward(x, y, 0)
    np.testing.assert_array_equal(y, [np.nan, np.inf, 0])
    neuron.relu_forward(x, y, 0.5)
    np.testing.assert_array_equal(y, [np.nan, np.inf, -np.inf])
    neuron.relu_backward(np.array([1, np.nan, np.nan]), np.array([2.0, 3, -3]), y, 0)
    np.testing.assert_array_equal(y, [1, np.nan, np.nan])


def test_flat_views():
    x = np.arange(24.0).reshape(2, 3, 4)
    fortran = np.asfortranarray(x)
    for flat in flat_views(x, x.copy()), flat_views(fortran, fortran.copy(order="K")):
        assert flat is not None
        np.testing.assert_array_equal(flat[0], flat[1])
    assert flat_views(x, fortran) is None and flat_views(x[:, :2], x[:, :2]) is None
    empty = flat_views(np.empty((0, 3)))
    assert empty is not None and empty[0].shape == (0,)
