"""InnerProduct: against einsum in float64, worked numbers and central differences; every error."""
import itertools

import numba
import numpy as np
import pytest

from inner_products import SIZES, arrays, assert_near, computed, expected
from one_layer import OneLayer, in_orders
from spp.backend.host import inner_product as host
from spp.backend.types import Epilogue
from spp.errors import NetError
from spp.ops import inner_product

each_size = pytest.mark.parametrize("n, inputs, outputs", SIZES)
each_order = pytest.mark.parametrize("transpose", [False, True])


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 1e-5)])
@each_order
@each_size
def test_against_einsum(n, inputs, outputs, transpose, dtype, tolerance):
    args = arrays(n, inputs, outputs, transpose, dtype)
    results = computed(args, transpose)
    assert all(f.dtype == dtype for f in results)
    assert_near(results, expected(args, transpose), tolerance)


@each_order
@each_size
def test_small_blocks_give_the_same(n, inputs, outputs, transpose, monkeypatch):
    args = arrays(n, inputs, outputs, transpose)
    monkeypatch.setattr(host, "CACHED_BYTES", 1)
    monkeypatch.setattr(host, "PRODUCT_BYTES", 1)
    assert_near(computed(args, transpose), expected(args, transpose), 1e-13)


@each_order
def test_one_thread_gives_the_same(transpose):
    args = arrays(7, 13, 10, transpose)
    several, threads = computed(args, transpose), numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        assert_near(computed(args, transpose), several, 1e-13)
    finally:
        numba.set_num_threads(threads)


@each_order
def test_runs_repeat_to_the_bit(transpose):
    args = arrays(33, 70, 90, transpose, np.float32)
    for first, again in zip(computed(args, transpose), computed(args, transpose)):
        np.testing.assert_array_equal(first, again)


@each_order
@pytest.mark.parametrize("n", [1, 6])
def test_nan_stays_visible(n, transpose):
    args = arrays(n, 5, 4, transpose, np.float32)
    for target, index in itertools.product(args, (0, -1)):
        value, target.flat[index] = target.flat[index], np.nan
        for results, requested in zip(computed(args, transpose), expected(args, transpose)):
            np.testing.assert_array_equal(np.isnan(results), np.isnan(requested))
        target.flat[index] = value


@each_order
@pytest.mark.parametrize("n", [2, 6])
def test_any_order_of_memory_is_flattened_as_in_caffe(n, transpose):
    rng = np.random.default_rng(0)
    x, weight, bias, dy = arrays(n, 24, 5, transpose)
    maps = x.reshape(n, 2, 3, 4)
    y, dx, dweight, _ = expected((x, weight, bias, dy), transpose)
    for x_, dx_ in zip(in_orders(maps), in_orders(maps.copy())):
        for y_, dy_, weight_, dweight_ in (
                (np.empty_like(dy), dy, weight, rng.normal(size=weight.shape)),
                (np.empty((n, 10))[:, ::2], np.asfortranarray(dy), np.asfortranarray(weight),
                 np.asfortranarray(rng.normal(size=weight.shape)))):
            before = dweight_.copy()
            inner_product.forward(x_, weight_, y_, Epilogue(bias), 1, transpose)
            inner_product.backward_data(dy_, weight_, dx_, 1, transpose)
            inner_product.backward_weights(x_, dy_, dweight_, 1, transpose)
            assert_near((y_, dx_.reshape(n, -1), dweight_ - before), (y, dx, dweight), 1e-13)


def test_a_channels_last_gradient_with_axes_kept():
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(5, 4)), rng.normal(size=(2, 3, 2, 4))
    y, dx = (np.empty(shape).transpose(0, 3, 1, 2) for shape in ((2, 2, 5, 3), (2, 2, 4, 3)))
    inner_product.forward(x, weight, y, axis=3)
    np.testing.assert_allclose(y, x @ weight.T, 1e-12, 1e-14)
    inner_product.backward_data(y, weight, dx, axis=3)
    np.testing.assert_allclose(dx, y @ weight, 1e-12, 1e-14)


@each_order
def test_epilogue(transpose):
    x, weight, bias, dy = args = arrays(4, 6, 9, transpose)
    scale, shift, y = np.linspace(-2, 3, 9), np.linspace(5, -4, 9), np.empty_like(dy)
    inner_product.forward(x, weight, y, Epilogue(bias, scale, shift, relu=True), 1, transpose)
    np.testing.assert_allclose(y, np.maximum(expected(args, transpose)[0] * scale + shift, 0), 1e-12, 1e-13)
    assert (y == 0).any() and (y > 0).any()


@each_order
@pytest.mark.parametrize("n", [1, 5])
def test_central_differences(n, transpose):
    x, weight, bias, dy = arrays(n, 6, 4, transpose)
    _, *gradients = computed((x, weight, bias, dy), transpose)
    y = np.empty_like(dy)
    for values, gradient in zip((x, weight, bias), gradients):
        for index in np.ndindex(*values.shape):
            value, objective = values[index], []
            for step in (1e-5, -1e-5):
                values[index] = value + step
                inner_product.forward(x, weight, y, Epilogue(bias), 1, transpose)
                objective.append((y * dy).sum())
            values[index] = value
            assert gradient[index] == pytest.approx((objective[0] - objective[1]) / 2e-5, 1e-7, 1e-8)


# --- the layer

FILLERS = "weight_filler { type: 'gaussian' } bias_filler { type: 'constant' value: 0.3 }"


def layer(params, shape, **more):
    one = OneLayer(f"type: 'InnerProduct' inner_product_param {{ {params} }}", shape, **more)
    one.layer.param_propagate_down = [True] * len(one.layer.blobs)
    return one


def test_worked_numbers():
    one = layer("num_output: 2 weight_filler { type: 'constant' value: 9 } bias_filler { type: 'constant' value: 9 }",
                (1, 2, 1, 2))
    assert (one.layer.blobs[0].data == 9).all() and (one.layer.blobs[1].data == 9).all()
    one.layer.blobs[0].data[...] = [[1, 2, 3, 4], [5, 6, 7, -8]]
    one.layer.blobs[1].data[...] = [0.5, -0.25]
    x = np.array([1.0, 10, 100, 1000]).reshape(1, 2, 1, 2)      # channel 0: 1, 10
    np.testing.assert_array_equal(one.forward(x), [[4321.5, -7235.25]])
    np.testing.assert_array_equal(one.backward([[1, 2]]), np.reshape([11, 14, 17, -12], (1, 2, 1, 2)))
    np.testing.assert_array_equal(one.layer.blobs[0].diff, [[1, 10, 100, 1000], [2, 20, 200, 2000]])
    np.testing.assert_array_equal(one.layer.blobs[1].diff, [1, 2])
    one.backward([[1, 0]])      # adds
    np.testing.assert_array_equal(one.layer.blobs[0].diff, [[2, 20, 200, 2000], [2, 20, 200, 2000]])
    np.testing.assert_array_equal(one.layer.blobs[1].diff, [2, 2])


@pytest.mark.parametrize("params, shape, weight, top", [
    ("", (3, 2, 4, 5), (7, 40), (3, 7)),
    ("transpose: true", (3, 2, 4, 5), (40, 7), (3, 7)),
    ("axis: 2", (3, 2, 4, 5), (7, 20), (3, 2, 7)),
    ("axis: -1 transpose: true", (3, 2, 4, 5), (5, 7), (3, 2, 4, 7)),
    ("axis: 0", (3, 2), (7, 6), (7,)),
    ("", (3, 2), (7, 2), (3, 7)),
])
def test_shapes_and_values(params, shape, weight, top):
    one = layer(f"num_output: 7 {params} {FILLERS}", shape)
    assert [blob.shape for blob in one.layer.blobs] == [weight, (7,)]
    assert one.top[0].shape == top
    x, dy = (np.random.default_rng(i).normal(size=s) for i, s in enumerate((shape, top)))
    transpose = "transpose" in params
    inputs = weight[0 if transpose else 1]
    weight, bias = (blob.data for blob in one.layer.blobs)
    y, dx, dweight, dbias = expected((x.reshape(-1, inputs), weight, bias, dy.reshape(-1, 7)), transpose)
    assert_near([one.forward(x), one.backward(dy), *(blob.diff for blob in one.layer.blobs)],
                [y.reshape(top), dx.reshape(shape), dweight, dbias], 1e-13)


def test_without_bias_term_there_is_one_parameter():
    one = layer(f"num_output: 2 bias_term: false {FILLERS}", (3, 4))
    x = np.random.default_rng(0).normal(size=(3, 4))
    np.testing.assert_allclose(one.forward(x), x @ one.layer.blobs[0].data.T, 1e-12)
    one.backward(np.ones((3, 2)))
    assert len(one.layer.blobs) == 1


@pytest.mark.parametrize("requested", list(itertools.product([False, True], repeat=2)))
def test_only_requested_gradients_are_computed(requested):
    one = layer(f"num_output: 2 {FILLERS}", (3, 4))
    one.layer.param_propagate_down = list(requested)
    one.forward(np.ones((3, 4)))
    one.top[0].diff[...] = 2
    one.layer.backward(one.top, [False], one.bottom)
    assert [blob.has_diff for blob in one.layer.blobs] == list(requested) and not one.bottom[0].has_diff
    for blob, value in zip(one.layer.blobs, (6, 6)):
        assert not blob.has_diff or (blob.diff == value).all()


def test_the_batch_may_change():
    one = layer(f"num_output: 2 {FILLERS}", (3, 4, 2, 1))
    x = np.random.default_rng(0).normal(size=(5, 4, 2, 1))
    np.testing.assert_allclose(one.forward(x)[3:4], one.forward(x[3:4]), 1e-12)


def test_errors():
    for params in ("", "num_output: 0"):
        with pytest.raises(NetError) as error:
            layer(params, (3, 4))
        assert str(error.value) == "inner_product_param needs num_output, at least 1"
    with pytest.raises(NetError) as error:
        layer("num_output: 2 axis: 2", (3, 4))
    assert str(error.value) == "axis 2 is out of range for a blob of 2 axes"
    one = layer("num_output: 2", (3, 4, 6, 6))
    with pytest.raises(NetError) as error:
        one.forward(np.ones((3, 4, 7, 5)))
    assert str(error.value) == (
        "the input size changed: the weights take 144 inputs, the bottom of shape 3 x 4 x 7 x 5 has 140 from axis 1 "
        "on; use the image size the net was made for, or an SPP layer before this one")
