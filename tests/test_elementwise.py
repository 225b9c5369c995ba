"""The host's ReLU: in every order of memory, in place, and with what is not finite."""
import numpy as np
import pytest

from one_layer import in_orders
from spp.backend.host.layout import flat_alike
from spp.ops import neuron

X = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
DY = np.random.default_rng(1).normal(size=X.shape)
X[0, 1, 2, 3] = 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("slope", [0, 0.25, -0.5])
def test_relu_in_every_order_of_memory(slope, dtype):
    x, dy, factor = X.astype(dtype), DY.astype(dtype), dtype(slope)
    y, dx = np.where(x > 0, x, factor * x), np.where(x > 0, dy, factor * dy)
    laid = [list(in_orders(array)) for array in (x, dy, np.full_like(x, np.nan))]
    for i in range(len(laid[0])):
        for j in range(len(laid[0])):
            out = laid[2][j]
            neuron.relu_forward(laid[0][i], out, slope)
            np.testing.assert_array_equal(out, y)
            neuron.relu_backward(laid[1][j], laid[0][i], out, slope)
            np.testing.assert_array_equal(out, dx)
    for a, b in zip(*(list(in_orders(array)) for array in (x, dy))):
        neuron.relu_backward(b, a, b, slope)
        np.testing.assert_array_equal(b, dx)
        neuron.relu_forward(a, a, slope)
        np.testing.assert_array_equal(a, y)


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
    turned = np.asfortranarray(x)
    for flat in flat_alike(x, x.copy()), flat_alike(turned, turned.copy(order="K")):
        assert flat is not None
        np.testing.assert_array_equal(flat[0], flat[1])
    assert flat_alike(x, turned) is None and flat_alike(x[:, :2], x[:, :2]) is None
    empty = flat_alike(np.empty((0, 3)))
    assert empty is not None and empty[0].shape == (0,)
