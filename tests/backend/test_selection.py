"""Elements picked by index or by size."""
import numpy as np
import pytest

from spp.backend import host


def in_order(x, order):
    """A copy of a 4-D array in C order or channels-last."""
    return x.copy() if order == "C" else np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("orders", ["CC", "CL", "LC", "LL"])
def test_take_rows_of_maps(orders):
    x = np.random.default_rng(0).normal(size=(4, 3, 5, 2)).astype(np.float32)
    indices = np.array([3, 0, 0, 2, 3])
    y = in_order(np.zeros((5, 3, 5, 2), np.float32), orders[1])
    host.take_rows(in_order(x, orders[0]), indices, y)
    np.testing.assert_array_equal(y, x[indices])


def test_take_rows_of_numbers_and_none_at_all():
    x, y = np.arange(7) * 1.5, np.zeros(3)
    host.take_rows(x, np.array([6, 0, 2]), y)
    assert y.tolist() == [9, 0, 3]
    host.take_rows(x, np.array([], np.int64), y[:0])
    host.take_rows(np.zeros((0, 3)), np.array([], np.int64), np.zeros((0, 3)))


def test_take_columns():
    x, y = np.arange(12.0).reshape(3, 4), np.zeros((3, 1))
    host.take_columns(x, np.array([3, 0, 2]), y[:, 0])
    assert y.ravel().tolist() == [3, 4, 10]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_largest_is_a_stable_sort_read_backwards(count, dtype):
    x = np.random.default_rng(count).integers(-9, 9, (300, 40)).astype(dtype)     # many equal ones
    x[::7, 11] = x[::21, 30] = np.nan
    x[5] = np.inf
    x[6] = -np.inf
    indices, values = np.zeros((300, count), np.int64), np.zeros((300, count), dtype)
    host.largest(x, indices, values)
    expected = np.argsort(x, 1, kind="stable")[:, ::-1][:, :count]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(x, expected, 1))


def test_largest_of_no_rows():
    host.largest(np.zeros((0, 5)), np.zeros((0, 2), np.int64), np.zeros((0, 2)))
