"""Layers that move, pick, cut, repeat and reduce: worked numbers, shared memory, and every refusal."""
import numpy as np
import pytest

from layer_net import backward, forward, layer_net, refusal
from one_layer import distinct
from spp.net import Net
from spp.ops import rearrange as parts
from spp.proto.text import parse_net

# --- Reshape


@pytest.mark.parametrize("param, shape, top", [
    ("shape { dim: 0 dim: -1 }", (2, 3, 4), (2, 12)),
    ("shape { dim: 4 dim: 0 dim: 2 }", (2, 3, 4), (4, 3, 2)),
    ("shape { dim: -1 }", (2, 3, 4), (24,)),
    ("shape { }", (1, 1), ()),
    ("shape { dim: 6 } axis: 0 num_axes: 2", (2, 3, 4), (6, 4)),
    ("shape { dim: 2 dim: -1 } axis: 1 num_axes: 1", (2, 6, 4), (2, 2, 3, 4)),
    ("shape { dim: 1 dim: 1 } axis: -1", (2, 3), (2, 3, 1, 1)),
    ("shape { dim: 1 } axis: 1 num_axes: 0", (2, 3), (2, 1, 3)),
    ("shape { dim: -1 } axis: -3", (2, 3, 4), (2, 12)),
    ("shape { dim: 0 dim: -1 } axis: 1", (5, 0, 6), (5, 0, 6)),
])
def test_reshape(param, shape, top):
    net = layer_net(f"type: 'Reshape' reshape_param {{ {param} }}", shape)
    x = distinct(shape)
    y = forward(net, x)
    assert y.shape == top
    np.testing.assert_array_equal(y, x.reshape(top))
    np.testing.assert_array_equal(backward(net, x.reshape(top)), x)


def test_reshape_after_a_filter_let_nothing_through():
    net = layer_net("type: 'Reshape' reshape_param { shape { dim: 0 dim: -1 dim: 4 } }", (2, 12))
    assert forward(net, np.ones((0, 12))).shape == (0, 3, 4)


def test_reshape_shares_memory_where_order_allows():
    net = layer_net("type: 'Reshape' reshape_param { shape { dim: 0 dim: -1 } }", (2, 3, 4))
    x, y = net.blobs["x0"], net.blobs["y0"]
    assert np.shares_memory(x.data, y.data) and np.shares_memory(x.diff, y.diff)
    back = layer_net("type: 'Reshape' reshape_param { shape { dim: 0 dim: 3 dim: 2 dim: 2 } }", (2, 12))
    assert np.shares_memory(back.blobs["x0"].data, back.blobs["y0"].data)
    four = layer_net("type: 'Reshape' reshape_param { shape { dim: 0 dim: -1 } }", (2, 3, 4, 5))     # channels-last
    shared = not four.context.backend.prefers_channels_last
    assert np.shares_memory(four.blobs["x0"].data, four.blobs["y0"].data) == shared
    forward(four, distinct((2, 1, 4, 5)))       # one channel: now in Caffe's order
    assert np.shares_memory(four.blobs["x0"].data, four.blobs["y0"].data)


DIMS = "reshape_param's shape takes sizes, 0 to copy a size, and at most one -1; found "


@pytest.mark.parametrize("param, message", [
    ("shape { dim: -1 dim: -1 }", DIMS + "-1 -1"),
    ("shape { dim: -2 }", DIMS + "-2"),
    ("shape { dim: 5 dim: -1 }", "cannot reshape 2 x 3 x 4 (24 elements) to 5 x 4 (20 elements)"),
    ("shape { dim: 2 dim: 3 }", "cannot reshape 2 x 3 x 4 (24 elements) to 2 x 3 (6 elements)"),
    ("shape { dim: 1 } axis: 4", "axis 4 is out of range for a blob of 3 axes: Reshape takes -4 to 3"),
    ("shape { dim: 1 } axis: -5", "axis -5 is out of range for a blob of 3 axes: Reshape takes -4 to 3"),
    ("shape { dim: 6 } axis: 1 num_axes: 3", "num_axes must be -1, for all axes from axis 1 on, or 0 to 2; found 3"),
    ("shape { dim: 6 } num_axes: -2", "num_axes must be -1, for all axes from axis 0 on, or 0 to 3; found -2"),
    ("shape { dim: 6 dim: 1 dim: 1 dim: 0 }",
     "reshape_param's shape has a 0, for a copied size, as number 3, but the bottom 2 x 3 x 4 has no axis 3"),
])
def test_reshape_refusals(param, message):
    assert refusal(layer_net, f"type: 'Reshape' reshape_param {{ {param} }}", (2, 3, 4)) == message


def test_reshape_is_refused_in_place():
    assert refusal(layer_net, "type: 'Reshape' reshape_param { shape { dim: -1 } }", (2, 3), in_place=True) == (
        "cannot work in place: give its top another name than its bottom 'x0'")


# --- Slice

def test_slice_into_parts_and_back():
    net = layer_net("type: 'Slice' slice_param { slice_point: 1 slice_point: 4 }", (2, 6, 3), tops=3)
    x = distinct((2, 6, 3))
    for result, expected in zip(forward(net, x), (x[:, :1], x[:, 1:4], x[:, 4:])):
        np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(backward(net, x[:, :1], 2 * x[:, 1:4], 3 * x[:, 4:]),
                                  x * np.array([1, 2, 2, 2, 3, 3])[:, None])


@pytest.mark.parametrize("param", ["slice_dim: 2", "axis: 2", "axis: -1"])
def test_slice_into_equal_parts(param):
    net = layer_net(f"type: 'Slice' slice_param {{ {param} }}", (1, 1, 4), tops=2)
    assert [y.tolist() for y in forward(net, [[[1, 2, 3, 4]]])] == [[[[1, 2]]], [[[3, 4]]]]


def test_slice_into_one_part_shares_memory():
    net = layer_net("type: 'Slice'", (2, 3, 4, 5))
    x, y = net.blobs["x0"], net.blobs["y0"]
    assert np.shares_memory(x.data, y.data) and np.shares_memory(x.diff, y.diff)
    np.testing.assert_array_equal(forward(net, distinct((3, 3, 5, 5))), distinct((3, 3, 5, 5)))


POINTS = "each slice_point must be larger than the one before it, above 0 and below 6, the size of axis 1; found "


@pytest.mark.parametrize("param, tops, message", [
    ("axis: 1 slice_dim: 1", 2, "slice_param takes either axis or the older slice_dim, not both"),
    ("", 4, "axis 1 of size 6 does not divide into 4 equal tops; give slice_param 3 slice_point"),
    ("slice_point: 2", 3, "slice_param needs one slice_point fewer than tops, 2; found 1"),
    ("slice_point: 4 slice_point: 2", 3, POINTS + "4 2"),
    ("slice_point: 0", 2, POINTS + "0"),
    ("slice_point: 6", 2, POINTS + "6"),
    ("axis: 3", 2, "axis 3 is out of range for a blob of 3 axes"),
])
def test_slice_refusals(param, tops, message):
    assert refusal(layer_net, f"type: 'Slice' slice_param {{ {param} }}", (2, 6, 3), tops=tops) == message


# --- Crop

def test_crop():
    x, dy = distinct((2, 3, 6, 7)), distinct((2, 3, 4, 5), seed=1)
    for param, offset in (("", (0, 0)), ("crop_param { offset: 1 }", (1, 1)),
                          ("crop_param { offset: 2 offset: 1 }", (2, 1))):
        net = layer_net(f"type: 'Crop' {param}", (2, 3, 6, 7), (1, 9, 4, 5))      # other axes are not looked at
        window = np.s_[:, :, offset[0]:offset[0] + 4, offset[1]:offset[1] + 5]
        np.testing.assert_array_equal(forward(net, x, np.ones((1, 9, 4, 5))), x[window])
        net.blobs["x1"].diff[...] = np.nan
        expected = np.zeros_like(x)
        expected[window] = dy
        np.testing.assert_array_equal(backward(net, dy), expected)
        assert not net.blobs["x1"].diff.any()       # a network that also reads the reference adds this


BOUNDS = "the crop of axis 2 is out of bounds: 4 elements from offset "


@pytest.mark.parametrize("param, other, message", [
    ("offset: 3", (2, 3, 4, 5), BOUNDS + "3 on do not fit into bottom 0's 6"),
    ("offset: 1 offset: 1 offset: 1", (2, 3, 4, 5),
     "crop_param needs no offset, one, or one for each of the 2 axes from axis 2 on; found 3"),
    ("axis: 4", (2, 3, 4, 5), "axis 4 is out of range for a blob of 4 axes"),
    ("axis: 2", (4, 5), "bottoms must have equally many axes: bottom 0 is 2 x 3 x 6 x 7, bottom 1 4 x 5"),
])
def test_crop_refusals(param, other, message):
    assert refusal(layer_net, f"type: 'Crop' crop_param {{ {param} }}", (2, 3, 6, 7), other) == message


# --- Tile

def test_tile():
    net = layer_net("type: 'Tile' tile_param { tiles: 2 }", (1, 2, 2))
    np.testing.assert_array_equal(forward(net, [[[1, 2], [3, 4]]]), [[[1, 2], [3, 4], [1, 2], [3, 4]]])
    np.testing.assert_array_equal(backward(net, [[[1, 2], [3, 4], [50, 60], [70, 80]]]), [[[51, 62], [73, 84]]])


def test_tiles_are_views_in_every_order_of_memory():
    array = np.zeros((2, 5, 4, 6)).transpose(0, 3, 1, 2)
    parts.tile_forward(np.ones((2, 3, 5, 4)), array, 1, 2)
    assert array.all()


@pytest.mark.parametrize("param, message", [
    ("", "tile_param needs tiles, at least 1; found 0"),
    ("tile_param { tiles: -2 }", "tile_param needs tiles, at least 1; found -2"),
    ("tile_param { tiles: 2 axis: 2 }", "axis 2 is out of range for a blob of 2 axes"),
])
def test_tile_refusals(param, message):
    assert refusal(layer_net, f"type: 'Tile' {param}", (2, 3)) == message


# --- Reduction

X = np.array([[[1, -2], [3, 4]], [[-5, 6], [7, -8]]], float)


@pytest.mark.parametrize("param, y, dx", [
    ("axis: 1", [6, 0], [[[10] * 2] * 2, [[20] * 2] * 2]),
    ("axis: -1 coeff: 2", [[-2, 14], [2, -2]], [[[20, 20], [40, 40]], [[60, 60], [80, 80]]]),
    ("operation: ASUM axis: 1", [10, 26], [[[10, -10], [10, 10]], [[-20, 20], [20, -20]]]),
    ("operation: SUMSQ axis: 2", [[5, 25], [61, 113]], [[[20, -40], [120, 160]], [[-300, 360], [560, -640]]]),
    ("operation: MEAN coeff: 3", 3 * 6 / 8, np.full((2, 2, 2), 30 / 8)),
])
def test_reduction(param, y, dx):
    net = layer_net(f"type: 'Reduction' reduction_param {{ {param} }}", X.shape)
    result = forward(net, X)
    assert result.shape == np.shape(y)
    np.testing.assert_allclose(result, y, 1e-12)
    dy = np.arange(1, result.size + 1).reshape(result.shape) * 10
    np.testing.assert_allclose(backward(net, dy), dx, 1e-12)


def test_reduction_of_a_scalar_and_of_nothing():
    assert forward(layer_net("type: 'Reduction' reduction_param { operation: SUMSQ }", ()), 3.0) == 9
    net = layer_net("type: 'Reduction' reduction_param { operation: MEAN }", (2, 3))
    assert forward(net, np.ones((0, 3))) == 0       # what a Filter let through: no loss, not NaN
    assert backward(net, 1.0).shape == (0, 3)


def test_reduction_as_a_loss_and_its_refusal():
    net = layer_net("type: 'Reduction' reduction_param { coeff: 0.5 } loss_weight: 4", (2, 3))
    net.forward(x0=np.ones((2, 3)))
    net.backward()
    assert net.loss == 12 and (net.blobs["x0"].diff == 2).all()
    assert refusal(layer_net, "type: 'Reduction' reduction_param { axis: 2 }", (2, 3)) == (
        "axis 2 is out of range for a blob of 2 axes")


# --- ArgMax

SCORES = np.array([[[0.5, 3, -1], [3, 2, 0]], [[-4, -5, -9], [-6, -4, -7]]])


@pytest.mark.parametrize("param, y", [
    ("", [[[3]], [[4]]]),                       # of equal elements the last
    ("top_k: 3", [[[3, 1, 4]], [[4, 0, 1]]]),
    ("top_k: 3 out_max_val: true", [[[3, 1, 4], [3, 3, 2]], [[4, 0, 1], [-4, -4, -5]]]),
    ("axis: 1", [[[1, 0, 1]], [[0, 1, 1]]]),
    ("axis: -1 top_k: 2", [[[1, 0], [0, 1]], [[0, 1], [1, 0]]]),
    ("axis: 2 top_k: 2 out_max_val: true", [[[3, 0.5], [3, 2]], [[-4, -5], [-4, -6]]]),
])
def test_argmax(param, y):
    result = forward(layer_net(f"type: 'ArgMax' argmax_param {{ {param} }}", SCORES.shape), SCORES)
    assert result.shape == np.shape(y)
    np.testing.assert_array_equal(result, y)


def test_argmax_has_at_least_3_axes_and_as_many_as_the_bottom():
    assert forward(layer_net("type: 'ArgMax'", (2, 4)), np.eye(2, 4)).tolist() == [[[0]], [[1]]]
    x = distinct((2, 3, 4, 5))
    net = layer_net("type: 'ArgMax' argmax_param { top_k: 2 out_max_val: true }", x.shape)
    order = np.argsort(-x.reshape(2, -1), 1)[:, :2]
    expected = np.stack([order, np.take_along_axis(x.reshape(2, -1), order, 1)], 1)
    np.testing.assert_array_equal(forward(net, x), expected[..., None])


def test_argmax_points_at_a_nan():
    for top_k in (1, 2):
        net = layer_net(f"type: 'ArgMax' argmax_param {{ top_k: {top_k} }}", (1, 3))
        assert forward(net, [[1, np.nan, 2]])[0, 0].tolist() == [1, 2][:top_k]


@pytest.mark.parametrize("param, shape, message", [
    ("top_k: 0", (2, 6), "top_k must be 1 to 6, the number of elements to choose from; found 0"),
    ("top_k: 7", (2, 3, 2), "top_k must be 1 to 6, the number of elements to choose from; found 7"),
    ("top_k: 3 axis: 2", (2, 3, 2), "top_k must be 1 to 2, the number of elements to choose from; found 3"),
    ("axis: 2", (2, 3), "axis 2 is out of range for a blob of 2 axes"),
    ("", (), "needs a bottom with an axis of images, found a scalar"),
])
def test_argmax_refusals(param, shape, message):
    assert refusal(layer_net, f"type: 'ArgMax' argmax_param {{ {param} }}", shape) == message


LOSS = "layer { name: 'r' type: 'Reduction' bottom: 'y0' top: 'z' loss_weight: 1 }"


@pytest.mark.parametrize("body, shapes, message", [
    ("type: 'ArgMax' propagate_down: true", [(2, 3)],
     "an index has no gradient, but its bottom asks for one; write propagate_down: false in this layer"),
    ("type: 'BatchReindex' propagate_down: true propagate_down: true", [(2, 3), (2,)],
     "the indices, bottom 1, have no gradient, but what makes them asks for one; write propagate_down: true "
     "propagate_down: false in this layer"),
    ("type: 'Filter' propagate_down: true propagate_down: true", [(2, 3), (2,)],
     "the selectors, bottom 1, have no gradient, but what makes them asks for one; write propagate_down: true "
     "propagate_down: false in this layer"),
    ("type: 'Embed' propagate_down: true embed_param { input_dim: 2 num_output: 1 }", [(2, 3)],
     "the indices, bottom 0, have no gradient, but what makes them asks for one; write propagate_down: false in this "
     "layer"),
])
def test_what_has_no_gradient_is_refused_one(body, shapes, message):
    net = layer_net(body, *shapes, following=LOSS)
    net.forward()
    assert refusal(net.backward) == message


# --- BatchReindex, Filter, Embed

def test_batch_reindex():
    net = layer_net("type: 'BatchReindex'", (3, 2), (4,))
    result = forward(net, [[1, 2], [3, 4], [5, 6]], [2, 0, 2, 2])
    np.testing.assert_array_equal(result, [[5, 6], [1, 2], [5, 6], [5, 6]])
    np.testing.assert_array_equal(backward(net, [[1, 2], [3, 4], [10, 20], [100, 200]]), [[3, 4], [0, 0], [111, 222]])


@pytest.mark.parametrize("index, value", [(3, "3"), (-1, "-1"), (np.nan, "nan"), (3e9, "3e+09")])
def test_index_out_of_range(index, value):
    net = layer_net("type: 'BatchReindex'", (3, 2), (2,))
    assert refusal(net.forward, x0=np.ones((3, 2)), x1=[0, index]) == (
        f"index {value} is out of range: bottom 0 has 3 row(s), 0 to 2")
    net = layer_net("type: 'Embed' embed_param { input_dim: 3 num_output: 2 }", (2,))
    assert refusal(net.forward, x0=[0, index]) == (
        f"index {value} is out of range: the table has (input_dim) 3 row(s), 0 to 2")


def test_filter():
    net = layer_net("type: 'Filter'", (4, 2), (4, 3, 1, 2), (4, 1, 1), tops=2)
    assert net.blobs["y0"].shape == (4, 2)      # all rows until the first forward
    a, b = distinct((4, 2)), distinct((4, 3, 1, 2))
    outputs = forward(net, a, b, np.reshape([0, 1, 0, -2], (4, 1, 1)))
    np.testing.assert_array_equal(outputs[0], a[[1, 3]])
    np.testing.assert_array_equal(outputs[1], b[[1, 3]])
    net.blobs["x1"].diff[...] = np.nan
    np.testing.assert_array_equal(backward(net, a[:2], b[:2]), [[0, 0], a[0], [0, 0], a[1]])
    np.testing.assert_array_equal(net.blobs["x1"].diff[[1, 3]], b[:2])
    assert not net.blobs["x1"].diff[[0, 2]].any()


def test_filter_with_nothing_selected_then_all():
    net = layer_net("type: 'Filter'", (3, 2), (3,),
                    following="layer { name: 'b' type: 'Scale' bottom: 'y0' top: 'z' }")
    assert forward(net, np.ones((3, 2)), [0, 0, 0]).shape == (0, 2)
    assert net.blobs["z"].shape == (0, 2)
    net.blobs["x0"].diff[...] = np.nan
    net.clear_param_diffs()
    net.backward()
    assert not net.blobs["x0"].diff.any() and not net.params["b"][0].diff.any()
    assert forward(net, np.ones((3, 2)), [1, 1, 1]).shape == (3, 2)


@pytest.mark.parametrize("body, shapes, tops, message", [
    ("type: 'BatchReindex'", [(3, 2), (4, 1)], 1, "the indices, bottom 1, must have 1 axis, found shape 4 x 1"),
    ("type: 'BatchReindex'", [(), (4,)], 1, "axis 0 is out of range for a blob of 0 axes"),
    ("type: 'Filter'", [(3, 2), (3,)], 2,
     "makes one top for each bottom but the last, the selector; found 2 bottoms and 2 top(s)"),
    ("type: 'Filter'", [(3, 2), (3, 2)], 1,
     "the selector, the last bottom, must have one number per row, found shape 3 x 2"),
    ("type: 'Filter'", [(3, 2), ()], 1, "the selector, the last bottom, must have one number per row, found shape ()"),
    ("type: 'Filter'", [(3,), (4, 2), (3,)], 2,
     "bottom 1 of shape 4 x 2 must have as many rows as the selector, which has 3"),
    ("type: 'Embed' embed_param { input_dim: 3 }", [(3,)], 1, "embed_param needs num_output, at least 1"),
    ("type: 'Embed' embed_param { num_output: 3 }", [(3,)], 1, "embed_param needs input_dim, at least 1"),
])
def test_picking_refusals(body, shapes, tops, message):
    assert refusal(layer_net, body, *shapes, tops=tops) == message


def test_embed():
    net = layer_net("type: 'Embed' embed_param { input_dim: 3 num_output: 2 }", (2, 2))
    weight, bias = net.params["l"]
    weight.data[...], bias.data[...] = [[1, 2], [3, 4], [5, 6]], [10, 20]
    np.testing.assert_array_equal(forward(net, [[2, 0], [2, 1]]), [[[15, 26], [11, 22]], [[15, 26], [13, 24]]])
    net.blobs["y0"].diff[...] = [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    net.clear_param_diffs()
    net.backward()
    np.testing.assert_array_equal(weight.diff, [[3, 4], [7, 8], [6, 8]])
    np.testing.assert_array_equal(bias.diff, [16, 20])
    assert layer_net("type: 'Embed' embed_param { input_dim: 3 num_output: 2 }", (4, 5, 1)).blobs["y0"].shape == (
        4, 5, 1, 2)


# --- Parameter

def test_parameter_shares_its_values_and_adds_up_its_gradient():
    text = ("layer { name: 'p' type: 'Parameter' top: 'p' parameter_param { shape { dim: 2 dim: 3 } } } "
            "layer { name: 's' type: 'Reduction' bottom: 'p' top: 's' reduction_param { operation: SUMSQ } "
            "loss_weight: 2 }")
    net = Net(parse_net(text), dtype=np.float64)
    blob = net.params["p"][0]
    assert blob.shape == (2, 3) and not blob.data.any()
    blob.data[...] = values = distinct((2, 3))
    net.forward()
    assert net.loss == pytest.approx(2 * (values ** 2).sum())
    net.blobs["p"].data[0, 0] = 9
    assert blob.data[0, 0] == 9
    for passes in (1, 2):       # as with iter_size: 2
        net.backward()
        np.testing.assert_allclose(blob.diff, passes * 4 * blob.data)


def test_parameter_shared_by_name_and_of_four_axes():
    text = "".join(f"layer {{ name: '{n}' type: 'Parameter' top: '{n}' param {{ name: 'w' }} parameter_param "
                   "{ shape { dim: 2 dim: 3 dim: 2 dim: 2 } } }" for n in "ab")
    net = Net(parse_net(text))
    net.params["a"][0].data[...] = distinct((2, 3, 2, 2))
    net.forward()
    np.testing.assert_array_equal(net.blobs["b"].data, net.params["a"][0].data)


def test_frozen_parameter_gets_no_gradient():
    text = ("layer { name: 'p' type: 'Parameter' top: 'p' param { lr_mult: 0 } parameter_param { shape { dim: 3 } } } "
            "layer { name: 's' type: 'Reduction' bottom: 'p' top: 's' loss_weight: 1 }")
    net = Net(parse_net(text))
    net.forward()
    net.backward()
    assert not net.params["p"][0].diff.any()


@pytest.mark.parametrize("param", ["", "argmax_param { top_k: 2 out_max_val: true }", "argmax_param { axis: 1 }"])
def test_argmax_of_no_images(param):
    net = layer_net(f"type: 'ArgMax' {param}", (0, 4, 3))
    net.forward()
    assert net.blobs["y0"].data.shape == {"": (0, 1, 1), "argmax_param { axis: 1 }": (0, 1, 3)}.get(param, (0, 2, 2))
