"""Elementwise layers: worked numbers, extremes, NaN, working in place, and every refusal."""
import numpy as np
import pytest

from layer_net import backward, forward, layer_net, refusal
from spp import backend

X = np.array([[-2.0, -0.5, 0.0], [0.25, 1.0, 3.0]])
DY = np.array([[1.0, -2.0, 3.0], [0.5, -1.0, 2.0]])
SIGMOID = [[0.1192029220, 0.3775406688, 0.5], [0.5621765009, 0.7310585786, 0.9525741268]]

# layer, y, dx for X and DY, by hand
WORKED = [
    ("type: 'AbsVal'", [[2, 0.5, 0], [0.25, 1, 3]], [[-1, 2, 0], [0.5, -1, 2]]),
    ("type: 'BNLL'", [[0.1269280110, 0.4740769842, 0.6931471806], [0.8259394199, 1.3132616875, 3.0485873516]],
     [[0.1192029220, -0.7550813376, 1.5], [0.2810882504, -0.7310585786, 1.9051482536]]),
    ("type: 'Clip' clip_param { min: -0.5 max: 1 }", [[-0.5, -0.5, 0], [0.25, 1, 1]],
     [[0, -2, 3], [0.5, -1, 0]]),       # both limits pass the gradient
    ("type: 'ELU' elu_param { alpha: 2 }", [[-1.7293294335, -0.7869386806, 0], [0.25, 1, 3]],
     [[0.2706705665, -2.4261226389, 6], [0.5, -1, 2]]),
    ("type: 'ELU' elu_param { alpha: -2 }", [[1.7293294335, 0.7869386806, 0], [0.25, 1, 3]],
     [[-0.2706705665, 2.4261226389, -6], [0.5, -1, 2]]),
    ("type: 'Exp'", [[0.1353352832, 0.6065306597, 1], [1.2840254167, 2.7182818285, 20.0855369232]],
     [[0.1353352832, -1.2130613194, 3], [0.6420127083, -2.7182818285, 40.1710738464]]),
    ("type: 'Exp' exp_param { base: 4 scale: 0.5 shift: -1 }", [[0.0625, 0.1767766953, 0.25], [0.2973017788, 0.5, 2]],
     [[0.0433216988, -0.2450645359, 0.5198603854], [0.1030369449, -0.3465735903, 2.7725887222]]),
    ("type: 'Log' log_param { shift: 4 scale: 1.5 }",
     [[0, 1.1786549963, 1.3862943611], [1.4759065198, 1.7047480922, 2.1400661635]],
     [[1.5, -0.9230769231, 1.125], [0.1714285714, -0.2727272727, 0.3529411765]]),
    ("type: 'Log' log_param { base: 2 shift: 4 }", [[1, 1.8073549221, 2], [2.0874628413, 2.3219280949, 2.8073549221]],
     [[0.7213475204, -0.8243971662, 1.0820212807], [0.1697288283, -0.2885390082, 0.4121985831]]),
    ("type: 'PReLU' prelu_param { channel_shared: true }", [[-0.5, -0.125, 0], [0.25, 1, 3]],
     [[0.25, -0.5, 0.75], [0.5, -1, 2]]),
    ("type: 'Sigmoid'", SIGMOID, [[0.1049935854, -0.4700074244, 0.75], [0.1230670413, -0.1966119332, 0.0903533195]]),
    ("type: 'Swish'", [[-0.2384058440, -0.1887703344, 0], [0.1405441252, 0.7310585786, 2.8577223804]],
     [[-0.0907842488, -0.5200776253, 1.5], [0.3118550109, -0.9276705119, 2.1762082123]]),
    ("type: 'Threshold' threshold_param { threshold: 0.25 }", [[0, 0, 0], [0, 1, 1]], None),
    ("type: 'Power' power_param { power: 2 scale: 3 shift: 1 }", [[25, 0.25, 1], [3.0625, 16, 100]],
     [[-30, 6, 18], [5.25, -24, 120]]),
    ("type: 'ReLU' relu_param { negative_slope: 0.5 }", [[-1, -0.25, 0], [0.25, 1, 3]],
     [[0.5, -1, 1.5], [0.5, -1, 2]]),
]


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-9), (np.float32, 1e-6)])
@pytest.mark.parametrize("body, y, dx", WORKED, ids=[body for body, _, _ in WORKED])
def test_worked_numbers(body, y, dx, dtype, tolerance):
    net = layer_net(body, X.shape, dtype=dtype)
    result = forward(net, X)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, y, tolerance, tolerance)
    if dx is not None:
        np.testing.assert_allclose(backward(net, DY), dx, tolerance, tolerance)


@pytest.mark.parametrize("body, y, dx", WORKED[1:], ids=[body for body, _, _ in WORKED[1:]])
def test_in_place(body, y, dx):
    """All but AbsVal, also where the backward pass needs the input that has gone."""
    net = layer_net(body, X.shape, in_place=True)
    net.forward(x0=X)
    np.testing.assert_allclose(net.blobs["x0"].data, y, 1e-9, 1e-9)
    if dx is not None:
        net.blobs["x0"].diff[...] = DY
        net.backward()
        np.testing.assert_allclose(net.blobs["x0"].diff, dx, 1e-9, 1e-9)


def test_absval_is_refused_in_place():
    assert refusal(layer_net, "type: 'AbsVal'", (2, 3), in_place=True) == (
        "cannot work in place: give its top another name than its bottom 'x0'")


def test_in_place_after_a_change_of_size():
    net = layer_net("type: 'Clip' clip_param { min: -1 max: 1 }", (2, 3, 2, 2), in_place=True)
    for shape in ((2, 3, 2, 2), (3, 3, 4, 5), (1, 3, 1, 2)):
        x = np.random.default_rng(1).normal(size=shape)
        net.forward(x0=x)
        net.blobs["x0"].diff[...] = 2
        net.backward()
        np.testing.assert_array_equal(net.blobs["x0"].diff, 2 * (abs(x) <= 1))


def test_slopes_by_channel():
    net = layer_net("type: 'PReLU'", (2, 3, 2))
    net.params["l"][0].data[...] = [0.5, -1, 2]
    x = np.array([[[-1, 2], [-3, -4], [5, -6]], [[-7, 8], [9, 10], [-11, -12]]], float)
    np.testing.assert_array_equal(forward(net, x), [[[-0.5, 2], [3, 4], [5, -12]], [[-3.5, 8], [9, 10], [-22, -24]]])
    np.testing.assert_array_equal(backward(net, [[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 10], [11, 12]]]),
                                  [[[0.5, 2], [-3, -4], [5, 12]], [[3.5, 8], [9, 10], [22, 24]]])
    np.testing.assert_array_equal(net.params["l"][0].diff, [-1 - 49, -9 - 16, -36 - 121 - 144])


def test_slope_starts_at_a_quarter_unless_filled():
    assert layer_net("type: 'PReLU'", (1, 2)).params["l"][0].data.tolist() == [0.25, 0.25]
    net = layer_net("type: 'PReLU' prelu_param { channel_shared: true filler { value: 0.5 } }", (3,))
    assert net.params["l"][0].shape == () and net.params["l"][0].data == 0.5
    np.testing.assert_array_equal(forward(net, [-1.0, 0, 4]), [-0.5, 0, 4])


@pytest.mark.parametrize("body", [body for body, _, _ in WORKED if "Threshold" not in body])
def test_nan_stays_nan(body):
    """A training that diverged must be seen to."""
    net = layer_net(body, (1, 3), dtype=np.float32)
    result = forward(net, [[1.0, np.nan, 0.5]])
    assert np.isnan(result).tolist() == [[False, True, False]]
    assert np.isnan(backward(net, [[1.0, np.nan, 0.5]])).tolist() == [[False, True, False]]


@pytest.mark.parametrize("body, y, dx", [
    ("type: 'BNLL'", [0, 0, 80, 2e4], [0, 0, 1, 1]),
    ("type: 'Sigmoid'", [0, 0, 1, 1], [0, 0, 0, 0]),
    ("type: 'Swish'", [0, 0, 80, 2e4], [0, 0, 1, 1]),
    ("type: 'ELU'", [-1, -1, 80, 2e4], [0, 0, 1, 1]),
])
def test_extremes_do_not_overflow(body, y, dx):
    net = layer_net(body, (4,), dtype=np.float32)
    np.testing.assert_allclose(forward(net, [-2e4, -80, 80, 2e4]), y, 1e-6, 1e-6)
    np.testing.assert_allclose(backward(net, np.ones(4)), dx, 1e-6, 1e-6)


def test_bnll_far_below_zero_is_the_exponential():
    np.testing.assert_allclose(forward(layer_net("type: 'BNLL'", (1,), dtype=np.float32), [-20.0]), np.exp(-20), 1e-6)


REFUSALS = [
    ("type: 'Clip'", (2, 3), "clip_param needs min and max"),
    ("type: 'Exp' exp_param { base: 0 }", (2, 3), "base must be above 0, or -1 for e; found 0"),
    ("type: 'Log' log_param { base: -2 }", (2, 3), "base must be above 0, or -1 for e; found -2"),
    ("type: 'Log' log_param { base: 1 }", (2, 3), "log_param's base must not be 1: no power of 1 is another number"),
    ("type: 'PReLU'", (3,), "needs a bottom of at least 2 axes, with the channels on axis 1, found 1; or set "
     "prelu_param's channel_shared"),
    ("type: 'PReLU' blobs { shape { dim: 4 } data: [1, 2, 3, 4] }", (2, 3),
     "param 0 in the layer's own blobs: the file's shape is 4, the net's is 3"),
]


@pytest.mark.parametrize("body, shape, message", REFUSALS)
def test_refusals(body, shape, message):
    assert refusal(layer_net, body, shape) == message


def test_slopes_for_another_number_of_channels_are_refused():
    net = layer_net("type: 'PReLU'", (2, 3, 4))
    assert refusal(net.forward, x0=np.ones((2, 5, 4))) == (
        "the number of channels changed: there are slopes for 3, the bottom's shape is 2 x 5 x 4")


def test_a_threshold_under_a_loss_is_refused():
    net = layer_net("type: 'Threshold' propagate_down: true", (2, 3), following="layer { name: 'r' type: 'Reduction' "
                    "bottom: 'y0' top: 'z' loss_weight: 1 }")
    net.forward(x0=X)
    assert refusal(net.backward) == ("a threshold has no gradient, but its bottom asks for one; write propagate_down: "
                                     "false in this layer")


def test_scratch_lies_as_the_array_does():
    base = np.arange(120.0).reshape(2, 4, 5, 3)
    for array in (base, base.transpose(0, 3, 1, 2), base.T, base[:, ::2], np.zeros(())):
        scratch = backend.host.scratch_like("test", array)
        assert scratch.shape == array.shape and scratch.dtype == array.dtype
        order = np.argsort([-stride for stride in array.strides], kind="stable")
        assert scratch.transpose(order).flags.c_contiguous
    assert backend.host.scratch_like("test", base, bool).dtype == bool
