"""BatchNorm, MVN, Scale, Bias: worked numbers, running statistics, every order of memory, and every refusal."""
import numpy as np
import pytest

from layer_net import backward, forward, layer_net, refusal
from one_layer import distinct, in_orders
from spp.backend import host
from spp.backend.types import Combination
from spp.layers import TEST, TRAIN
from spp.net import Net
from spp.proto.text import parse_net

# --- the kernels, against NumPy

CHANNELS = [((2, 3, 4, 5), 1, 2), ((2, 3, 4, 5), 0, 2), ((2, 3, 4, 5), 0, 1), ((2, 3, 4, 5), 1, 3),
            ((2, 3, 4, 5), 0, 4), ((2, 3, 4, 5), 2, 2), ((37, 3), 1, 2), ((7, 3), 0, 1), ((2, 3, 4), 1, 2),
            ((2, 3, 4), 0, 2), ((9,), 1, 1), ((2, 3, 2, 3, 2), 1, 2), ((2, 3, 2, 3, 2), 3, 5)]
each_channels = pytest.mark.parametrize("shape, first, last", CHANNELS)


def orders(array):
    return [array] if array.ndim < 3 else list(in_orders(array))


def along(values, ndim, first, last):
    """Values of channels, shaped to broadcast."""
    return values.reshape((1,) * first + values.shape + (1,) * (ndim - last))


@each_channels
def test_sums_of_channels(shape, first, last):
    others = tuple(axis for axis in range(len(shape)) if not first <= axis < last)
    x, z = distinct(shape) + 0.3, distinct(shape, seed=1)
    for a in orders(x):
        for b in orders(z):
            mean, variance = host.channel_moments(a, first, last - first)
            assert mean.shape == variance.shape == shape[first:last]
            np.testing.assert_allclose(mean, x.mean(others), 1e-12)
            np.testing.assert_allclose(variance, x.var(others), 1e-12, 1e-14)
            np.testing.assert_allclose(host.channel_sums(a, first, last - first), x.sum(others), 1e-12)
            np.testing.assert_allclose(host.channel_dots(a, b, first, last - first), (x * z).sum(others), 1e-12, 1e-14)


@each_channels
def test_affine_maps_of_channels(shape, first, last):
    x, z = distinct(shape), distinct(shape, seed=1)
    a, b, c, shift = numbers = [distinct(shape[first:last], seed=seed) for seed in (2, 3, 4, 5)]
    wide = [along(values, len(shape), first, last) for values in numbers]
    affine = (x - wide[3]) * wide[0] + wide[1]
    combined = wide[0] * x + wide[1] * (z - wide[3]) + wide[2]
    for strided in orders(x):
        for other in orders(z):
            for y in (np.full_like(other, np.nan), strided.copy(order="K")):
                source = strided if np.isnan(y).any() else y        # y may be x
                host.channel_affine(source, shift, a, b, y, first, last - first)
                np.testing.assert_allclose(y, affine, 1e-12, 1e-14)
            for y in (np.full_like(other, np.nan), strided.copy(order="K")):
                source = strided if np.isnan(y).any() else y
                host.channel_combine(source, other, Combination(a, shift, b, c), y, first, last - first)
                np.testing.assert_allclose(y, combined, 1e-12, 1e-14)


@each_channels
def test_affine_maps_of_channels_with_relu(shape, first, last):
    x = distinct(shape)
    x.flat[:3] = np.nan, np.inf, -np.inf
    a, b, shift = (distinct(shape[first:last], seed=seed) for seed in (2, 3, 4))
    for scale, bias, of in ((a, b, shift), (-2, b, 0.25), (a, 0.5, 0), (np.array(0.5), -1, shift)):
        wide = [along(np.broadcast_to(value, shape[first:last]), len(shape), first, last)
                if np.ndim(value) == last - first else value for value in (scale, bias, of)]
        expected = np.maximum((x - wide[2]) * wide[0] + wide[1], 0)
        assert np.isnan(expected.flat[0]) and (expected == 0).any()
        for strided in orders(x):
            y = strided.copy(order="K")
            host.channel_affine(y, of, scale, bias, y, first, last - first, relu=True)
            np.testing.assert_allclose(y, expected, 1e-12, 1e-14)


def test_moments_of_single_precision_far_from_zero():
    x = (1e4 + np.random.default_rng(0).normal(size=(64, 3, 40, 30))).astype(np.float32)
    for strided in in_orders(x):
        mean, variance = host.channel_moments(strided, 1, 1)
        np.testing.assert_allclose(mean, x.astype(float).mean((0, 2, 3)), 1e-12)
        np.testing.assert_allclose(variance, x.astype(float).var((0, 2, 3)), 1e-6)


def test_a_nan_stays_in_its_channel():
    x = np.ones((2, 3, 4, 5), np.float32)
    x[1, 2, 3, 0] = np.nan
    for strided in in_orders(x):
        for statistic in (*host.channel_moments(strided, 1, 1), host.channel_sums(strided, 1, 1)):
            assert np.isnan(statistic).tolist() == [False, False, True]


# --- BatchNorm

BATCH = np.array([[1, 10], [3, 10], [5, 40]], float)       # means 3, 20; biased variances 8/3, 200


def test_batch_is_normalised_by_its_biased_variance_and_eps():
    net = layer_net("type: 'BatchNorm' batch_norm_param { eps: 25 }", (3, 2))
    expected = (BATCH - [3, 20]) / np.sqrt([8 / 3 + 25, 225])
    np.testing.assert_allclose(forward(net, BATCH), expected, 1e-12)


def test_running_statistics_over_several_forwards():
    net = layer_net("type: 'BatchNorm' batch_norm_param { moving_average_fraction: 0.75 }", (3, 2))
    mean, variance, weight = (blob.data for blob in net.params["l"])
    net.forward(x0=BATCH)
    np.testing.assert_allclose(mean, [3, 20])
    np.testing.assert_allclose(variance, [4, 300])         # unbiased: times 3 / 2
    np.testing.assert_allclose(weight, [1])
    net.forward(x0=BATCH + [2, -20])
    np.testing.assert_allclose(mean, [0.75 * 3 + 5, 0.75 * 20])
    np.testing.assert_allclose(variance, [7, 525])
    np.testing.assert_allclose(weight, [1.75])
    net.forward(x0=[[8.0, 4.0]])                           # one number a channel: variance 0, factor 1
    np.testing.assert_allclose(mean, [0.75 * 7.25 + 8, 0.75 * 15 + 4])
    np.testing.assert_allclose(variance, [5.25, 393.75])
    np.testing.assert_allclose(weight, [0.75 * 1.75 + 1])


def test_stored_statistics_are_divided_by_their_weight():
    text = "type: 'BatchNorm' batch_norm_param { eps: 0.5 }"
    net = layer_net(text, (1, 2), phase=TEST)
    for blob, values in zip(net.params["l"], ([6, -2], [14, 3], [4])):
        blob.data[...] = values
    np.testing.assert_allclose(forward(net, [[2.5, 3.5]]), [[(2.5 - 1.5) / 2, (3.5 + 0.5) / np.sqrt(1.25)]], 1e-12)
    np.testing.assert_allclose(backward(net, [[3.0, 5.0]]), [[1.5, 5 / np.sqrt(1.25)]], 1e-12)
    assert [blob.data.tolist() for blob in net.params["l"]] == [[6, -2], [14, 3], [4]]


def test_without_statistics_the_stored_mean_and_variance_are_zero():
    net = layer_net("type: 'BatchNorm' batch_norm_param { eps: 0.25 }", (1, 2), phase=TEST)
    np.testing.assert_allclose(forward(net, [[1.0, -3.0]]), [[2, -6]])


@pytest.mark.parametrize("phase, params, of_batch", [
    (TRAIN, "", True), (TEST, "", False), (TRAIN, "use_global_stats: true", False),
    (TEST, "use_global_stats: false", True)])
def test_which_statistics_are_used(phase, params, of_batch):
    net = layer_net(f"type: 'BatchNorm' batch_norm_param {{ eps: 1 {params} }}", (3, 2), phase=phase)
    y = forward(net, BATCH)
    np.testing.assert_allclose(y, (BATCH - [3, 20]) / np.sqrt([11 / 3, 201]) if of_batch else BATCH, 1e-12)
    assert net.params["l"][2].data[0] == of_batch


@pytest.mark.parametrize("phase", [TRAIN, TEST])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("fork, bias", [("scale_bias: true", True), ("use_weight_bias: true", True),
                                        ("use_weight_bias: true bias_term: false", False)])
def test_scale_inside_equals_a_scale_layer_after(phase, in_place, fork, bias):
    """NVIDIA's and Intel's BatchNorm with parameters 3 and 4, against BatchNorm and Scale."""
    scale = ("layer { name: 's' type: 'Scale' bottom: 'y0' top: 'out' "
             f"scale_param {{ bias_term: {str(bias).lower()} }} }}")
    shape = (3, 2, 3, 2)
    one = layer_net(f"type: 'BatchNorm' batch_norm_param {{ {fork} }}", shape, phase=phase, in_place=in_place)
    two = layer_net("type: 'BatchNorm'", shape, phase=phase, following=scale)
    values = [[6, -2], [14, 3], [4], [3, -0.5], [0.25, -7]][:4 + bias]
    for blob, value in zip(one.params["l"], values, strict=True):
        blob.data[...] = value
    for blob, value in zip([*two.params["l"], *two.params["s"]], values, strict=True):
        blob.data[...] = value
    x, dy = distinct(shape), distinct(shape, seed=1)
    outputs = []
    for net in (one, two):
        y = net.tops[-1][0]
        net.forward(x0=x)
        outputs.append(y.data.copy())
        net.clear_param_diffs()
        y.diff[...] = dy
        net.backward()
        outputs.append(net.blobs["x0"].diff.copy())
        outputs += [blob.diff.copy() for blobs in net.params.values() for blob in blobs]
    for result, expected in zip(outputs[:len(outputs) // 2], outputs[len(outputs) // 2:], strict=True):
        np.testing.assert_allclose(result, expected, 1e-12, 1e-12)
    assert abs(outputs[5]).min() > 0.1      # the scale's gradient


def test_scale_inside_starts_at_one_and_holds_nvidias_least_eps():
    net = layer_net("type: 'BatchNorm' batch_norm_param { scale_bias: true eps: 0 }", (3, 2))
    assert [blob.data.tolist() for blob in net.params["l"]] == [[0, 0], [0, 0], [0], [1, 1], [0, 0]]
    assert forward(net, np.full((3, 2), 7.0)).tolist() == [[0, 0]] * 3          # 0 / sqrt(1e-5), no 0 / 0
    net = layer_net("type: 'BatchNorm' batch_norm_param { use_weight_bias: true eps: 0 filler { value: 3 } }", (3, 2))
    np.testing.assert_allclose(forward(net, BATCH), 3 * (BATCH - [3, 20]) / np.sqrt([8 / 3, 200]), 1e-12)


def test_batchnorm_in_place_and_followed_in_place():
    """The backward pass needs what an in-place Scale has overwritten."""
    scale = "layer { name: 's' type: 'Scale' bottom: 'x0' top: 'x0' scale_param { filler { value: 3 } } }"
    net = layer_net("type: 'BatchNorm'", (3, 2, 2, 2), in_place=True, following=scale)
    x, dy = distinct((3, 2, 2, 2)), distinct((3, 2, 2, 2), seed=1)
    net.forward(x0=x)
    net.blobs["x0"].diff[...] = dy
    net.backward()
    apart = layer_net("type: 'BatchNorm'", (3, 2, 2, 2))
    np.testing.assert_allclose(net.blobs["x0"].data, 3 * forward(apart, x), 1e-12)
    np.testing.assert_allclose(net.blobs["x0"].diff, backward(apart, 3 * dy), 1e-12)
    np.testing.assert_allclose(net.params["s"][0].diff, (dy * forward(apart, x)).sum((0, 2, 3)), 1e-11)


def test_a_solver_does_not_learn_statistics():
    net = layer_net("type: 'BatchNorm'", (3, 2))
    assert [(entry.name, entry.lr_mult) for entry in net.learnable] == [("l[0]", 0), ("l[1]", 0), ("l[2]", 0)]
    net = layer_net("type: 'BatchNorm' param { lr_mult: 0 name: 'shared' }", (3, 2))
    assert [entry.lr_mult for entry in net.learnable] == [0, 0, 0]
    assert [spec.lr_mult for spec in net.layers[1].param.param] == [0, 0, 0]
    assert refusal(layer_net, "type: 'BatchNorm' param { lr_mult: 0 } param { lr_mult: 2 }", (3, 2)) == (
        "param 1 has lr_mult 2, but a solver cannot learn the statistics of a batch normalization; remove the param "
        "blocks, or set lr_mult: 0")
    assert refusal(layer_net, "type: 'BatchNorm' param { name: 'm' }", (3, 2)).startswith("param 0 has lr_mult 1, ")


def test_the_given_net_is_left_as_it_was():
    param = parse_net("layer { name: 'in' type: 'Input' top: 'x' input_param { shape { dim: 2 dim: 3 } } } "
                      "layer { name: 'l' type: 'BatchNorm' bottom: 'x' top: 'y' }")
    Net(param, TRAIN)
    assert not param.layer[1].param


def test_one_axis_is_one_channel():
    net = layer_net("type: 'BatchNorm' batch_norm_param { eps: 0 }", (4,))
    np.testing.assert_allclose(forward(net, [1.0, 3.0, 1.0, 3.0]), [-1, 1, -1, 1])
    assert [blob.data.tolist() for blob in net.params["l"]] == [[2], [4 / 3], [1]]


def test_an_empty_batch_teaches_nothing():
    net = layer_net("type: 'BatchNorm'", (3, 2))
    net.forward(x0=BATCH)
    before = [np.array(blob.data) for blob in net.params["l"]]
    assert forward(net, np.ones((0, 2))).shape == (0, 2)
    assert backward(net, np.ones((0, 2))).shape == (0, 2)
    for blob, values in zip(net.params["l"], before):
        np.testing.assert_array_equal(blob.data, values)


def test_another_number_of_channels_is_refused():
    net = layer_net("type: 'BatchNorm'", (3, 2))
    assert refusal(net.forward, x0=np.ones((3, 4, 1))) == (
        "the number of channels changed: the statistics are of 2, the bottom's shape is 3 x 4 x 1")


# --- MVN

MAPS = np.array([[[[1, 3], [5, 7]], [[0, 0], [4, 4]]]], float)         # means 4 and 2, variances 5 and 4


@pytest.mark.parametrize("param, y", [
    ("", [[[[-3, -1], [1, 3]] / np.sqrt(5), [[-1, -1], [1, 1]]]]),
    ("eps: 2", [[[[-3, -1], [1, 3]] / (np.sqrt(5) + 2), [[-0.5, -0.5], [0.5, 0.5]]]]),     # eps after the root
    ("normalize_variance: false", [[[[-3, -1], [1, 3]], [[-2, -2], [2, 2]]]]),
    ("across_channels: true eps: 1", (MAPS - 3) / (np.sqrt(5.5) + 1)),
    ("across_channels: true normalize_variance: false", MAPS - 3),
])
def test_mvn_of_worked_maps(param, y):
    net = layer_net(f"type: 'MVN' mvn_param {{ {param} }}", MAPS.shape)
    np.testing.assert_allclose(forward(net, MAPS), y, 1e-8)


def test_mvn_of_few_and_many_axes():
    x = distinct((2, 3, 7))
    expected = (x - x.mean(2, keepdims=True)) / x.std(2, keepdims=True)
    for shape, top in (((2, 3, 7), (2, 3, 7, 1)), ((2, 3, 7, 1, 1), (2, 3, 7, 1, 1))):
        net = layer_net("type: 'MVN'", shape)
        assert net.blobs["y0"].shape == top        # at least 4 axes, as in Caffe
        np.testing.assert_allclose(forward(net, x.reshape(shape)), expected.reshape(top), 1e-7)
    net = layer_net("type: 'MVN'", (2, 3, 7), in_place=True)
    net.forward(x0=x)
    np.testing.assert_allclose(net.blobs["x0"].data, expected, 1e-7)
    net.blobs["x0"].diff[...] = dy = distinct((2, 3, 7), seed=2)
    net.backward()
    apart = layer_net("type: 'MVN'", (2, 3, 7))
    forward(apart, x)
    np.testing.assert_allclose(net.blobs["x0"].diff, backward(apart, dy[..., None]), 1e-9)


# --- Scale and Bias

def test_scale_and_bias_of_a_worked_matrix():
    net = layer_net("type: 'Scale' scale_param { bias_term: true }", (2, 3))
    assert [blob.data.tolist() for blob in net.params["l"]] == [[1, 1, 1], [0, 0, 0]]
    net.params["l"][0].data[...], net.params["l"][1].data[...] = [2, -1, 0.5], [10, 20, 30]
    np.testing.assert_array_equal(forward(net, [[1.0, 2, 4], [3, 5, 8]]), [[12, 18, 32], [16, 15, 34]])
    np.testing.assert_array_equal(backward(net, [[1, 2, 3], [4, 5, 6]]), [[2, -2, 1.5], [8, -5, 3]])
    assert [blob.diff.tolist() for blob in net.params["l"]] == [[1 + 12, 4 + 25, 12 + 48], [5, 7, 9]]


@pytest.mark.parametrize("params, shape", [
    ("", (3,)), ("axis: 0", (2,)), ("axis: -1", (5,)), ("axis: 1 num_axes: 2", (3, 4)), ("num_axes: -1", (3, 4, 5)),
    ("axis: 0 num_axes: -1", (2, 3, 4, 5)), ("num_axes: 0", ()), ("axis: 7 num_axes: 0", ())])
@pytest.mark.parametrize("kind", ["Scale", "Bias"])
def test_shape_of_the_parameter(kind, params, shape):
    net = layer_net(f"type: '{kind}' {kind.lower()}_param {{ {params} }}", (2, 3, 4, 5))
    assert net.params["l"][0].shape == shape


def test_two_bottoms_of_a_squeeze_and_excitation_block():
    net = layer_net("type: 'Scale' scale_param { axis: 0 }", (2, 3, 4, 5), (2, 3))
    x, gate, dy = distinct((2, 3, 4, 5)), distinct((2, 3), seed=1), distinct((2, 3, 4, 5), seed=2)
    np.testing.assert_allclose(forward(net, x, gate), x * gate[..., None, None], 1e-12)
    net.blobs["x1"].diff[...] = np.nan      # must be overwritten, not added to
    np.testing.assert_allclose(backward(net, dy), dy * gate[..., None, None], 1e-12)
    np.testing.assert_allclose(net.blobs["x1"].diff, (dy * x).sum((2, 3)), 1e-12)


def test_frozen_scale_gets_no_gradient():
    text = ("layer { name: 'in' type: 'Input' top: 'x' input_param { shape { dim: 2 dim: 3 } } } "
            "layer { name: 'l' type: 'Scale' bottom: 'x' top: 'y' param { lr_mult: 0 } "
            "scale_param { bias_term: true } } "
            "layer { name: 'r' type: 'Reduction' bottom: 'y' top: 'z' loss_weight: 1 }")
    net = Net(parse_net(text), TRAIN)
    net.forward(x=np.ones((2, 3)))
    net.backward()
    assert [blob.diff.tolist() for blob in net.params["l"]] == [[0, 0, 0], [2, 2, 2]]


FIT = "bottom 0 of shape 2 x 3 x 4 does not have the axes "
REFUSALS = [
    ("type: 'Scale' scale_param { num_axes: -2 }", [(2, 3, 4)],
     "num_axes must be at least 0, or -1 for all axes from axis on; found -2"),
    ("type: 'Bias' bias_param { axis: 2 num_axes: 2 }", [(2, 3, 4)],
     "num_axes 2 from axis 2 on go beyond the bottom's 3 axes; num_axes: -1 takes all of the rest"),
    ("type: 'Bias' bias_param { axis: 3 }", [(2, 3, 4)], "axis 3 is out of range for a blob of 3 axes"),
    ("type: 'Scale' scale_param { axis: 1 }", [(2, 3, 4), (4,)], FIT + "4 from axis 1 on; check axis and num_axes"),
    ("type: 'Scale' scale_param { axis: 2 }", [(2, 3, 4), (4, 1)],
     FIT + "4 x 1 from axis 2 on; check axis and num_axes"),
    ("type: 'Bias'", [(2, 3, 4), (2, 3)], FIT + "2 x 3 from axis 1 on; check axis and num_axes"),
]


@pytest.mark.parametrize("body, shapes, message", REFUSALS)
def test_refusals(body, shapes, message):
    assert refusal(layer_net, body, *shapes) == message


def test_a_bias_that_no_longer_fits_is_refused():
    net = layer_net("type: 'Scale' scale_param { axis: 0 bias_term: true }", (2, 3), (2, 3))
    assert refusal(net.forward, x0=np.ones((4, 3)), x1=np.ones((4, 3))) == (
        "the scale's shape changed from 2 x 3, that of the bias, to 4 x 3")
