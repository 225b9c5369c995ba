"""Convolution over any number of axes: against loops over single products, and central differences; all errors."""
import itertools

import numba
import numpy as np
import pytest

from convolutions import CASES, arrays, assert_near, computed, expected, geometry_of, identity, products, scaled
from one_layer import OneLayer, in_orders
from spp.backend.host.convolution import im2row
from spp.backend.types import Epilogue
from spp.errors import NetError
from spp.ops import convolution


each_case = pytest.mark.parametrize("case", CASES, ids=identity)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 1e-5)])
@each_case
def test_against_single_products(case, dtype, tolerance):
    args = arrays(case, dtype)
    results = computed(case, *args)
    assert all(f.dtype == dtype for f in results)
    # accumulation starts at 1: the difference carries the rounding of 1 + gradient
    assert_near(results, expected(case, *args), tolerance)


@each_case
def test_small_blocks_and_bands_give_the_same(case, monkeypatch):
    args = arrays(case)
    whole = computed(case, *args)
    monkeypatch.setattr(im2row, "BLOCK_PIXELS", 5)
    monkeypatch.setattr(im2row, "BAND_BYTES", 1)
    assert_near(computed(case, *args), whole, 1e-13)


@each_case
def test_any_order_of_memory(case):
    if len(case[0]) < 3:
        return
    x, weight, bias, dy = arrays(case)
    y, dx, dweight, dbias = computed(case, x, weight, bias, dy)
    geometry = geometry_of(case)
    outputs = (a.copy() for a in (y, dx, dweight))
    for x_, weight_, dy_, y_, dx_, dweight_ in zip(*map(in_orders, (x, weight, dy, *outputs))):
        dbias_ = np.zeros((len(bias), 3))[:, 1]
        before = dweight_.copy()
        convolution.forward(x_, weight_, y_, geometry, Epilogue(np.flip(np.flip(bias).copy())))
        convolution.backward_data(dy_, weight_, dx_, geometry)
        convolution.backward_weights(x_, dy_, dweight_, dbias_, geometry)
        assert_near((y_, dx_, dweight_ - before, dbias_), (y, dx, dweight, dbias), 1e-13)


def test_memory_beside_a_slice_is_unchanged():
    case = CASES[0]
    x, weight, bias, dy = arrays(case)
    y, dx, _, _ = computed(case, x, weight, bias, dy)
    wide_y, wide_dx = (np.full((2, a.shape[1] + 2, *a.shape[2:]), 7.0) for a in (y, dx))
    convolution.forward(x, weight, wide_y[:, 1:-1], geometry_of(case), Epilogue(bias))
    convolution.backward_data(dy, weight, wide_dx[:, 1:-1], geometry_of(case))
    assert_near((wide_y[:, 1:-1], wide_dx[:, 1:-1]), (y, dx), 1e-13)
    assert (wide_y[:, [0, -1]] == 7).all() and (wide_dx[:, [0, -1]] == 7).all()


@pytest.mark.parametrize("case", [CASES[2], CASES[5], CASES[7], CASES[17], CASES[19]], ids=identity)
def test_central_differences(case):
    x, weight, bias, dy = arrays(case)
    _, *gradients = computed(case, x, weight, bias, dy)
    y = np.empty_like(dy)

    def objective():
        convolution.forward(x, weight, y, geometry_of(case), Epilogue(bias))
        return (y * dy).sum()

    for values, gradient in zip((x, weight, bias), gradients):
        for index in np.random.default_rng(1).permutation(list(np.ndindex(*values.shape)))[:15]:
            index, value = tuple(index), values[tuple(index)]
            differences = []
            for step in (1e-5, -1e-5):
                values[index] = value + step
                differences.append(objective())
            values[index] = value
            assert gradient[index] == pytest.approx((differences[0] - differences[1]) / 2e-5, 1e-7, 1e-8)


@each_case
def test_runs_repeat_to_the_bit(case):
    args = arrays(case, np.float32)
    first, again = computed(case, *args), computed(case, *args)
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)


def test_one_thread_gives_the_same():
    threads = numba.get_num_threads()
    for case in CASES[:8]:
        args = arrays(case)
        several = computed(case, *args)
        numba.set_num_threads(1)
        try:
            assert_near(computed(case, *args), several, 1e-13)
        finally:
            numba.set_num_threads(threads)


@pytest.mark.parametrize("case", [CASES[0], CASES[5], CASES[7], CASES[9], CASES[19]], ids=identity)
def test_nan_stays_visible(case):
    x, weight, bias, dy = arrays(case, np.float32)
    at_y, at_x, at_weight = next(itertools.islice(products(case, dy.shape), 7, None))
    clean = expected(case, x, weight, bias, dy)
    for target, index in ((x, at_x), (weight, at_weight), (dy, at_y), (bias, (1,))):
        value, target[index] = target[index], np.nan
        results, reference = (np.isnan(np.concatenate([a.ravel() for a in function(case, x, weight, bias, dy)]))
                              for function in (computed, expected))
        assert (results >= reference).all()
        if target is x or target is bias:       # elsewhere NaN times a zero of the padding is NaN too, as in Caffe
            np.testing.assert_array_equal(results, reference)
        target[index] = value
    assert_near(computed(case, x, weight, bias, dy), clean, 1e-5)       # no NaN is left in a buffer


def test_without_bias():
    for case in (CASES[0], CASES[7], CASES[19]):
        x, weight, _, dy = arrays(case)
        y, dweight = np.full_like(dy, np.nan), np.zeros_like(weight)
        convolution.forward(x, weight, y, geometry_of(case))
        convolution.backward_weights(x, dy, dweight, None, geometry_of(case))
        reference = expected(case, x, weight, np.zeros(len(weight)), dy)
        assert_near((y, dweight), (reference[0], reference[2]), 1e-13)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 1e-5)])
@each_case
def test_scale_and_shift_in_the_same_pass(case, dtype, tolerance):
    args = arrays(case, dtype)
    for relu, bias in itertools.product([False, True], repeat=2):
        results, reference = scaled(case, args, relu, bias)
        assert_near([results], [reference], tolerance)
    args[0].flat[3] = np.nan
    np.testing.assert_array_equal(*map(np.isnan, scaled(case, args, True)))


@pytest.mark.parametrize("case", [CASES[0], CASES[7], CASES[9], CASES[19]], ids=identity)
def test_an_empty_batch(case):
    case = ((0, *case[0][1:]), *case[1:])
    y, dx, dweight, dbias = computed(case, *arrays(case))
    assert y.size == dx.size == 0 and not dweight.any() and not dbias.any()


def test_output_size():
    assert convolution.output_size(224, 7, 2, 1, 1) == 110
    assert convolution.output_size(55, 5, 2, 1, 1) == 27
    assert convolution.output_size(7, 3, 1, 0, 3) == 1
    assert convolution.output_size(2, 3, 2, 0, 1) == 1      # C's division of -1 by 2 is 0
    with pytest.raises(NetError, match="^the kernel covers 3 pixels, more than the input of 2 with pad 0; use a "
                                       "smaller kernel_size or dilation, more pad, or a larger input$"):
        convolution.output_size(2, 3, 1, 0, 1)


# --- the layer

FILLERS = "weight_filler { type: 'gaussian' std: 0.5 } bias_filler { type: 'constant' value: 0.3 }"


def layer(params, *shapes, **more):
    one = OneLayer(f"type: 'Convolution' convolution_param {{ {params} {FILLERS} }}", *shapes, tops=len(shapes),
                   **more)
    one.layer.param_propagate_down = [True] * len(one.layer.blobs)
    return one


@pytest.mark.parametrize("params, shape, kernel, stride, pad, dilation, top", [
    ("kernel_size: 3", (2, 3, 6, 4), (3, 3), (1, 1), (0, 0), (1, 1), (2, 4, 4, 2)),
    ("kernel_size: 3 kernel_size: 2 stride: 2 stride: 1 pad: 0 pad: 1 dilation: 1 dilation: 2", (2, 3, 6, 5),
     (3, 2), (2, 1), (0, 1), (1, 2), (2, 4, 2, 5)),
    ("kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_w: 1", (2, 3, 7, 4), (3, 2), (2, 1), (0, 1), (1, 1),
     (2, 4, 3, 5)),
    ("kernel_size: 3 pad: 1 engine: CUDNN force_nd_im2col: true", (2, 3, 6, 4), (3, 3), (1, 1), (1, 1), (1, 1),
     (2, 4, 6, 4)),
    ("kernel_size: 2", (2, 3, 6), (2,), (1,), (0,), (1,), (2, 4, 5)),
    ("kernel_size: 2 stride: 3", (2, 3, 6, 5, 7), (2,) * 3, (3,) * 3, (0,) * 3, (1,) * 3, (2, 4, 2, 2, 2)),
    ("", (2, 3), (), (), (), (), (2, 4)),
    ("kernel_size: 5", (2, 3), (), (), (), (), (2, 4)),
    ("axis: 2 kernel_size: 2", (2, 5, 3, 4, 6), (2, 2), (1, 1), (0, 0), (1, 1), (2, 5, 4, 3, 5)),
    ("axis: -2 kernel_size: 2", (2, 5, 3, 4), (2,), (1,), (0,), (1,), (2, 5, 4, 3)),
    ("axis: 0 kernel_size: 2", (3, 4, 6), (2, 2), (1, 1), (0, 0), (1, 1), (4, 3, 5)),
])
def test_parameters_and_shapes(params, shape, kernel, stride, pad, dilation, top):
    one = layer(f"num_output: 4 {params}", shape)
    assert (one.layer.kernel, one.layer.stride, one.layer.pad, one.layer.dilation) == (kernel, stride, pad, dilation)
    assert [blob.shape for blob in one.layer.blobs] == [(4, 3, *kernel), (4,)]
    assert one.top[0].shape == top
    # the values: as one batch axis, channels, spatial axes
    axis = one.layer.axis
    x, dy = (np.random.default_rng(i).normal(size=s) for i, s in enumerate((shape, top)))
    weight, bias = (blob.data for blob in one.layer.blobs)
    flat = [a.reshape(-1, *a.shape[axis:]) for a in (x, dy)]
    case = (flat[0].shape, 4, kernel, stride, pad, dilation, 1)
    y, dx, dweight, dbias = expected(case, flat[0], weight, bias, flat[1])
    assert_near([one.forward(x), one.backward(dy), *(blob.diff for blob in one.layer.blobs)],
                [y.reshape(top), dx.reshape(shape), dweight, dbias], 1e-13)


def test_several_bottoms_share_the_weights():
    one = layer("num_output: 2 kernel_size: 3", (1, 2, 5, 4), (1, 2, 5, 4))
    xs = [np.random.default_rng(i).normal(size=(1, 2, 5, 4)) for i in range(2)]
    ys = one.forward(*xs)
    for i, blob in enumerate(one.top):
        blob.diff[...] = i + 1.5
    one.layer.backward(one.top, [True, False], one.bottom)
    case = ((1, 2, 5, 4), 2, (3, 3), (1, 1), (0, 0), (1, 1), 1)
    weight, bias = (blob.data for blob in one.layer.blobs)
    reference = [expected(case, x, weight, bias, top.diff) for x, top in zip(xs, one.top)]
    assert_near(ys, [w[0] for w in reference], 1e-13)
    assert_near([blob.diff for blob in one.layer.blobs], [sum(w[i] for w in reference) for i in (2, 3)], 1e-13)
    assert_near([one.bottom[0].diff], [reference[0][1]], 1e-13)
    assert not one.bottom[1].has_diff


@pytest.mark.parametrize("requested", list(itertools.product([False, True], repeat=2)))
def test_only_requested_parameter_gradients_are_computed(requested):
    one = layer("num_output: 2 kernel_size: 3 axis: 2", (1, 3, 2, 5, 4))
    one.layer.param_propagate_down = list(requested)
    one.forward(np.random.default_rng(0).normal(size=(1, 3, 2, 5, 4)))
    one.backward(1.5)
    assert [blob.has_diff for blob in one.layer.blobs] == list(requested)
    if requested[1]:
        np.testing.assert_allclose(one.layer.blobs[1].diff, 1.5 * 3 * 3 * 2)


def test_without_bias_term_there_is_one_parameter():
    one = layer("num_output: 2 kernel_size: 1 bias_term: false", (1, 1, 2, 2))
    one.layer.blobs[0].data[...] = np.array([2, -3]).reshape(2, 1, 1, 1)
    x = np.array([[[[1.0, 2], [3, 4]]]])
    np.testing.assert_array_equal(one.forward(x), [[[[2, 4], [6, 8]], [[-3, -6], [-9, -12]]]])
    assert len(one.layer.blobs) == 1
    np.testing.assert_array_equal(one.backward(np.ones((1, 2, 2, 2))), np.full((1, 1, 2, 2), -1))


def test_the_size_may_change():
    one = layer("num_output: 2 kernel_size: 3 stride: 2", (1, 2, 9, 7))
    assert one.forward(np.ones((3, 2, 5, 11))).shape == (3, 2, 2, 5)


ERRORS = [      # parameters, shapes, message
    ("num_output: 4", [(1, 3, 5, 5)], "convolution_param needs kernel_size, or kernel_h and kernel_w"),
    ("num_output: 4 kernel_size: 3 kernel_h: 3 kernel_w: 3", [(1, 3, 5, 5)],
     "convolution_param takes either kernel_size, or kernel_h and kernel_w, not both"),
    ("num_output: 4 kernel_size: 3 stride: 1 stride_h: 2", [(1, 3, 5, 5)],
     "convolution_param takes either stride, or stride_h and stride_w, not both"),
    ("num_output: 4 kernel_size: 3 pad: 1 pad_w: 0", [(1, 3, 5, 5)],
     "convolution_param takes either pad, or pad_h and pad_w, not both"),
    ("num_output: 4 kernel_h: 3 kernel_w: 3", [(1, 3, 5)],
     "kernel_h and kernel_w need 2 spatial axes, found 1; use kernel_size, once per axis"),
    ("num_output: 4 kernel_size: 3 pad_h: 3", [(1, 3, 5, 5, 5)],
     "pad_h and pad_w need 2 spatial axes, found 3; use pad, once per axis"),
    ("num_output: 4 kernel_w: 3", [(1, 3, 5, 5)],
     "convolution_param has kernel_w without kernel_h; give both, or kernel_size alone"),
    ("num_output: 4 kernel_size: 3 stride_h: 3", [(1, 3, 5, 5)],
     "convolution_param has stride_h without stride_w; give both, or stride alone"),
    ("num_output: 4 kernel_size: 3 kernel_size: 3 kernel_size: 3", [(1, 3, 5, 5)],
     "kernel_size must be given once, or once for each of the 2 spatial axes; found 3 numbers"),
    ("num_output: 4 kernel_size: 3 dilation: 1 dilation: 2", [(1, 3, 5, 5, 5)],
     "dilation must be given once, or once for each of the 3 spatial axes; found 2 numbers"),
    ("num_output: 4 kernel_size: 0", [(1, 3, 5, 5)], "kernel_size must be at least 1 on every axis, found 0 x 0"),
    ("num_output: 4 kernel_size: 3 stride_h: 1 stride_w: 0", [(1, 3, 5, 5)],
     "stride must be at least 1 on every axis, found 1 x 0"),
    ("num_output: 4 kernel_size: 3 dilation: 0", [(1, 3, 5)], "dilation must be at least 1 on every axis, found 0"),
    ("kernel_size: 3", [(1, 3, 5, 5)], "convolution_param needs num_output, at least 1"),
    ("num_output: 0 kernel_size: 3", [(1, 3, 5, 5)], "convolution_param needs num_output, at least 1"),
    ("num_output: 4 kernel_size: 3 group: 2", [(1, 3, 5, 5)],
     "input channels must be a multiple of group, found 3 and group 2"),
    ("num_output: 4 kernel_size: 3 group: 3", [(1, 3, 5, 5)],
     "num_output must be a multiple of group, found 4 and group 3"),
    ("num_output: 4 kernel_size: 3 group: 0", [(1, 3, 5, 5)],
     "input channels must be a multiple of group, found 3 and group 0"),
    ("num_output: 4 kernel_size: 3 axis: 4", [(1, 3, 5, 5)], "axis 4 is out of range for a blob of 4 axes"),
    ("num_output: 4 kernel_size: 3", [(1, 3, 5, 5), (1, 3, 5, 6)],
     "all bottoms must have one shape, found 1 x 3 x 5 x 5 and 1 x 3 x 5 x 6"),
    ("num_output: 4 kernel_size: 3 dilation: 3", [(1, 3, 9, 6)],
     "the kernel covers 7 pixels, more than the input of 6 with pad 0; use a smaller kernel_size or dilation, "
     "more pad, or a larger input"),
]


@pytest.mark.parametrize("params, shapes, message", ERRORS)
def test_errors(params, shapes, message):
    with pytest.raises(NetError) as error:
        layer(params, *shapes)
    assert str(error.value) == message


def test_errors_of_a_changed_bottom():
    one = layer("num_output: 4 kernel_size: 3", (1, 3, 5, 5))
    with pytest.raises(NetError) as error:
        one.forward(np.ones((1, 3, 5)))
    assert str(error.value) == "was set up for a bottom of 4 axes, found shape 1 x 3 x 5"
    with pytest.raises(NetError) as error:
        one.forward(np.ones((1, 2, 5, 5)))
    assert str(error.value) == "the weights take 3 input channels, found 2 in shape 1 x 2 x 5 x 5"
