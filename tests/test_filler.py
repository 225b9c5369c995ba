"""Fillers: ranges, spreads and shapes of the initial values."""
import numpy as np
import pytest

from spp.errors import NetError
from spp.filler import fill
from spp.proto import caffe_pb2

SHAPE = (40, 30, 5, 5)


def made(shape=SHAPE, **fields):
    return fill(shape, caffe_pb2.FillerParameter(**fields), np.random.default_rng(1))


def test_constant_is_the_default():
    assert (made() == 0).all() and (made(value=2.5) == 2.5).all()


def test_uniform_and_gaussian():
    values = made(type="uniform", min=-1, max=3)
    assert -1 <= values.min() < -0.99 and 2.99 < values.max() <= 3 and abs(values.mean() - 1) < 0.03
    values = made(type="gaussian", mean=2, std=0.5)
    assert abs(values.mean() - 2) < 0.01 and abs(values.std() - 0.5) < 0.01


def test_sparse_gaussian_keeps_sparse_over_num_output():
    values = made((50, 400), type="gaussian", std=1, sparse=10)
    assert abs((values != 0).mean() - 10 / 50) < 0.02


@pytest.mark.parametrize("norm, n", [("FAN_IN", 750), ("FAN_OUT", 1000), ("AVERAGE", 875)])
def test_xavier_and_msra(norm, n):
    values = made(type="xavier", variance_norm=norm)
    assert np.abs(values).max() <= np.sqrt(3 / n) and np.abs(values).max() > 0.99 * np.sqrt(3 / n)
    assert made(type="msra", variance_norm=norm).std() == pytest.approx(np.sqrt(2 / n), rel=0.02)


def test_positive_unitball_rows_sum_to_one():
    values = made((4, 3, 5), type="positive_unitball")
    np.testing.assert_allclose(values.reshape(4, -1).sum(1), 1, 1e-6)
    assert values.min() >= 0 and values.std() > 0


def test_bilinear_upsampling_kernel():
    # a kernel of 4 has f = 2, c = 3/4: taps 1/4, 3/4, 3/4, 1/4; one of 3: f = 2, c = 2/4: taps 1/2, 1, 1/2
    tap = np.array([0.25, 0.75, 0.75, 0.25])
    np.testing.assert_allclose(made((2, 1, 4, 4), type="bilinear"), np.broadcast_to(np.outer(tap, tap), (2, 1, 4, 4)))
    tap = np.array([0.5, 1, 0.5])
    np.testing.assert_allclose(made((1, 1, 3, 3), type="bilinear")[0, 0], np.outer(tap, tap))


@pytest.mark.parametrize("shape, fields, message", [
    (SHAPE, {"type": "gausian"}, "unknown filler 'gausian'; known fillers: bilinear, constant, gaussian"),
    ((3, 4), {"type": "bilinear"}, r"'bilinear' needs a 4-axis parameter with a square kernel, found shape \(3, 4\)"),
    (SHAPE, {"type": "xavier", "sparse": 3}, "filler 'xavier' does not take 'sparse'")])
def test_errors(shape, fields, message):
    with pytest.raises(NetError, match=message):
        made(shape, **fields)
