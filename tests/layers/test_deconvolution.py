"""Deconvolution and Im2col over any number of axes: against loops over single products, and by hand; all errors."""
import itertools

import numpy as np
import pytest

from one_layer import OneLayer, in_orders
from spp.backend.types import Epilogue, Geometry
from spp.errors import NetError
from spp.net import Net
from spp.ops import convolution, deconvolution, im2col
from spp.proto.text import parse_net

CASES = [       # input N x C x ..., outputs, kernel, stride, pad, dilation, group
    ((2, 3, 4, 5), 4, (4, 3), (2, 1), (1, 2), (1, 1), 1),
    ((1, 2, 3, 4), 3, (2, 2), (3, 2), (0, 0), (1, 1), 1),           # stride > kernel: pixels that nothing reaches
    ((1, 2, 5, 4), 2, (3, 2), (1, 2), (2, 1), (2, 3), 1),           # dilation
    ((2, 4, 3, 2), 6, (3, 2), (2, 1), (1, 0), (1, 1), 2),           # groups
    ((2, 3, 4, 3), 3, (4, 3), (2, 2), (1, 0), (1, 1), 3),           # a kernel a channel
    ((1, 3, 2, 3), 6, (2, 2), (1, 1), (0, 0), (1, 1), 3),
    ((2, 5, 3, 4), 4, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    ((3, 4, 1, 1), 2, (3, 5), (1, 1), (0, 0), (1, 1), 1),
    ((2, 4, 6), 2, (3,), (2,), (1,), (1,), 2),
    ((1, 2, 2, 3, 2), 3, (2, 3, 2), (1, 2, 2), (0, 1, 0), (1, 1, 2), 1),
    ((3, 4), 6, (), (), (), (), 2),
]


def identity(case):
    return "-".join("x".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in case)


each_case = pytest.mark.parametrize("case", CASES, ids=identity)


def arrays(case):
    """x, weight, bias, dy of a case, distinct random values."""
    shape, outputs, kernel, stride, pad, dilation, group = case
    out = tuple(s * (n - 1) + d * (k - 1) + 1 - 2 * p
                for n, k, s, p, d in zip(shape[2:], kernel, stride, pad, dilation))
    rng = np.random.default_rng(0)
    return [rng.normal(size=size) for size in (shape, (shape[1], outputs // group, *kernel), (outputs,),
                                               (shape[0], outputs, *out))]


def products(case, out):
    """The indices (of x, of weight, of y) of every product that Deconvolution sums up in y."""
    shape, outputs, kernel, stride, pad, dilation, group = case
    for (c, o), tap in itertools.product(np.ndindex(shape[1], outputs // group), np.ndindex(*kernel)):
        channel = c // (shape[1] // group) * (outputs // group) + o
        for pixel in np.ndindex(*shape[2:]):
            place = tuple(i * s - p + t * d for i, s, p, t, d in zip(pixel, stride, pad, tap, dilation))
            if all(0 <= i < size for i, size in zip(place, out)):
                for n in range(shape[0]):
                    yield (n, c, *pixel), (c, o, *tap), (n, channel, *place)


@each_case
def test_against_single_products(case):
    x, weight, bias, dy = arrays(case)
    y, dx, dweight = np.zeros_like(dy), np.zeros_like(x), np.ones_like(weight)
    for at_x, at_weight, at_y in products(case, dy.shape[2:]):
        y[at_y] += x[at_x] * weight[at_weight]
        dx[at_x] += dy[at_y] * weight[at_weight]
        dweight[at_weight] += dy[at_y] * x[at_x]
    y += bias.reshape(-1, *[1] * (y.ndim - 2))
    dbias = 1 + dy.sum((0, *range(2, dy.ndim)))
    assert tuple(map(deconvolution.output_size, x.shape[2:], *case[2:6])) == dy.shape[2:]

    for one, other in zip(in_orders(x), in_orders(dy)) if x.ndim == 4 else [(x, dy)]:
        results = [np.full_like(other, np.nan), np.full_like(one, np.nan), np.ones_like(weight), np.ones_like(bias)]
        geometry = Geometry(*case[2:])
        deconvolution.forward(one, weight, results[0], geometry, Epilogue(bias))
        deconvolution.backward_data(other, weight, results[1], geometry)
        deconvolution.backward_weights(one, other, results[2], results[3], geometry)
        for mine, expected in zip(results, (y, dx, dweight, dbias)):
            np.testing.assert_allclose(mine, expected, 1e-11, 1e-12)


def test_bilinear_upsampling_of_a_ramp():
    one = OneLayer("type: 'Deconvolution' convolution_param { num_output: 2 group: 2 kernel_size: 4 stride: 2 pad: 1 "
                   "bias_term: false weight_filler { type: 'bilinear' } }", (1, 2, 3, 5))
    rows, columns = np.indices((3, 5))
    y = one.forward(np.stack([columns, 10 * rows])[None])
    assert y.shape == (1, 2, 6, 10)
    inner = np.arange(10) / 2 - 0.25
    np.testing.assert_allclose(y[0, 0, 1:-1, 1:-1], np.broadcast_to(inner[1:-1], (4, 8)))
    np.testing.assert_allclose(y[0, 1, 1:-1, 1:-1], np.broadcast_to(10 * inner[1:5, None], (4, 8)))


def test_it_undoes_the_shape_of_a_convolution():
    for kernel, stride, pad, dilation, size in itertools.product((1, 2, 5), (1, 2, 3), (0, 1), (1, 2), (4, 9)):
        if size * stride + dilation * (kernel - 1) > 2 * pad + stride:
            larger = deconvolution.output_size(size, kernel, stride, pad, dilation)
            assert convolution.output_size(larger, kernel, stride, pad, dilation) == size


NET = """force_backward: true
layer { name: 'in' type: 'Input' top: 'a' top: 'b' input_param { shape { dim: 1 dim: 1 dim: 2 dim: 2 } } }
layer { name: 'l' type: 'Deconvolution' bottom: 'a' bottom: 'b' top: 'c' top: 'd' %s
        convolution_param { num_output: 1 kernel_size: 2 weight_filler { value: 2 } bias_filler { value: 1 } } }
"""


def two_bottoms(multipliers=""):
    net = Net(parse_net(NET % multipliers), dtype=np.float64)
    results = net.forward(a=np.array([[[[1, 2], [3, 4]]]]), b=np.ones((1, 1, 2, 2)))
    net.blobs["c"].diff[...] = np.arange(9).reshape(1, 1, 3, 3)
    net.blobs["d"].diff[...] = 1
    net.backward()
    return net, results


def test_two_bottoms_share_the_weights():
    net, results = two_bottoms()
    np.testing.assert_array_equal(results["c"][0, 0], [[3, 7, 5], [9, 21, 13], [7, 15, 9]])
    np.testing.assert_array_equal(results["d"][0, 0], [[3, 5, 3], [5, 9, 5], [3, 5, 3]])
    np.testing.assert_array_equal(net.blobs["a"].diff[0, 0], [[16, 24], [40, 48]])
    np.testing.assert_array_equal(net.blobs["b"].diff[0, 0], [[8, 8], [8, 8]])
    np.testing.assert_array_equal(net.params["l"][0].diff[0, 0], [[27 + 4, 37 + 4], [57 + 4, 67 + 4]])
    assert net.params["l"][1].diff == 36 + 9


def test_parameters_that_do_not_learn_get_no_gradient():
    text = NET.replace("force_backward: true", "")
    net = Net(parse_net(text % "loss_weight: 1 loss_weight: 1 param { lr_mult: 0 }"))
    net.forward(a=np.ones((1, 1, 2, 2)), b=np.ones((1, 1, 2, 2)))
    net.backward()
    weight, bias = net.params["l"]
    assert not weight.has_diff and bias.diff == 18 and not net.blobs["a"].has_diff


def test_weights_of_the_prototxt():
    one = OneLayer("type: 'Deconvolution' convolution_param { num_output: 1 kernel_size: 1 bias_term: false } "
                   "blobs { shape { dim: 2 dim: 1 dim: 1 dim: 1 } data: 3 data: 4 }", (1, 2, 1, 2))
    np.testing.assert_array_equal(one.forward(np.array([[[[1., 2]], [[10, 20]]]])), [[[[43, 86]]]])


def test_it_takes_any_size():
    one = OneLayer("type: 'Deconvolution' convolution_param { num_output: 2 kernel_size: 4 stride: 3 }", (1, 2, 3, 3))
    assert [one.forward(np.ones((n, 2, h, w))).shape for n, h, w in ((1, 3, 3), (2, 5, 1), (1, 2, 7))] == [
        (1, 2, 10, 10), (2, 2, 16, 4), (1, 2, 7, 22)]


# --- Im2col

def test_columns_by_hand():
    x = np.arange(1, 19.).reshape(1, 2, 3, 3)
    one = OneLayer("type: 'Im2col' convolution_param { kernel_size: 2 }", x.shape)
    y = one.forward(x)
    assert y.shape == (1, 8, 2, 2)
    np.testing.assert_array_equal(y[0, :4].reshape(4, 4), [[1, 2, 4, 5], [2, 3, 5, 6], [4, 5, 7, 8], [5, 6, 8, 9]])
    np.testing.assert_array_equal(y[0, 4:], y[0, :4] + 9)
    windows = [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    np.testing.assert_array_equal(one.backward(np.ones(y.shape)), [[windows, windows]])


IM2COL = [case for case in CASES if case[6] == 1 and case[0][2:] != (1, 1)] + [
    ((1, 2, 2, 5), 2, (4, 3), (3, 2), (0, 0), (1, 1), 1),           # larger than the map by less than a stride
    ((1, 2, 3, 4), 2, (3, 3), (1, 1), (6, 5), (1, 1), 1)]           # windows in the padding alone


@pytest.mark.parametrize("case", IM2COL, ids=identity)
def test_weights_times_columns_are_the_convolution(case):
    (shape, outputs, *_), geometry = case, Geometry(*case[2:])
    rng = np.random.default_rng(2)
    out = tuple(map(convolution.output_size, shape[2:], *geometry[:4]))
    x, weight = rng.normal(size=shape), rng.normal(size=(outputs, shape[1], *geometry.kernel))
    dy = rng.normal(size=(shape[0], outputs, *out))
    expected, dx = np.empty_like(dy), np.empty_like(x)
    convolution.forward(x, weight, expected, geometry)
    convolution.backward_data(dy, weight, dx, geometry)
    flat = weight.reshape(outputs, -1)
    for order in in_orders(x) if x.ndim == 4 else [x]:
        columns, results = np.full((shape[0], flat.shape[1], *out), np.nan), np.full_like(order, np.nan)
        if x.ndim == 4:
            columns = columns.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
        im2col.forward(order, columns, geometry)
        np.testing.assert_allclose(np.einsum("ok,nk...->no...", flat, columns), expected, 1e-11, 1e-12)
        im2col.backward(np.einsum("ok,no...->nk...", flat, dy), results, geometry)
        np.testing.assert_allclose(results, dx, 1e-11, 1e-12)


def test_columns_of_a_later_channel_axis():
    x = np.arange(12.).reshape(2, 1, 2, 3)
    one = OneLayer("type: 'Im2col' convolution_param { axis: -2 kernel_size: 2 dilation: 2 }", x.shape)
    np.testing.assert_array_equal(one.forward(x), np.array([[[[0], [2], [3], [5]]], [[[6], [8], [9], [11]]]]))


# --- errors

ERRORS = [
    ("Deconvolution", "kernel_size: 3", "convolution_param needs num_output, at least 1"),
    ("Deconvolution", "num_output: 2", "convolution_param needs kernel_size, or kernel_h and kernel_w"),
    ("Deconvolution", "num_output: 3 kernel_size: 3 group: 2",
     "num_output must be a multiple of group, found 3 and group 2"),
    ("Deconvolution", "num_output: 3 kernel_size: 3 group: 3",
     "input channels must be a multiple of group, found 2 and group 3"),
    ("Deconvolution", "num_output: 2 kernel_size: 2 stride: 2 pad: 4",
     "an input of 3 is enlarged to 6, of which pad 4 takes 8; use less pad, a larger kernel_size or stride, or a "
     "larger input"),
    ("Deconvolution", "num_output: 2 kernel_size: 2 kernel_size: 2 kernel_size: 2",
     "kernel_size must be given once, or once for each of the 2 spatial axes; found 3 numbers"),
    ("Im2col", "", "convolution_param needs kernel_size, or kernel_h and kernel_w"),
    ("Im2col", "kernel_size: 2 kernel_h: 2",
     "convolution_param takes either kernel_size, or kernel_h and kernel_w, not both"),
    ("Im2col", "kernel_size: 5", "the kernel covers 5 pixels, more than the input of 3 with pad 0; use a smaller "
                                 "kernel_size or dilation, more pad, or a larger input"),
    ("Im2col", "kernel_size: 2 axis: 4", "axis 4 is out of range for a blob of 4 axes"),
]


@pytest.mark.parametrize("layer, params, message", ERRORS)
def test_errors_of_the_prototxt(layer, params, message):
    with pytest.raises(NetError) as error:
        OneLayer(f"type: '{layer}' convolution_param {{ {params} }}", (1, 2, 3, 4))
    assert str(error.value) == message


@pytest.mark.parametrize("layer, shape, message", [
    ("Deconvolution", (1, 3, 3, 4), "the weights take 2 input channels, found 3 in shape 1 x 3 x 3 x 4"),
    ("Deconvolution", (1, 2, 3), "was set up for a bottom of 4 axes, found shape 1 x 2 x 3"),
    ("Im2col", (1, 2, 3), "was set up for a bottom of 4 axes, found shape 1 x 2 x 3")])
def test_a_later_bottom_that_does_not_fit(layer, shape, message):
    one = OneLayer(f"type: '{layer}' convolution_param {{ num_output: 2 kernel_size: 2 }}", (1, 2, 3, 4))
    with pytest.raises(NetError) as error:
        one.forward(np.zeros(shape))
    assert str(error.value) == message


def test_bottoms_of_two_shapes():
    with pytest.raises(NetError) as error:
        OneLayer("type: 'Deconvolution' convolution_param { num_output: 2 kernel_size: 2 }", (1, 2, 3, 4),
                 (1, 2, 3, 5), tops=2)
    assert str(error.value) == "all bottoms must have one shape, found 1 x 2 x 3 x 4 and 1 x 2 x 3 x 5"
