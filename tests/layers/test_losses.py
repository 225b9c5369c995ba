"""Losses by hand: values, gradients, loss weights, every normalisation; and the message of all that is wrong."""
import itertools
import math

import numpy as np
import pytest

from spp.errors import NetError, ProtoError
from spp.net import Net
from spp.proto import arrays, binary
from spp.proto.text import parse_net
from spp.testing import check_gradients

LN2, LN3 = math.log(2), math.log(3)


def run(layer, *values, top="top: 'loss'"):
    """A net of this one layer, in float64, after a forward and a backward; x0, x1 ... are the bottoms."""
    bottoms = [np.asarray(bottom, float) for bottom in values]
    shapes = "".join("shape { %s } " % " ".join(f"dim: {size}" for size in bottom.shape) for bottom in bottoms)
    names = [f"x{i}" for i in range(len(bottoms))]
    net = Net(parse_net("force_backward: true layer { name: 'in' type: 'Input' "
                        + " ".join(f"top: '{name}'" for name in names) + f" input_param {{ {shapes} }} }} layer {{ "
                        "name: 'l' " + " ".join(f"bottom: '{name}'" for name in names) + f" {top} {layer} }}"),
              dtype=np.float64)
    net.forward(**dict(zip(names, bottoms)))
    net.backward()
    return net


def check(net, loss, *diffs):
    """Hold a net to its loss blob and the gradients of the first bottoms; the others have none."""
    np.testing.assert_allclose(net.blobs["loss"].data, loss, 1e-12)
    for i, expected in itertools.zip_longest(range(len(net.inputs)), diffs):
        if expected is None:
            assert not net.blobs[f"x{i}"].has_diff
        else:
            np.testing.assert_allclose(net.blobs[f"x{i}"].diff, expected, 1e-12, 1e-15)


# --- values and gradients

A, B = np.array([[1, 2], [3, 5]]), np.array([[0, 4], [3, 1]])


def test_euclidean_divides_by_items_and_reaches_both_bottoms():
    gradient = (A - B) / 2
    check(run("type: 'EuclideanLoss'", A, B), (1 + 4 + 0 + 16) / 4, gradient, -gradient)
    weighted = run("type: 'EuclideanLoss' loss_weight: 3", A, B)
    check(weighted, 21 / 4, 3 * gradient, -3 * gradient)
    assert weighted.loss == 63 / 4 and weighted.blobs["loss"].diff == 3


def test_euclidean_compares_in_caffes_order():
    a = np.arange(24).reshape(2, 3, 2, 2)          # is channels-last in memory
    b = np.arange(24).reshape(2, 12)
    check(run("type: 'EuclideanLoss'", a, b), 0, np.zeros(a.shape), np.zeros(b.shape))
    b[1, 4] += 2
    expected = np.zeros(a.shape)
    expected[1, 1, 0, 0] = -1
    check(run("type: 'EuclideanLoss'", a, b), 1, expected, -expected.reshape(b.shape))


def test_euclidean_between_two_learning_branches():
    ip = ("layer {{ name: '{0}' type: 'InnerProduct' bottom: 'x' top: '{0}' inner_product_param {{ num_output: 1 "
          "bias_term: false weight_filler {{ value: {1} }} }} }} ")
    net = Net(parse_net("layer { name: 'in' type: 'Input' top: 'x' input_param { shape { dim: 2 dim: 1 } } } "
                        + ip.format("p", 2) + ip.format("q", 5)
                        + "layer { name: 'l' type: 'EuclideanLoss' bottom: 'p' bottom: 'q' top: 'loss' }"))
    net.forward(x=np.array([[1], [3]]))
    net.backward()
    assert net.loss == (9 + 81) / 4
    assert net.params["p"][0].diff == -(3 + 27) / 2 and net.params["q"][0].diff == (3 + 27) / 2


SCORES = np.array([[0.5, -2, 0.25], [1.5, 0, -1]])


def test_hinge():
    #   margins:  0.5  0  1.25      signs:  +  -  -
    #             2.5  1  2                 -  -  +
    check(run("type: 'HingeLoss'", SCORES, [0, 2]), 7.25 / 2, [[-0.5, 0, 0.5], [0.5, 0.5, -0.5]])
    check(run("type: 'HingeLoss' hinge_loss_param { norm: L2 } loss_weight: 2", SCORES, [0, 2]),
          (0.25 + 1.5625 + 6.25 + 1 + 4) / 2, [[-1, 0, 2.5], [5, 2, -4]])


def test_the_classes_of_an_item_lie_in_caffes_order():
    scores = np.zeros((1, 2, 2, 2))
    scores[0, 1, 0, 1] = 0.75           # class 5
    probabilities = scores + 0.25 * (scores == 0)
    assert run("type: 'HingeLoss'", scores, [5]).blobs["loss"].data == 7.25
    check(run("type: 'MultinomialLogisticLoss'", probabilities, [5]), -math.log(0.75), (scores > 0) / -0.75)


def test_multinomial_logistic():
    prob = [[0.25, 0.5, 0.25], [0.125, 0.125, 0.75]]
    check(run("type: 'MultinomialLogisticLoss'", prob, [[1], [0]]), (LN2 + 3 * LN2) / 2, [[0, -1, 0], [-4, 0, 0]])
    check(run("type: 'MultinomialLogisticLoss' loss_weight: 0.5", [[0, 1]], [0]), 20 * math.log(10), [[-0.5e20, 0]])


PAIRS = (np.array([[0, 0], [3, 4], [1, 1]]), np.array([[1, 2], [0, 0], [1, 0]]))


def test_contrastive():
    gradient = np.array([[-1, -2], [-3 / 5.0001, -4 / 5.0001], [0, -5 / 1.0001]]) / 3
    layer = "type: 'ContrastiveLoss' contrastive_loss_param { margin: 6 }"
    check(run(layer, *PAIRS, [1, 0, 0]), (5 + 1 + 25) / 6, gradient, -gradient)
    check(run(layer, *PAIRS, [-2.9, 0.9, -0.9]), (5 + 1 + 25) / 6, gradient, -gradient)     # cut to integers
    check(run(layer + " loss_weight: 2", *(x.reshape(3, 1, 2, 1) for x in PAIRS), [[1], [0], [0]]), (5 + 1 + 25) / 6,
          2 * gradient.reshape(3, 1, 2, 1), -2 * gradient.reshape(3, 1, 2, 1))


def test_contrastive_legacy():
    gradient = np.array([[-1, -2], [0, 0], [0, -1]]) / 3
    check(run("type: 'ContrastiveLoss' contrastive_loss_param { margin: 6 legacy_version: true }", *PAIRS, [1, 0, 0]),
          (5 + 0 + 5) / 6, gradient, -gradient)


def test_contrastive_default_margin_and_equal_dissimilar_pair():
    check(run("type: 'ContrastiveLoss'", [[2, 2]], [[2, 2]], [0]), 0.5, [[0, 0]], [[0, 0]])
    check(run("type: 'ContrastiveLoss'", [[2, 2]], [[2, 3.5]], [0]), 0, [[0, 0]], [[0, 0]])


X, T = [[0, LN3], [-LN3, 0]], [[1, 1], [1, 0.5]]
EACH = np.array([[LN2, math.log(4 / 3)], [2 * LN2, LN2]])
SLOPE = np.array([[-0.5, -0.25], [-0.75, 0]])


def test_sigmoid_cross_entropy():
    check(run("type: 'SigmoidCrossEntropyLoss' loss_weight: 3", X, T), EACH.sum() / 2, 3 * SLOPE / 2)
    flat = run("type: 'SigmoidCrossEntropyLoss'", np.reshape(X, (2, 1, 2, 1)), T)
    check(flat, EACH.sum() / 2, SLOPE.reshape(2, 1, 2, 1) / 2)


def test_sigmoid_cross_entropy_does_not_overflow():
    net = run("type: 'SigmoidCrossEntropyLoss'", [[1000, -1000, 1000, -1000]], [[1, 0, 0, 1]])
    check(net, 2000, [[0, 0, 1, -1]])


def test_sigmoid_cross_entropy_keeps_nan():
    assert np.isnan(run("type: 'SigmoidCrossEntropyLoss'", X, [[1, math.nan], [0, 0]]).loss)


H = np.array([[1, 2], [3, 5]])
RAW = np.array([[LN3, 0], [0, LN3]])           # softmax: 3/4 1/4, 1/4 3/4
PROB = np.array([[0.75, 0.25], [0.25, 0.75]])
LOSS = -(1 * math.log(0.75) + 2 * math.log(0.25)) - (3 * math.log(0.25) + 5 * math.log(0.75))
GRADIENT = np.array([[0.75 * 3 - 1, 0.25 * 3 - 2], [0.25 * 8 - 3, 0.75 * 8 - 5]])


def test_infogain():
    check(run("type: 'InfogainLoss'", RAW, [0, 1], H), LOSS / 2, GRADIENT / 2)
    check(run("type: 'InfogainLoss' loss_weight: 4", RAW, [0, 1], H[None, None]), LOSS / 2, 2 * GRADIENT)


def test_infogain_with_the_matrix_of_a_file(tmp_path):
    path = str(tmp_path / "h.binaryproto")
    binary.write_binary(arrays.to_proto(H.astype(np.float32), legacy=True), path)
    layer = f"type: 'InfogainLoss' infogain_loss_param {{ source: '{path}' }}"
    check(run(layer, RAW, [0, 1]), LOSS / 2, GRADIENT / 2)
    check(run(layer, RAW, [0, 1], np.eye(2)), math.log(4 / 3), [[-0.125, 0.125], [0.125, -0.125]])    # the bottom wins


@pytest.mark.parametrize("weights", ["", "loss_weight: 1 loss_weight: 0"])
def test_infogain_with_two_tops(weights):
    net = run(f"type: 'InfogainLoss' {weights}", RAW, [0, 1], H, top="top: 'loss' top: 'prob'")
    check(net, LOSS / 2, GRADIENT / 2)
    np.testing.assert_allclose(net.blobs["prob"].data, PROB, 1e-12)
    assert net.outputs == ["loss", "prob"] and net.loss == net.blobs["loss"].data


@pytest.mark.parametrize("axis, shape, labels", [(1, (2, 3, 2, 2), (2, 2, 2)), (-1, (2, 4, 3), (2, 4))])
def test_infogain_with_an_identity_is_softmax_with_loss(axis, shape, labels):
    rng = np.random.default_rng(3)
    scores, classes = rng.normal(size=shape), rng.integers(0, 3, labels)
    info = run(f"type: 'InfogainLoss' infogain_loss_param {{ axis: {axis} }} loss_param {{ ignore_label: 1 }}", scores,
               classes, np.eye(3))
    plain = run(f"type: 'SoftmaxWithLoss' softmax_param {{ axis: {axis} }} loss_param {{ ignore_label: 1 }}", scores,
                classes)
    check(info, plain.blobs["loss"].data, plain.blobs["x0"].diff)


def test_infogain_of_a_probability_of_zero():
    assert run("type: 'InfogainLoss'", [[0, 2000]], [0], np.eye(2)).loss == pytest.approx(20 * math.log(10))


def test_an_unnamed_loss_counts():
    net = run("type: 'HingeLoss'", SCORES, [0, 2], top="")
    assert net.outputs == [] and net.loss == 3.625 and net.blobs["x0"].diff[0, 0] == -0.5


def test_losses_need_no_gradients_to_run_forward():
    net = run("type: 'HingeLoss'", SCORES, [0, 2])
    forward = Net(net.param, dtype=np.float64)
    forward.forward(x0=SCORES, x1=[0, 2])
    assert not forward.blobs["x0"].has_diff


@pytest.mark.parametrize("layer, bottoms", [
    ("ContrastiveLoss", (np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))), ("HingeLoss", (np.zeros((0, 2)), [])),
    ("EuclideanLoss", (np.zeros((0, 2)), np.zeros((0, 2)))), ("MultinomialLogisticLoss", (np.zeros((0, 2)), [])),
    ("SigmoidCrossEntropyLoss", (np.zeros((0, 2)), np.zeros((0, 2))))])
def test_no_items_no_loss(layer, bottoms):
    assert run(f"type: '{layer}'", *bottoms).loss == 0


# --- normalisation

MODES = [("normalization: FULL", 6), ("normalization: VALID", 4), ("normalization: BATCH_SIZE", 2),
         ("normalization: NONE", 1), ("normalize: true", 4), ("normalize: false", 2),
         ("normalization: FULL normalize: false", 6), ("normalization: PRE_FIXED pre_fixed_normalizer: 8", 8),
         ("", None)]


@pytest.mark.parametrize("mode, divisor", MODES, ids=lambda value: str(value))
@pytest.mark.parametrize("layer, default, bottoms", [
    ("SoftmaxWithLoss", 4, [(2, 4, 3)]), ("InfogainLoss", 4, [(2, 4, 3), (4, 4)]),
    ("SigmoidCrossEntropyLoss", 2, [(2, 3)])])
def test_normalization(layer, default, bottoms, mode, divisor):
    """2 items of 3 places each; two places are ignored."""
    rng = np.random.default_rng(1)
    scores, *matrix = (rng.random(shape) for shape in bottoms)
    labels = np.array([[1, 0, 2], [0, 2, 1]])
    text = "type: '%s' loss_param { ignore_label: 2 %s }"
    whole = run(text % (layer, "normalization: NONE"), scores, labels, *matrix)
    assert whole.loss > 1
    divisor = divisor or default
    check(run(text % (layer, mode), scores, labels, *matrix), whole.loss / divisor, whole.blobs["x0"].diff / divisor)


@pytest.mark.parametrize("layer, scores, labels", [
    ("SoftmaxWithLoss", RAW, [1, 1]), ("SigmoidCrossEntropyLoss", RAW, [[1, 1], [1, 1]])])
def test_with_all_ignored_loss_and_gradient_are_zero(layer, scores, labels):
    check(run(f"type: '{layer}' loss_param {{ ignore_label: 1 normalization: VALID }}", scores, labels), 0, 0 * scores)


def test_without_an_ignored_label_all_places_are_valid():
    check(run("type: 'SigmoidCrossEntropyLoss' loss_param { normalization: VALID }", X, T), EACH.sum() / 4, SLOPE / 4)


def test_an_ignored_target_is_cut_to_an_integer():
    net = run("type: 'SigmoidCrossEntropyLoss' loss_param { ignore_label: 0 }", X, T)      # 0.5 counts as 0
    check(net, EACH.ravel()[:3].sum() / 2, SLOPE * [[1, 1], [1, 0]] / 2)


def test_contrastive_gradient_up_to_caffes_nearness():
    rng = np.random.default_rng(4)
    net = run("type: 'ContrastiveLoss' contrastive_loss_param { margin: 5 }", rng.normal(size=(6, 3)),
              rng.normal(size=(6, 3)), [0, 1, 0, 0, 1, 0])
    assert check_gradients(net, {name: net.blobs[name] for name in ("x0", "x1")}, tolerance=2e-4) == 36


# --- errors

ERRORS = [
    ("HingeLoss", [(2, 3), (3,)], "the data and label should have the same first dimension: data is (2, 3), "
                                  "label is (3,)"),
    ("HingeLoss", [(2, 3), (2, 3)], "needs one label for each of the 2 items, found 6 in shape 2 x 3"),
    ("MultinomialLogisticLoss", [(2, 3), (2, 2)], "needs one label for each of the 2 items, found 4 in shape 2 x 2"),
    ("EuclideanLoss", [(2, 3), (2, 4)], "bottoms 0 and 1 must have as many elements as each other: found shapes 2 x 3 "
                                        "and 2 x 4"),
    ("EuclideanLoss", [(2, 3), (2, 3), (2,)], "takes exactly 2 bottom blob(s), found 3"),
    ("SigmoidCrossEntropyLoss", [(2, 3, 2), (2, 3)], "bottoms 0 and 1 must have as many elements as each other: found "
                                                     "shapes 2 x 3 x 2 and 2 x 3"),
    ("ContrastiveLoss", [(2, 3), (2, 3)], "takes exactly 3 bottom blob(s), found 2"),
    ("ContrastiveLoss", [(2, 3), (2, 1), (2,)], "bottoms 0 and 1 must have as many elements as each other: found "
                                                "shapes 2 x 3 and 2 x 1"),
    ("ContrastiveLoss", [(2, 3), (2, 3), ()], "needs one similarity for each of the 2 items, found 1 in shape ()"),
    ("InfogainLoss", [(2, 3), (2,)], "needs its infogain matrix, classes x classes: as bottom 2, or as a binaryproto "
                                     "file that infogain_loss_param's source names"),
    ("InfogainLoss", [(2, 3), (2,), (3, 4)], "the infogain matrix must be 3 x 3, one row and column a class; found "
                                             "shape 3 x 4"),
    ("InfogainLoss", [(2, 3, 2), (2, 3), (3, 3)], "needs one label for each prediction: scores 2 x 3 x 2 with class "
                                                  "axis 1 want 4 labels, the label blob is 2 x 3"),
]


@pytest.mark.parametrize("layer, shapes, message", ERRORS, ids=lambda value: str(value)[:40])
def test_what_is_wrong_with_the_shapes(layer, shapes, message):
    with pytest.raises(NetError) as error:
        run(f"type: '{layer}'", *(np.ones(shape) for shape in shapes))
    assert str(error.value) == f"layer 'l' ({layer}): {message}"


@pytest.mark.parametrize("layer, matrix", [("HingeLoss", []), ("MultinomialLogisticLoss", []), ("InfogainLoss", [H])])
@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_is_no_class(layer, matrix, label):
    with pytest.raises(NetError) as error:
        run(f"type: '{layer}'", PROB, [0, label], *matrix)
    assert str(error.value) == (
        f"layer 'l' ({layer}): label {label} is no class of the 2 that the scores have (0 to 1); check num_output of "
        "the last layer against the labels of the data")


def test_infogain_file_that_is_missing_or_of_another_number_of_classes(tmp_path):
    layer = "type: 'InfogainLoss' infogain_loss_param { source: '%s' }"
    path = str(tmp_path / "h.binaryproto")
    with pytest.raises(ProtoError) as missing:
        run(layer % path, RAW, [0, 1])
    assert str(missing.value) == f"layer 'l' (InfogainLoss): File not found: {path}; check the path"
    binary.write_binary(arrays.to_proto(np.eye(3, dtype=np.float32)), path)
    with pytest.raises(NetError) as error:
        run(layer % path, RAW, [0, 1])
    assert str(error.value) == ("layer 'l' (InfogainLoss): the infogain matrix must be 2 x 2, one row and column a "
                                "class; found shape 3 x 3")


def test_infogain_with_one_loss_weight_for_two_tops():
    with pytest.raises(NetError) as error:
        run("type: 'InfogainLoss' loss_weight: 1", RAW, [0, 1], H, top="top: 'loss' top: 'prob'")
    assert str(error.value) == ("layer 'l' (InfogainLoss): loss_weight must be unspecified, or specified once for "
                                "each of the 2 tops; found 1")
