"""Layers of forks of Caffe: hand-computed values, naive references, OpenCV's importer, and every error message."""
import numpy as np
import pytest

from one_layer import OneLayer, distinct, in_orders
from spp.errors import NetError, SppError
from spp.layers import TEST, TRAIN, layer_class
from spp.net import Net
from spp.ops import resize
from spp.proto.text import parse_net


def test_normalize_by_hand():
    x = np.array([[[[3.0, 1]], [[4, 2]], [[0, 2]]]])                # norms of the two pixels: 5, 3
    one = OneLayer("type: 'Normalize' norm_param { across_spatial: false channel_shared: false }", x.shape)
    assert one.layer.blobs[0].data.tolist() == [1, 1, 1]            # SSD's filler when none is given
    one.layer.blobs[0].data[...] = [10, 20, 30]
    np.testing.assert_allclose(one.forward(x)[0, :, 0], [[6.0, 10 / 3], [16.0, 40 / 3], [0.0, 20.0]], 1e-9)
    whole = OneLayer("type: 'Normalize' norm_param { eps: 2 scale_filler { value: 3 } }", x.shape)
    assert whole.layer.blobs[0].shape == (1,)
    np.testing.assert_allclose(whole.forward(x), 3 * x / 6)         # 9 + 1 + 16 + 4 + 0 + 4 + eps 2 = 36


def test_permute_appends_the_axes_that_are_not_named():
    x = distinct((2, 3, 4, 5))
    one = OneLayer("type: 'Permute' permute_param { order: 3 order: 1 }", x.shape)
    np.testing.assert_array_equal(one.forward(x), x.transpose(3, 1, 0, 2))


def test_reorg_is_darknets():
    """Flat memory, element by element, as Darknet's reorg does it."""
    c, h, w, s = 8, 4, 6, 2
    x = distinct((1, c, h, w))
    flat, expected = x.ravel(), np.empty(x.size)
    for k in range(c):
        for j in range(h):
            for i in range(w):
                block = k // (c // s ** 2)
                row, column = j * s + block // s, i * s + block % s
                expected[(k * h + j) * w + i] = flat[(k % (c // s ** 2) * h * s + row) * w * s + column]
    result = OneLayer("type: 'Reorg' reorg_param { stride: 2 }", x.shape).forward(x)
    assert result.shape == (1, 32, 2, 3)
    np.testing.assert_array_equal(result.ravel(), expected)


def test_reorg_of_four_channels_is_space_to_depth_and_reverse_undoes_it():
    x = distinct((2, 4, 6, 4))
    there = OneLayer("type: 'Reorg' reorg_param { reverse: true stride: 2 }", x.shape).forward(x)
    assert there.shape == (2, 1, 12, 8)
    for a in (0, 1):
        for b in (0, 1):
            np.testing.assert_array_equal(there[:, 0, a::2, b::2], x[:, 2 * a + b])


def test_shuffle_channel_takes_from_each_group_in_turn():
    x = np.arange(6.0).reshape(1, 6, 1, 1)
    one = OneLayer("type: 'ShuffleChannel' shuffle_channel_param { group: 2 }", x.shape)
    assert one.forward(x).ravel().tolist() == [0, 3, 1, 4, 2, 5]
    assert one.backward(x).ravel().tolist() == [0, 2, 4, 1, 3, 5]


def test_axpy():
    x, y = distinct((2, 3, 2, 2)), distinct((2, 3, 2, 2), seed=1)
    scale = np.arange(6.0).reshape(2, 3)
    one = OneLayer("type: 'Axpy'", scale.shape, x.shape, y.shape)
    np.testing.assert_allclose(one.forward(scale, x, y), scale[:, :, None, None] * x + y)


def test_relu6():
    x = np.array([[-2.0, 0, 3, 6, 7, np.nan]])
    np.testing.assert_array_equal(OneLayer("type: 'ReLU6'", x.shape).forward(x), [[0, 0, 3, 6, 6, np.nan]])
    leaky = OneLayer("type: 'ReLU6' relu6_param { negative_slope: 0.5 }", x.shape)
    np.testing.assert_array_equal(leaky.forward(x), [[-1, 0, 3, 6, 6, np.nan]])


def test_dropout_that_scales_in_testing():
    x = distinct((4, 50), low=1)
    param = "type: 'Dropout' dropout_param { dropout_ratio: 0.25 scale_train: false }"
    test, train = (OneLayer(param, x.shape, phase=phase) for phase in (TEST, TRAIN))
    np.testing.assert_allclose(test.forward(x), 0.75 * x)
    np.testing.assert_allclose(test.backward(x), 0.75 * x)
    y = train.forward(x)
    assert 20 < (y == 0).sum() < 80 and np.isin(y, [0, *x.ravel()]).all()
    np.testing.assert_array_equal(train.backward(x), y)


@pytest.mark.parametrize("name", ["ConvolutionDepthwise", "DepthwiseConvolution"])
def test_depthwise_is_convolution_with_a_group_a_channel(name):
    x = distinct((2, 3, 5, 4))
    param = "convolution_param { num_output: 6 kernel_size: 3 pad: 1 weight_filler { type: 'gaussian' } %s }"
    one, usual = OneLayer(f"type: '{name}' " + param % "", x.shape), OneLayer(
        "type: 'Convolution' " + param % "group: 3", x.shape)
    assert one.layer.blobs[0].shape == (6, 1, 3, 3)
    np.testing.assert_array_equal(one.forward(x), usual.forward(x))


@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_smooth_l1_with_inside_and_outside_weights(sigma):
    rng = np.random.default_rng(0)
    pred, target, inside, outside = (rng.normal(size=(3, 4)) for _ in range(4))
    expected = 0.0
    for p, t, w_in, w_out in zip(*map(np.ravel, (pred, target, inside, outside))):
        d = w_in * (p - t)
        small = abs(d) < 1 / sigma ** 2
        expected += w_out * (0.5 * (sigma * d) ** 2 if small else abs(d) - 0.5 / sigma ** 2) / 3
    one = OneLayer(f"type: 'SmoothL1Loss' smooth_l1_loss_param {{ sigma: {sigma} }}", *[(3, 4)] * 4)
    assert float(one.forward(pred, target, inside, outside)) == pytest.approx(expected, rel=1e-12)
    ssd = OneLayer("type: 'SmoothL1Loss'", *[(2, 2)] * 3)
    pred, zero = np.array([[0.5, -3], [2, 8.0]]), np.zeros((2, 2))
    assert float(ssd.forward(pred, zero, np.array([[1, 1], [1, 0.0]]))) == (0.125 + 2.5 + 1.5) / 2


# --- resizing


def test_interp_by_hand():
    x = np.array([[[[0.0, 3, 6], [30, 33, 36]]]])
    one = OneLayer("type: 'Interp' interp_param { height: 3 width: 4 }", x.shape)
    np.testing.assert_allclose(one.forward(x)[0, 0], [[0, 2, 4, 6], [15, 17, 19, 21], [30, 32, 34, 36]], 1e-12)
    crop = OneLayer("type: 'Interp' interp_param { zoom_factor: 3 pad_beg: -1 }", (1, 1, 3, 3))
    np.testing.assert_allclose(crop.forward(np.arange(9.0).reshape(1, 1, 3, 3))[0, 0, 0], [4, 4 + 1 / 3, 4 + 2 / 3, 5])
    single = OneLayer("type: 'Interp' interp_param { height: 2 width: 1 }", x.shape)
    np.testing.assert_array_equal(single.forward(x)[0, 0], [[0], [30]])


@pytest.mark.parametrize("params, size", [
    ("shrink_factor: 2", (4, 3)), ("zoom_factor: 2", (13, 9)), ("zoom_factor: 3 shrink_factor: 2", (10, 7)),
    ("shrink_factor: 4 pad_beg: -1 pad_end: -2", (1, 1)), ("height: 5 width: 6 pad_end: -1", (5, 6))])
def test_interp_sizes(params, size):
    assert OneLayer(f"type: 'Interp' interp_param {{ {params} }}", (1, 1, 7, 5)).top[0].shape[2:] == size


def test_interp_in_every_order_of_memory():
    x = distinct((2, 3, 5, 4))
    one = OneLayer("type: 'Interp' interp_param { height: 8 width: 3 }", x.shape)
    (r0, r1, v), (c0, c1, h) = (resize.bilinear_axis(0, *sizes, np.float64) for sizes in ((5, 8), (4, 3)))
    rows = (1 - v)[:, None] * x[:, :, r0] + v[:, None] * x[:, :, r1]
    for strided in in_orders(x):
        np.testing.assert_allclose(one.forward(strided), (1 - h) * rows[..., c0] + h * rows[..., c1], 1e-12)


def test_upsample_repeats_pixels():
    x = np.array([[[[1.0, 2], [3, 4]]]])
    one = OneLayer("type: 'Upsample' upsample_param { scale_h: 2 scale_w: 3 }", x.shape)
    assert one.forward(x)[0, 0].tolist() == [[1, 1, 1, 2, 2, 2]] * 2 + [[3, 3, 3, 4, 4, 4]] * 2
    assert one.backward(1.0)[0, 0].tolist() == [[6, 6], [6, 6]]


def test_segnets_upsample_puts_values_back_where_pooling_found_them():
    net = Net(parse_net("""
        layer { name: 'in' type: 'Input' top: 'x' input_param { shape { dim: 2 dim: 3 dim: 5 dim: 4 } } }
        layer { name: 'p' type: 'Pooling' bottom: 'x' top: 'p' top: 'mask'
                pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
        layer { name: 'u' type: 'Upsample' bottom: 'p' bottom: 'mask' top: 'u'
                upsample_param { scale: 2 pad_out_h: true } }"""), dtype=np.float64)
    x = distinct((2, 3, 5, 4), low=1)
    u = net.forward(x=x)["u"]
    assert u.shape == x.shape
    np.testing.assert_array_equal(u, np.where(np.isin(x, net.blobs["p"].data), x, 0))
    assert (u > 0).sum() == net.blobs["p"].count


# --- against OpenCV, which reads such nets too


RNG = np.random.default_rng(0)
ROIS = np.array([[0, 0, 0, 9, 7], [1, 1.5, 0.5, 20, 14], [0, 8, 6, 2, 1], [1, 30, 30, 40, 40]])
MAP = RNG.normal(size=(2, 8, 4, 6)).astype(np.float32)
CENTRE, SIDE = RNG.uniform(0.1, 0.9, (30, 2)), RNG.uniform(0.05, 0.4, (30, 2))
PRIOR = np.stack([np.hstack([CENTRE - SIDE / 2, CENTRE + SIDE / 2]), [[0.1, 0.1, 0.2, 0.2]] * 30])
SCORES = [RNG.normal(size=(2, 360)), RNG.uniform(size=(2, 90)), PRIOR.reshape(1, 2, 120)]


@pytest.mark.parametrize("kind, params, arrays", [
    ("Reorg", "reorg_param { stride: 2 }", [MAP]),
    ("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }", [MAP]),
    ("ShuffleChannel", "shuffle_channel_param { group: 4 }", [MAP]),
    ("Normalize", "norm_param { across_spatial: false channel_shared: false scale_filler { value: 3 } }", [MAP]),
    ("Interp", "interp_param { height: 7 width: 9 }", [MAP]),
    ("ROIPooling", "roi_pooling_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.7 }", [MAP, ROIS]),
    ("PSROIPooling", "psroi_pooling_param { output_dim: 2 group_size: 2 spatial_scale: 0.7 }", [MAP, ROIS]),
    ("PriorBox", "prior_box_param { min_size: 9 max_size: 20 aspect_ratio: 2 aspect_ratio: 3 clip: true offset: 0.4 "
     "variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 }", [MAP, np.zeros((1, 3, 40, 60))]),
    ("DetectionOutput", "detection_output_param { num_classes: 3 background_label_id: 0 share_location: false "
     "code_type: CENTER_SIZE nms_param { nms_threshold: 0.45 top_k: 20 eta: 0.9 } keep_top_k: 12 "
     "confidence_threshold: 0.3 }", SCORES),
], ids=lambda value: value if isinstance(value, str) and value.isalnum() else "")
def test_opencv_agrees(kind, params, arrays, tmp_path):
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "dnn") or not hasattr(cv2.dnn, "readNetFromCaffe"):
        pytest.skip("this OpenCV reads no nets of Caffe")
    inputs = {f"x{i}": np.asarray(array, np.float32) for i, array in enumerate(arrays)}
    text = "".join(f"input: '{name}' input_shape {{ {' '.join(f'dim: {d}' for d in array.shape)} }} "
                   for name, array in inputs.items())
    bottoms = " ".join(f"bottom: {name!r}" for name in inputs)
    text += f"layer {{ name: 'y' type: '{kind}' {bottoms} top: 'y' {params} }}"
    net = Net(parse_net(text))
    mine = net.forward(**inputs)["y"]
    net.save(str(tmp_path / "y.caffemodel"))
    (tmp_path / "y.prototxt").write_text(text)
    other = cv2.dnn.readNetFromCaffe(str(tmp_path / "y.prototxt"), str(tmp_path / "y.caffemodel"))
    for name, array in inputs.items():
        other.setInput(array, name)
    theirs = other.forward("y")
    if kind == "DetectionOutput":                       # OpenCV sorts by score
        mine, theirs = (table[0, 0][np.lexsort(table[0, 0].T[[3, 2, 1, 0]])] for table in (mine, theirs))
    np.testing.assert_allclose(mine, theirs, 1e-5, 1e-6)


# --- messages


PRIOR_BOX, DETECT = "type: 'PriorBox' prior_box_param", "type: 'DetectionOutput' detection_output_param"


@pytest.mark.parametrize("param, shapes, message", [
    ("type: 'Normalize'", [(3,)], "needs a bottom of N x C x ..., found shape 3"),
    ("type: 'Permute' permute_param { order: 1 order: 1 }", [(2, 3)], "permute_param names an axis twice: 1, 1"),
    ("type: 'Permute' permute_param { order: 4 }", [(2, 3)],
     "permute_param's order 4 names an axis that a bottom of 2 axes lacks"),
    ("type: 'Reorg' reorg_param { stride: 0 }", [(1, 4, 2, 2)], "reorg_param's stride must be at least 1, found 0"),
    ("type: 'Reorg'", [(4, 2)], "needs a bottom of N x C x H x W, found shape 4 x 2"),
    ("type: 'Reorg'", [(1, 6, 2, 2)], "the number of channels must be a multiple of stride^2 = 4, found 6"),
    ("type: 'Reorg'", [(1, 4, 3, 2)], "height and width must be multiples of stride 2, found 3 x 2"),
    ("type: 'ShuffleChannel' shuffle_channel_param { group: 2 }", [(1, 3)],
     "the number of channels (axis 1) must be a multiple of group 2, found shape 1 x 3"),
    ("type: 'Axpy'", [(2, 3), (2, 3, 1), (2, 3, 2)],
     "bottoms 1 and 2 must have one shape N x C x ..., found 2 x 3 x 1 and 2 x 3 x 2"),
    ("type: 'Axpy'", [(2, 1), (2, 3, 1), (2, 3, 1)],
     "bottom 0 must have one number for each of 2 x 3 channels, found shape 2 x 1"),
    ("type: 'ConvolutionDepthwise' convolution_param { num_output: 3 kernel_size: 1 group: 2 }", [(1, 3, 2, 2)],
     "group must be the number of channels, 3, or be left out; found 2"),
    ("type: 'SmoothL1Loss' smooth_l1_loss_param { sigma: 0 }", [(2, 3)] * 2,
     "smooth_l1_loss_param's sigma must be above 0, found 0"),
    ("type: 'SmoothL1Loss'", [(2, 3), (2, 2)], "bottoms must have one shape: bottom 0 is 2 x 3, bottom 1 is 2 x 2"),
    ("type: 'ROIPooling' roi_pooling_param { pooled_h: 3 }", [(1, 2, 3, 3), (1, 5)],
     "roi_pooling_param needs pooled_h and pooled_w, found 3 and 0"),
    ("type: 'ROIPooling' roi_pooling_param { pooled_h: 3 pooled_w: 3 }", [(1, 2, 3), (1, 5)],
     "bottom 0 must be a map of N x C x H x W, found shape 1 x 2 x 3"),
    ("type: 'ROIPooling' roi_pooling_param { pooled_h: 3 pooled_w: 3 }", [(1, 2, 3, 3), (1, 4)],
     "bottom 1 must be regions of R x 5 (image, x1, y1, x2, y2), found shape 1 x 4"),
    ("type: 'PSROIPooling'", [(1, 2, 3, 3), (1, 5)],
     "psroi_pooling_param needs output_dim, group_size and spatial_scale above 0, found 0, 0 and 0"),
    ("type: 'PSROIPooling' psroi_pooling_param { output_dim: 2 group_size: 3 spatial_scale: 1 }",
     [(1, 2, 3, 3), (1, 5)], "the map must have output_dim * group_size^2 = 18 channels, found 2"),
    ("type: 'Interp' interp_param { height: 2 width: 2 pad_beg: 1 }", [(1, 1, 3, 3)],
     "interp_param's pad_beg and pad_end must be 0 or negative (pixels cut off), found 1 and 0"),
    ("type: 'Interp' interp_param { height: 2 }", [(1, 1, 3, 3)],
     "interp_param needs height and width, both above 0, or neither; found 2 and 0"),
    ("type: 'Interp' interp_param { zoom_factor: 0 }", [(1, 1, 3, 3)],
     "interp_param's zoom_factor and shrink_factor must be at least 1, found 0 and 1"),
    ("type: 'Interp'", [(1, 1, 3, 3)], "interp_param needs height and width, or zoom_factor, or shrink_factor"),
    ("type: 'Interp' interp_param { zoom_factor: 2 pad_beg: -2 pad_end: -1 }", [(1, 1, 3, 3)],
     "pad_beg -2 and pad_end -1 leave nothing of a map of 3 x 3"),
    ("type: 'Upsample'", [(1, 1, 3, 3)], "upsample_param needs scale"),
    ("type: 'Upsample' upsample_param { scale: 2 scale_h: 2 scale_w: 2 }", [(1, 1, 3, 3)],
     "upsample_param takes either scale, or scale_h and scale_w, not both"),
    ("type: 'Upsample' upsample_param { scale: 0 }", [(1, 1, 3, 3)],
     "upsample_param's scale must be at least 1, found 0"),
    ("type: 'Upsample' upsample_param { upsample_h: 2 }", [(1, 1, 3, 3)],
     "upsample_param takes upsample_h and upsample_w together"),
    ("type: 'Upsample' upsample_param { scale: 2 pad_out_w: true }", [(1, 1, 3, 3)],
     "upsample_h, upsample_w, pad_out_h and pad_out_w need a second bottom, the places of the values"),
    ("type: 'Upsample'", [(1, 1, 3, 3), (1, 1, 3, 4)],
     "the values and their places must have one shape, found 1 x 1 x 3 x 3 and 1 x 1 x 3 x 4"),
    ("type: 'PriorBox'", [(1, 1, 3, 3)] * 2, "prior_box_param needs min_size, above 0; found none"),
    (f"{PRIOR_BOX} {{ min_size: 3 max_size: 2 }}", [(1, 1, 3, 3)] * 2,
     "prior_box_param needs no max_size, or a larger one for each min_size; found min_size 3 and max_size 2"),
    (f"{PRIOR_BOX} {{ min_size: 3 aspect_ratio: 0 }}", [(1, 1, 3, 3)] * 2,
     "prior_box_param's aspect_ratio must be above 0, found 0"),
    (f"{PRIOR_BOX} {{ min_size: 3 variance: 1 variance: 2 }}", [(1, 1, 3, 3)] * 2,
     "prior_box_param needs no, one or four variance, above 0; found 1, 2"),
    (f"{PRIOR_BOX} {{ min_size: 3 img_size: 9 img_h: 9 img_w: 9 }}", [(1, 1, 3, 3)] * 2,
     "prior_box_param takes either img_size, or img_h and img_w, not both"),
    (f"{PRIOR_BOX} {{ min_size: 3 step: 0 }}", [(1, 1, 3, 3)] * 2, "prior_box_param's step must be above 0, found 0"),
    (f"{PRIOR_BOX} {{ min_size: 3 }}", [(1, 1, 3, 3), (1, 3)], "bottom 1 must be N x C x H x W, found shape 1 x 3"),
    ("type: 'DetectionOutput'", [(1, 4), (1, 1), (1, 2, 4)], "detection_output_param needs num_classes, at least 1"),
    (f"{DETECT} {{ num_classes: 2 nms_param {{ eta: 0 }} }}", [(1, 4), (1, 2), (1, 2, 4)],
     "nms_param needs nms_threshold of at least 0 and 0 < eta <= 1, found 0.3 and 0"),
    (f"{DETECT} {{ num_classes: 2 }}", [(1, 4), (1, 2), (2, 4)],
     "bottom 2 must be priors of 1 x 2 x (P * 4), found shape 2 x 4"),
    (f"{DETECT} {{ num_classes: 2 }}", [(1, 4), (2, 2), (1, 2, 4)],
     "bottoms 0 and 1 must have one number of images, found shapes 1 x 4 and 2 x 2"),
    (f"{DETECT} {{ num_classes: 2 }}", [(1, 5), (1, 2), (1, 2, 4)],
     "bottom 0 must have 4 coordinates for each of 1 priors, found shape 1 x 5"),
    (f"{DETECT} {{ num_classes: 2 }}", [(1, 4), (1, 3), (1, 2, 4)],
     "bottom 1 must have 2 scores for each of 1 priors, found shape 1 x 3"),
])
def test_wrong_parameters_and_shapes(param, shapes, message):
    with pytest.raises(NetError) as error:
        OneLayer(param, *shapes)
    assert str(error.value) == message


@pytest.mark.parametrize("param, arrays, message", [
    ("type: 'ROIPooling' roi_pooling_param { pooled_h: 1 pooled_w: 1 }",
     [np.zeros((2, 1, 3, 3)), np.array([[0, 0, 0, 1, 1], [2, 0, 0, 1.5, 1]])],
     "region 1 is (2, 0, 0, 1.5, 1), but its image must be 0 to 1 and its corners finite"),
    ("type: 'Upsample'", [np.zeros((1, 1, 1, 2)), np.array([[[[0.0, 8]]]])],
     "place 8 is outside of the top of 2 x 4; give upsample_h and upsample_w the size of the map that was pooled"),
])
def test_wrong_values(param, arrays, message):
    with pytest.raises(NetError) as error:
        OneLayer(param, *[array.shape for array in arrays]).forward(*arrays)
    assert str(error.value) == message


@pytest.mark.parametrize("kind, forks", [
    ("MultiBoxLoss", "SSD, NVIDIA, Intel"), ("BN", "ParseNet, PSPNet, SegNet"), ("Proposal", "OpenCV"),
    ("SoftmaxWithLossOHEM", "Intel, R-FCN")])
def test_a_forks_type_says_whose_it_is_and_what_to_do(kind, forks):
    with pytest.raises(SppError) as error:
        layer_class(kind)
    assert str(error.value) == (
        f"layer type '{kind}' is not Caffe's but a fork's ({forks}), and is not here; write it as a Python layer: "
        f"type: 'Python' python_param {{ module: 'my_layers' layer: '{kind}' }}, and in my_layers.py beside the "
        f"prototxt a class {kind}(spp.layers.Layer) with setup, reshape, forward and backward")


def test_a_mistyped_type_names_the_nearest():
    with pytest.raises(SppError, match="^unknown layer type 'ROIPoolin'; did you mean 'ROIPooling'[?]$"):
        layer_class("ROIPoolin")
