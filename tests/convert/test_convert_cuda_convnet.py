"""cuda-convnet's files: each layer computes what cuda-convnet's documentation and code say, in NumPy here."""
import math

import numpy as np
import pytest

from cuda_convnet_files import DATA, conv5, image, net_of
from spp.layers import TRAIN


def assert_computes(net, x, expected):
    """Hold the blob that the net's last layer makes for others to what is expected."""
    net.forward(data=x)
    unused: dict[str, None] = {}
    for layer in net.layers:
        for name in layer.param.bottom:
            unused.pop(name, None)
        unused.update(dict.fromkeys(layer.param.top))
    name, = unused
    result = net.blobs[name].data
    assert result.shape == expected.shape
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def windows(size, kernel, stride, start=0, outputs=0):
    """The parts of an axis that cuda-convnet pools: ceil of the rest / stride, cut to the map."""
    count = outputs or -(-(size - start - kernel) // stride) + 1
    return [(max(0, start + i * stride), min(size, start + i * stride + kernel)) for i in range(count)]


def pooled(x, reduce, parts):
    return np.stack([np.stack([reduce(x[:, :, a:b, c:d], (2, 3)) for c, d in parts], 2) for a, b in parts], 2)


FIGURE_4 = """
[pool3x3]
type=pool
pool=max
inputs=conv5
sizeX=5
stride=4
channels=16
[pool2x2]
type=pool
pool=max
inputs=conv5
sizeX=7
stride=6
channels=16
[pool1x1]
type=pool
pool=max
inputs=conv5
sizeX=13
stride=13
channels=16
[fc6]
type=fc
outputs=20
inputs=pool3x3,pool2x2,pool1x1
initW=0.1
"""


def test_figure_4_is_the_pyramid_3_2_1(tmp_path):
    net = net_of(tmp_path, DATA + conv5() + FIGURE_4, (2, 3, 13, 13))
    layer = next(layer for layer in net.layers if layer.type == "SPP")
    assert list(layer.param.spp_param.bins) == [3, 2, 1]
    x = image((2, 3, 13, 13))
    net.forward(data=x)
    levels = [pooled(net.blobs["conv5"].data, np.max, windows(13, kernel, stride)).reshape(2, -1)
              for kernel, stride in ((5, 4), (7, 6), (13, 13))]
    vector = np.concatenate(levels, 1)
    assert vector.shape == (2, 16 * (9 + 4 + 1))
    np.testing.assert_array_equal(net.blobs[layer.param.top[0]].data, vector)
    weight, bias = (blob.data for blob in net.params["fc6"])
    np.testing.assert_allclose(net.blobs["fc6"].data, vector @ weight.T + bias, rtol=1e-4, atol=1e-4)
    for size in (10, 21):       # what the three pooling layers could not
        assert net.forward(data=image((1, 3, size, size)))["fc6"].shape == (1, 20)


@pytest.mark.parametrize("change, kinds", [
    (("stride=6", "stride=5"), 2),              # covers 12 of 13
    (("inputs=conv5\nsizeX=7", "inputs=data\nsizeX=7"), 2),
    (("sizeX=13\nstride=13", "sizeX=13\nstride=13\nneuron=relu"), 3),
])
def test_what_is_no_pyramid_stays_pooling(tmp_path, change, kinds):
    text = (DATA + conv5() + FIGURE_4).replace(*change)
    if "inputs=data\nsizeX=7" in change[1]:
        text = text.replace("stride=6\nchannels=16", "stride=6\nchannels=3")
    net = net_of(tmp_path, text, (2, 3, 13, 13))
    types = [layer.type for layer in net.layers]
    assert "SPP" not in types and types.count("Pooling") == 3 and types.count("Flatten") == 3
    x = image((2, 3, 13, 13))
    net.forward(data=x)
    names = ("pool3x3", "pool2x2", "pool1x1")
    vector = np.concatenate([net.blobs[name].data.reshape(2, -1) for name in names], 1)
    weight, bias = (blob.data for blob in net.params["fc6"])
    np.testing.assert_allclose(net.blobs["fc6"].data, vector @ weight.T + bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size, kernel, stride, padding, groups", [
    (13, 3, 1, 1, 1), (13, 5, 2, 0, 1), (14, 3, 2, 0, 1), (14, 5, 3, 2, 2), (12, 3, 4, 1, 4)])
def test_convolution_rounds_up(tmp_path, size, kernel, stride, padding, groups):
    text = DATA + (f"[c]\ntype=conv\ninputs=data\nchannels=4\nfilters=16\npadding={padding}\nstride={stride}\n"
                   f"filterSize={kernel}\ngroups={groups}\ninitW=0.3\ninitB=0.5\nsumWidth=4\n")
    net, x = net_of(tmp_path, text, (2, 4, size, size)), image((2, 4, size, size))
    weight, bias = (blob.data for blob in net.params["c"])
    count = 1 + math.ceil((2 * padding + size - kernel) / stride)
    assert weight.shape == (16 * groups, 4 // groups, kernel, kernel) and (bias == 0.5).all()
    wide = np.zeros((2, 4, size + 2 * padding + kernel + stride, size + 2 * padding + kernel + stride), np.float32)
    wide[:, :, padding:padding + size, padding:padding + size] = x
    expected = np.empty((2, 16 * groups, count, count), np.float32)
    for i in range(count):
        for j in range(count):
            part = wide[:, :, i * stride:i * stride + kernel, j * stride:j * stride + kernel]
            for g in range(groups):
                mine = slice(16 * g, 16 * (g + 1))
                channels = slice(4 // groups * g, 4 // groups * (g + 1))
                expected[:, mine, i, j] = np.einsum("nchw,ochw->no", part[:, channels], weight[mine]) + bias[mine]
    assert_computes(net, x, expected)


@pytest.mark.parametrize("options, size, parts", [
    ("sizeX=3\nstride=2", 12, windows(12, 3, 2)),
    ("sizeX=3\nstride=2", 13, windows(13, 3, 2)),
    ("sizeX=3\nstride=2\noutputsX=4", 13, windows(13, 3, 2, outputs=4)),
    ("sizeX=4\nstride=3\noutputsX=3", 12, windows(12, 4, 3, outputs=3)),
    ("sizeX=3\nstride=2\nstart=2", 13, windows(13, 3, 2, start=2)),
    ("sizeX=4\nstride=3\nstart=1\noutputsX=2", 12, windows(12, 4, 3, start=1, outputs=2))])
@pytest.mark.parametrize("pool, reduce", [("max", np.max), ("avg", np.mean)])
def test_pooling(tmp_path, options, size, parts, pool, reduce):
    text = DATA + f"[p]\ntype=pool\npool={pool}\ninputs=data\nchannels=4\n{options}\n"
    x = image((2, 4, size, size))
    assert_computes(net_of(tmp_path, text, x.shape), x, pooled(x, reduce, parts))


@pytest.mark.parametrize("size", [11, 12, 13])
def test_max_pooling_that_starts_before_the_map(tmp_path, size):
    text = DATA + "[p]\ntype=pool\npool=max\ninputs=data\nchannels=4\nsizeX=3\nstride=2\nstart=-1\n"
    x = image((2, 4, size, size))
    assert_computes(net_of(tmp_path, text, x.shape), x, pooled(x, np.max, windows(size, 3, 2, start=-1)))


def test_response_normalisation(tmp_path):
    x = image((2, 16, 7, 7))
    text = DATA + "[n]\ntype={}\ninputs=data\nchannels=16\nsize=5\n"
    params = "[n]\nscale=2\npow=0.75\n"
    squares = np.zeros((2, 20, 7, 7))
    squares[:, 2:-2] = x ** 2
    across = sum(squares[:, i:i + 16] for i in range(5))
    assert_computes(net_of(tmp_path, text.format("cmrnorm"), x.shape, params), x, x * (1 + 2 / 5 * across) ** -0.75)
    assert_computes(net_of(tmp_path, text.format("cmrnorm"), x.shape, params + "minDiv=2\n"), x,
                    x * (2 + 2 / 5 * across) ** -0.75)
    wide = np.zeros((2, 16, 11, 11))
    wide[:, :, 2:-2, 2:-2] = x ** 2
    within = sum(wide[:, :, i:i + 7, j:j + 7] for i in range(5) for j in range(5))
    assert_computes(net_of(tmp_path, text.format("rnorm"), x.shape, params), x, x * (1 + 2 / 25 * within) ** -0.75)


@pytest.mark.parametrize("neuron, function", [
    ("logistic", lambda x: 1 / (1 + np.exp(-x))), ("relu", lambda x: np.maximum(x, 0)), ("abs", np.abs),
    ("softrelu", lambda x: np.log1p(np.exp(x))), ("square", np.square),
    ("tanh[1.7,0.6]", lambda x: 1.7 * np.tanh(.6 * x)),
    ("tanh[1,1]", np.tanh), ("abstanh[2, 0.5]", lambda x: 2 * np.abs(np.tanh(.5 * x))),
    ("brelu[0.7]", lambda x: np.clip(x, 0, .7)), ("linear[-2,0.5]", lambda x: -2 * x + 0.5),
    ("log[9]", lambda x: np.log(9 + x))])
def test_neurons_as_layers_and_as_options(tmp_path, neuron, function):
    x = image((2, 5, 3, 3))
    layer = f"[n]\ntype=neuron\ninputs=data\nneuron={neuron}\n"
    assert_computes(net_of(tmp_path, DATA + layer, x.shape), x, function(x))
    both = DATA + layer + "[s]\ntype=eltsum\ninputs=n,data\n"       # the input is not overwritten
    assert_computes(net_of(tmp_path, both, x.shape), x, function(x) + x)
    option = DATA + f"[m]\ntype=eltmax\ninputs=data,data\nneuron={neuron}\n"
    assert_computes(net_of(tmp_path, option, x.shape), x, function(x))


def test_sums_maxima_and_concatenations(tmp_path):
    x = image((2, 5, 3, 3))
    more = DATA + "[sq]\ntype=neuron\ninputs=data\nneuron=square\n"
    for section, params, expected in [
            ("[y]\ntype=eltsum\ninputs=data,sq\ncoeffs=0.5,-1\n", None, 0.5 * x - x ** 2),
            ("[y]\ntype=eltsum\ninputs=data,sq\n", "[y]\ncoeffs=2,3\n", 2 * x + 3 * x ** 2),
            ("[y]\ntype=eltmax\ninputs=data,sq\n", None, np.maximum(x, x ** 2)),
            ("[y]\ntype=concat\ninputs=sq,data\n", None, np.concatenate([x ** 2, x], 1)),
            ("[y]\ntype=pass\ninputs=sq,data\n", None, np.concatenate([x ** 2, x], 1))]:
        assert_computes(net_of(tmp_path, more + section, x.shape, params), x, expected)


def test_layers_with_several_inputs_of_their_own_weights(tmp_path):
    x = image((2, 3, 6, 6))
    text = DATA + """
[sq]
type=neuron
inputs=data
neuron=square
[fc]
type=fc
inputs=data,sq
outputs=4
initW=0.1,0.5
initB=3
[c]
type=conv
inputs=data,sq
channels=3,3
filters=16,16
filterSize=3,5
padding=1,2
initW=0.3,0.1
[top]
type=concat
inputs=fc,c
"""
    net = net_of(tmp_path, text, x.shape)
    net.forward(data=x)
    (first, bias), (second,) = ([blob.data for blob in net.params[f"fc_{i}"]] for i in range(2))
    expected = x.reshape(2, -1) @ first.T + (x ** 2).reshape(2, -1) @ second.T + bias
    np.testing.assert_allclose(net.blobs["fc"].data, expected, rtol=1e-4, atol=1e-4)
    assert 0.05 < first.std() < 0.2 < second.std() < 0.8 and (bias == 3).all()
    assert len(net.params["c_1"]) == 1 and net.blobs["c"].shape == (2, 16, 6, 6)
    assert net.blobs["top"].shape == (2, 4 + 16 * 36)


def test_other_costs(tmp_path):
    text = DATA + "[labmat]\ntype=data\ndataIdx=2\n" + """
[fc]
type=fc
inputs=data
outputs=3
initW=0.5
neuron=logistic
[bce]
type=cost.bce
inputs=labmat,fc
"""
    x, targets = image((4, 5)), np.eye(3, dtype=np.float32)[[0, 2, 1, 1]]
    net = net_of(tmp_path, text, x.shape, phase=TRAIN, labmat=(4, 3))
    net.forward(data=x, labmat=targets)
    p = net.blobs["fc_neuron"].data
    expected = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum(1).mean()
    np.testing.assert_allclose(net.loss, expected, rtol=1e-4)
    net = net_of(tmp_path, DATA + "[s]\ntype=cost.sum2\ninputs=data\n", x.shape, "[s]\ncoeff=3\n", phase=TRAIN)
    net.forward(data=x)
    np.testing.assert_allclose(net.loss, 3 * (x ** 2).sum(1).mean(), rtol=1e-4)
