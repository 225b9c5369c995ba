"""Pooling: MAX, AVE and STOCHASTIC against loops, the reference's numbers and central differences."""
import itertools
import math
from typing import Any

import numba
import numpy as np
import pytest

from one_layer import OneLayer, assert_golden, assert_gradient, distinct, in_orders
from spp.backend.types import Geometry
from spp.errors import NetError
from spp.layers import TRAIN
from spp.ops import pooling

# map, kernel, pad, stride, ceil: odd and even sizes, h != w, stride below and above the kernel, clipping
GEOMETRIES = [
    ((7, 8), (3, 3), (0, 0), (2, 2), True),
    ((7, 8), (3, 3), (0, 0), (2, 2), False),
    ((6, 7), (3, 3), (1, 1), (2, 2), True),
    ((5, 7), (2, 2), (1, 1), (2, 2), True),         # the last window would start in the padding: dropped
    ((5, 9), (2, 3), (0, 1), (2, 1), True),
    ((9, 8), (5, 5), (2, 2), (2, 2), True),
    ((10, 13), (2, 2), (0, 0), (3, 3), True),
    ((8, 5), (4, 2), (3, 1), (3, 2), False),
    ((4, 3), (1, 1), (0, 0), (1, 1), True),
    ((2, 2), (3, 3), (0, 0), (2, 2), True),         # a kernel larger than the map: one clipped window
    ((11,), (3,), (1,), (2,), True),
    ((12,), (4,), (0,), (3,), False),
    ((4, 5, 6), (2, 3, 3), (0, 1, 1), (2, 2, 3), True),
]
each_geometry = pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)


def windows(geometry):
    """The number of windows of each axis; each window as ranges of positions, padding included."""
    shape, kernel, pad, stride, ceil = geometry
    axes = []
    for size, k, p, s in zip(shape, kernel, pad, stride):
        count = (math.ceil if ceil else math.floor)((size + 2 * p - k) / s) + 1
        if max(pad) > 0 and (count - 1) * s >= size + p:
            count -= 1
        axes.append([range(i * s - p, min(i * s - p + k, size + p)) for i in range(count)])
    return tuple(map(len, axes)), list(itertools.product(*axes))


def positions(window, shape):
    """The positions of a window that are inside the map, in order."""
    return [p for p in itertools.product(*window) if all(0 <= i < size for i, size in zip(p, shape))]


def naive(x, geometry, method):
    """(y, function from dy to dx, argmax) by loops over single numbers."""
    shape, (counts, all_windows) = x.shape[2:], windows(geometry)
    y, argmax = np.empty((*x.shape[:2], len(all_windows))), np.empty((*x.shape[:2], len(all_windows)), int)
    for n, c in np.ndindex(*x.shape[:2]):
        for b, window in enumerate(all_windows):
            values = [float(x[n, c][p]) for p in positions(window, shape)]
            first = max(range(len(values)), key=values.__getitem__)
            argmax[n, c, b] = np.ravel_multi_index(positions(window, shape)[first], shape)
            y[n, c, b] = max(values) if method == "MAX" else sum(values) / math.prod(map(len, window))

    def backward(dy):
        dx = np.zeros(x.shape)
        for n, c, b in np.ndindex(*y.shape):
            if method == "MAX":
                dx[n, c].flat[argmax[n, c, b]] += dy.reshape(y.shape)[n, c, b]
            else:
                for p in positions(all_windows[b], shape):
                    dx[n, c][p] += dy.reshape(y.shape)[n, c, b] / math.prod(map(len, all_windows[b]))
        return dx

    return y.reshape(*x.shape[:2], *counts), backward, argmax.reshape(*x.shape[:2], *counts)


def param(geometry, method):
    """A layer's text for a geometry, which must be the same on all axes unless there are two."""
    shape, kernel, pad, stride, ceil = geometry
    sizes = f"pool: {method} round_mode: {'CEIL' if ceil else 'FLOOR'} "
    if len(shape) == 2:
        sizes += "".join(f"{name}_h: {h} {name}_w: {w} " for name, (h, w) in
                         {"kernel": kernel, "pad": pad, "stride": stride}.items())
    else:
        sizes += f"kernel_size: {kernel[0]} pad: {pad[0]} stride: {stride[0]}"
    return f"type: 'Pooling' pooling_param {{ {sizes} }}"


def regions_of(shape, kernel, pad, stride, ceil=True):
    return pooling.sliding_regions(shape, Geometry(kernel, stride, pad), ceil)


def max_or_average(method, x, y, argmax, dy, dx, geometry):
    """Both passes of the ops, into the given arrays."""
    _, regions, areas = regions_of(*geometry)
    if method == "MAX":
        pooling.max_forward(x, regions, y, argmax)
        pooling.max_backward(dy, argmax, regions, dx)
    else:
        pooling.average_forward(x, regions, areas, y)
        pooling.average_backward(dy, regions, areas, dx)


@each_geometry
@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 2e-6)])
def test_ops_against_loops(geometry, method, dtype, tolerance):
    x = distinct((2, 3, *geometry[0])).astype(dtype)
    expected, backward, where = naive(x, geometry, method)
    dy = distinct(expected.shape, seed=1).astype(dtype)
    y, argmax, dx = np.empty_like(dy), np.empty(dy.shape, np.int32), np.full_like(x, np.nan)
    max_or_average(method, x, y, argmax, dy, dx, geometry)
    np.testing.assert_allclose(y, expected, tolerance, tolerance)
    np.testing.assert_allclose(dx, backward(dy), tolerance, 3 * tolerance)
    if method == "MAX":
        np.testing.assert_array_equal(argmax, where)
        y[...] = np.nan
        pooling.max_forward(x, regions_of(*geometry)[1], y, None)
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("geometry", [g for g in GEOMETRIES if len(g[0]) < 3], ids=str)
@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_layer_against_loops(geometry, method):
    one = OneLayer(param(geometry, method), (2, 3, *geometry[0]))
    x = distinct((2, 3, *geometry[0]))
    expected, backward, _ = naive(x, geometry, method)
    np.testing.assert_allclose(one.forward(x), expected, 1e-13, 1e-13)
    dy = distinct(expected.shape, seed=1)
    np.testing.assert_allclose(one.backward(dy), backward(dy), 1e-13, 1e-13)


@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_layer_on_three_spatial_axes(method):
    geometry = (4, 5, 6), (3, 3, 3), (1, 1, 1), (2, 2, 2), True
    one = OneLayer(param(geometry, method), (2, 2, 4, 5, 6))
    x = distinct((2, 2, 4, 5, 6))
    expected, backward, _ = naive(x, geometry, method)
    np.testing.assert_allclose(one.forward(x), expected, 1e-13, 1e-13)
    dy = distinct(expected.shape, seed=1)
    np.testing.assert_allclose(one.backward(dy), backward(dy), 1e-13, 1e-13)


@pytest.mark.parametrize("case", ["ave_ceil", "ave_pad", "floor", "global_ave", "global_max", "hw", "mask",
                                  "max_ceil", "max_k2s3", "max_k5s2p2", "max_pad_clip"])
def test_golden(case):
    assert_golden(f"pool_{case}")


@pytest.mark.parametrize("text, shape", [
    ("pool: MAX kernel_size: 3 stride: 2", (2, 2, 6, 5)),
    ("pool: MAX kernel_size: 2 stride: 3 pad: 1", (1, 2, 6, 5)),
    ("pool: MAX kernel_size: 3 stride: 2", (2, 2, 8)),
    ("pool: AVE kernel_size: 3 stride: 2 pad: 1", (2, 2, 6, 5)),
    ("pool: AVE kernel_size: 2 stride: 1 pad: 1", (1, 2, 3, 2, 3)),
    ("pool: AVE global_pooling: true", (2, 2, 3, 4))])
def test_gradient(text, shape):
    assert_gradient(OneLayer(f"type: 'Pooling' pooling_param {{ {text} }}", shape), distinct(shape))


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (1, 37, 6, 5)])      # 37 channels of one image: two blocks
def test_any_order_of_memory_and_any_threads(method, shape):
    geometry = shape[2:], (3, 3), (1, 1), (2, 2), True
    x, results = distinct(shape), []
    expected, backward, _ = naive(x, geometry, method)
    dy = distinct(expected.shape, seed=1)
    threads = numba.get_num_threads()
    try:
        for count in {1, threads}:
            numba.set_num_threads(count)
            zeros = np.zeros(dy.shape), np.zeros(dy.shape, np.int32), np.zeros(shape)
            for a, y, argmax, b, dx in zip(*map(in_orders, [x, zeros[0], zeros[1], dy, zeros[2]])):
                max_or_average(method, a, y, argmax, b, dx, geometry)
                results.append((y, dx))
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_allclose(results[0][0], expected, 1e-13)
    np.testing.assert_allclose(results[0][1], backward(dy), 1e-13, 1e-13)
    for y, dx in results[1:]:
        np.testing.assert_array_equal(y, results[0][0])
        np.testing.assert_array_equal(dx, results[0][1])


@pytest.mark.parametrize("size, kernel, pad, stride, ceil, expected", [
    (110, 3, 0, 2, True, 55), (27, 3, 0, 2, True, 13), (55, 3, 0, 2, True, 27),     # ZF-5, Convnet*-5
    (109, 3, 0, 3, False, 36), (109, 3, 0, 3, True, 37), (36, 2, 0, 2, True, 18),   # Overfeat
    (112, 3, 0, 2, True, 56), (7, 7, 0, 1, True, 1), (2, 3, 0, 2, True, 1),
    (6, 2, 1, 2, True, 4), (5, 2, 1, 2, True, 3), (5, 2, 1, 2, False, 3), (5, 2, 1, 3, True, 2)])
def test_output_size(size, kernel, pad, stride, ceil, expected):
    assert pooling.output_size(size, kernel, pad, stride, ceil, clip=pad > 0) == expected


def test_clip_looks_at_every_axis_if_one_is_padded():
    # 10 rows, kernel 2, stride 5: ceil(8 / 5) + 1 = 3 windows; the third would start at row 10, outside
    counts, regions, _ = regions_of((10, 4), (2, 2), (0, 1), (5, 2))
    assert counts == (2, 3)
    np.testing.assert_array_equal(regions[:, 2:], [(0, 2, 0, 1), (0, 2, 1, 3), (0, 2, 3, 4),
                                                   (5, 7, 0, 1), (5, 7, 1, 3), (5, 7, 3, 4)])
    with pytest.raises(NetError, match="wholly outside the input of 10"):
        regions_of((10, 4), (2, 2), (0, 0), (5, 2))


def test_max_and_mask_by_hand():
    #   3 1 4 1      windows 2 x 2, stride 1:   9 9 6      at   5 5 7
    #   5 9 2 6                                 9 9 8           5 5 11
    #   5 3 5 8
    one = OneLayer("type: 'Pooling' pooling_param { kernel_size: 2 }", (1, 1, 3, 4), tops=2)
    y, mask = one.forward(np.array([[[[3., 1, 4, 1], [5, 9, 2, 6], [5, 3, 5, 8]]]]))
    np.testing.assert_array_equal(y[0, 0], [[9, 9, 6], [9, 9, 8]])
    np.testing.assert_array_equal(mask[0, 0], [[5, 5, 7], [5, 5, 11]])
    dx = one.backward(np.array([[[[1., 2, 4], [8, 16, 32]]]]))
    np.testing.assert_array_equal(dx[0, 0], [[0, 0, 0, 0], [0, 27, 0, 4], [0, 0, 0, 32]])


def test_the_first_of_equal_values_wins():
    one = OneLayer("type: 'Pooling' pooling_param { kernel_size: 3 stride: 2 pad: 1 }", (1, 2, 4, 5), tops=2)
    _, mask = one.forward(np.full((1, 2, 4, 5), -0.5))
    np.testing.assert_array_equal(mask[0, 1], [[0, 1, 3], [5, 6, 8], [15, 16, 18]])
    dx = one.backward(np.ones((1, 2, 3, 3)))
    np.testing.assert_array_equal(np.flatnonzero(dx[0, 0]), [0, 1, 3, 5, 6, 8, 15, 16, 18])


def test_values_of_minus_infinity():
    one = OneLayer("type: 'Pooling' pooling_param { kernel_size: 2 stride: 2 }", (1, 1, 2, 4), tops=2)
    y, mask = one.forward(np.array([[[[-np.inf, -np.inf, 1, -np.inf], [-np.inf, -np.inf, -np.inf, 2]]]]))
    assert y.tolist() == [[[[-np.inf, 2]]]] and mask.tolist() == [[[[0, 7]]]]


@pytest.mark.parametrize("method", ["MAX", "AVE", "STOCHASTIC"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_is_seen_wherever_it_lies_in_a_window(method, dtype):
    one = OneLayer(f"type: 'Pooling' pooling_param {{ pool: {method} kernel_size: 3 stride: 3 }}",
                   (1, 20, 3, 6), phase=TRAIN, dtype=dtype)
    for position in range(9):
        x = distinct((1, 20, 3, 6), 0.5, 3)
        x[0, 7].flat[position // 3 * 6 + position % 3] = np.nan
        y = one.forward(x)
        assert np.isnan(y[0, 7, 0, 0]) and np.isnan(y).sum() == 1


def test_average_divides_by_padding_but_not_by_what_lies_beyond_it():
    text = "type: 'Pooling' pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }"
    # rows: windows -1..1, 1..3, 3..5, 5..7 of 0..5: the last is cut after the padding row 6
    rows, columns = np.array([2 / 3, 1, 1, 1 / 2]), np.array([2 / 3, 1, 2 / 3])
    y = OneLayer(text, (1, 1, 6, 5)).forward(np.ones((1, 1, 6, 5)))
    np.testing.assert_allclose(y[0, 0], rows[:, None] * columns, 1e-15)


def test_global_pooling_follows_the_input():
    one = OneLayer("type: 'Pooling' pooling_param { pool: AVE global_pooling: true }", (2, 3, 5, 4))
    for shape in (2, 3, 5, 4), (1, 3, 7, 2), (2, 3, 5, 4):
        x = distinct(shape)
        np.testing.assert_allclose(one.forward(x), x.mean((2, 3), keepdims=True), 1e-12)
        np.testing.assert_allclose(one.backward(np.ones((*shape[:2], 1, 1))),
                                   np.full(shape, 1 / (shape[2] * shape[3])), 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("geometry", [((7, 8), (3, 3), (0, 0), (2, 2)), ((9, 11), (5, 4), (2, 1), (1, 2)),
                                      ((13,), (6,), (0,), (5,)), ((5, 6, 7), (3, 2, 5), (1, 1, 2), (2, 1, 3))])
def test_values_are_the_same_without_positions(geometry, dtype):
    """Among equal values, infinities and NaN."""
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 3, (3, 37, *geometry[0])).astype(dtype)
    for value, often in (np.inf, 0.01), (-np.inf, 0.6), (np.nan, 0.02):
        x[rng.random(x.shape) < often] = value
    counts, regions, _ = regions_of(*geometry)
    with_positions, without = np.empty((2, *x.shape[:2], *counts), dtype)
    argmax = np.empty(without.shape, np.int32)
    for strided, y in zip(in_orders(x), in_orders(without)):
        pooling.max_forward(strided, regions, with_positions, argmax)
        pooling.max_forward(strided, regions, y, None)
        np.testing.assert_array_equal(y, with_positions)
    assert np.isnan(without).any() and np.isfinite(without).any() and (without == -np.inf).any()


@pytest.mark.parametrize("tops", [1, 2])
def test_a_net_that_does_not_go_backward_keeps_no_positions_but_for_a_top(tops):
    one = OneLayer("type: 'Pooling' pooling_param { kernel_size: 3 stride: 2 }", (2, 3, 7, 8), tops=tops)
    layer: Any = one.layer
    layer.runs_backward = False
    x = distinct((2, 3, 7, 8))
    expected, _, where = naive(x, ((7, 8), (3, 3), (0, 0), (2, 2), True), "MAX")
    outputs = one.forward(x)
    if tops == 2:
        np.testing.assert_array_equal(outputs[1], where)
        outputs = outputs[0]
    np.testing.assert_array_equal(outputs, expected)
    assert (layer.argmax.memory.flat is not None) == (tops == 2)


def test_an_empty_batch():
    one = OneLayer("type: 'Pooling' pooling_param { kernel_size: 3 stride: 2 }", (0, 3, 7, 8))
    assert one.forward(np.zeros((0, 3, 7, 8))).shape == (0, 3, 3, 4)
    assert one.backward(np.zeros((0, 3, 3, 4))).shape == (0, 3, 7, 8)


# --- STOCHASTIC

STOCHASTIC = "type: 'Pooling' pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }"


def test_stochastic_draws_in_proportion():
    draws = 4000
    x = np.broadcast_to([[1., 0, 5, 5], [2, 5, 5, 5]], (draws, 2, 2, 4)).copy()
    one = OneLayer(STOCHASTIC, x.shape, phase=TRAIN, seed=1)
    y = one.forward(x)
    assert set(np.unique(y[..., 0])) == {1, 2, 5} and set(np.unique(y[..., 1])) == {5}
    for value, chance in {1: 1 / 8, 2: 2 / 8, 5: 5 / 8}.items():
        spread = math.sqrt(chance * (1 - chance) / (2 * draws))
        assert abs((y[..., 0] == value).mean() - chance) < 4 * spread
    places = np.argmax(one.backward(np.broadcast_to([1., 0], y.shape))[..., :2].reshape(draws, 2, 4), -1)
    np.testing.assert_array_equal(np.array([1, 0, 2, 5])[places], y[:, :, 0, 0])
    dx = one.backward(np.ones(y.shape))
    for place in range(4):      # the right window's four equal values are drawn equally often
        share = dx[:, :, place // 2, 2 + place % 2].mean()
        assert abs(share - 1 / 4) < 4 * math.sqrt(3 / 16 / (2 * draws))


def test_stochastic_repeats_by_seed_and_state():
    x = distinct((3, 4, 5, 7), 0.1, 2)
    first, same, other = (OneLayer(STOCHASTIC, x.shape, phase=TRAIN, seed=seed) for seed in (1, 1, 2))
    y = first.forward(x)
    np.testing.assert_array_equal(same.forward(x), y)
    assert (other.forward(x) != y).any()
    state = first.layer.state()
    following = first.forward(x)
    assert state is not None and (following != y).any()
    first.layer.restore(state)
    np.testing.assert_array_equal(first.forward(x), following)


@pytest.mark.parametrize("phase", [0, 1])
def test_stochastic_of_zeros_is_zero(phase):
    one = OneLayer(STOCHASTIC, (1, 2, 2, 4), phase=phase)
    x = np.zeros((1, 2, 2, 4))
    x[0, 1, 1, 3] = 3
    y = one.forward(x)
    np.testing.assert_array_equal(y, [[[[0, 0]], [[0, 3]]]])
    assert np.isfinite(one.backward(np.ones(y.shape))).all()


def test_stochastic_in_test_is_the_expectation():
    x = distinct((2, 3, 5, 7), 0.1, 2)
    y = OneLayer(STOCHASTIC, x.shape).forward(x)
    assert y.shape == (2, 3, 3, 4)
    for n, c, i, j in np.ndindex(*y.shape):
        window = x[n, c, 2 * i:2 * i + 2, 2 * j:2 * j + 2]
        assert y[n, c, i, j] == pytest.approx((window ** 2).sum() / window.sum(), 1e-13)


def test_stochastic_gradient_in_test():
    shape = (2, 2, 5, 4)
    assert_gradient(OneLayer(STOCHASTIC.replace("size: 2", "size: 3"), shape), distinct(shape, 0.3, 2))


# --- errors

@pytest.mark.parametrize("text, message", [
    ("", "pooling_param needs kernel_size, or kernel_h and kernel_w, or global_pooling: true"),
    ("kernel_size: 2 kernel_h: 2 kernel_w: 2", "either kernel_size, or kernel_h and kernel_w, not both"),
    ("kernel_h: 2", "has kernel_h without kernel_w; give both, or kernel_size alone"),
    ("kernel_w: 2", "has kernel_w without kernel_h; give both, or kernel_size alone"),
    ("kernel_size: 2 stride: 2 stride_h: 1 stride_w: 1", "either stride, or stride_h and stride_w, not both"),
    ("kernel_size: 2 stride_h: 1", "has stride_h without stride_w; give both, or stride alone"),
    ("kernel_size: 2 pad: 1 pad_h: 1 pad_w: 1", "takes either pad, or pad_h and pad_w, not both"),
    ("kernel_size: 2 pad_w: 1", "has pad_w without pad_h; give both, or pad alone"),
    ("kernel_size: 0", "kernel and stride must be at least 1, found kernel 0 and stride 1"),
    ("kernel_size: 2 stride: 0", "kernel and stride must be at least 1, found kernel 2 and stride 0"),
    ("kernel_size: 2 pad: 2", "pad must be smaller than the kernel, found pad 2 and kernel 2"),
    ("kernel_size: 9", "kernel 9 is larger than the input of 5 with pad 0; use a smaller kernel, or global_"),
    ("kernel_size: 7 stride: 2 round_mode: FLOOR", "kernel 7 is larger than the input of 5 with pad 0"),
    ("kernel_size: 1 stride: 2", "stride 2 put the last window wholly outside the input of 6; use round"),
    ("global_pooling: true kernel_size: 2", "the whole map; remove kernel_size, kernel_h, kernel_w"),
    ("global_pooling: true kernel_h: 2 kernel_w: 2", "the whole map; remove kernel_size, kernel_h, kernel_w"),
    ("global_pooling: true pad: 1", "needs pad 0 and stride 1, found pad 1 x 1 and stride 1 x 1"),
    ("global_pooling: true stride_h: 1 stride_w: 2", "pad 0 and stride 1, found pad 0 x 0 and stride 1 x 2"),
    ("pool: STOCHASTIC kernel_size: 2 pad: 1", "pad goes with pool: MAX and AVE only, found STOCHASTIC"),
])
def test_errors(text, message):
    with pytest.raises(NetError, match=message):
        OneLayer(f"type: 'Pooling' pooling_param {{ {text} }}", (2, 3, 5, 6))


@pytest.mark.parametrize("text, shape, tops, message", [
    ("pool: AVE kernel_size: 2", (2, 3, 5, 6), 2, "second top .* needs pool: MAX, found AVE; remove the top"),
    ("kernel_size: 2", (2, 3, 5, 6), 3, "takes 1 to 2 top blob"),
    ("kernel_size: 2", (2, 3), 1, "needs a bottom of N x C x 1 to 3 spatial axes, found 2 x 3"),
    ("kernel_size: 2", (2, 3, 4, 4, 4, 4), 1, "1 to 3 spatial axes, found 2 x 3 x 4 x 4 x 4 x 4"),
    ("kernel_h: 2 kernel_w: 2", (2, 3, 5, 5, 5), 1, "kernel_w need 2 spatial axes, found 3; use kernel_size"),
])
def test_errors_of_shape(text, shape, tops, message):
    with pytest.raises(NetError, match=message):
        OneLayer(f"type: 'Pooling' pooling_param {{ {text} }}", shape, tops=tops)


def test_the_number_of_axes_stays():
    one = OneLayer("type: 'Pooling' pooling_param { kernel_size: 2 }", (2, 3, 5, 6))
    with pytest.raises(NetError, match="was set up for 2 spatial axes, found a bottom of 2 x 3 x 5 x 6 x 7"):
        one.forward(np.zeros((2, 3, 5, 6, 7)))
