"""A ReLU done in the pass of the layer before it leaves the same blobs."""
import os

import numpy as np
import pytest

from spp.fusion import Node, find_chains
from spp.layers import TRAIN
from spp.net import Net
from spp.proto.text import parse_net

# On a GPU cuDNN may take another engine where it is to add the bias, which it does without a ReLU only.
ROUNDING = 1e-5 if os.environ.get("SPP_TEST_DEVICE", "").startswith("cuda") else 0
FILL = "weight_filler { type: 'gaussian' std: 0.5 } bias_filler { type: 'uniform' min: -1 max: 1 }"
NET = f"""
layer {{ name: 'x' type: 'Input' top: 'x' top: 'label' input_param {{ shape {{ dim: 2 dim: 3 dim: 9 dim: 7 }}
  shape {{ dim: 2 }} }} }}
layer {{ name: 'conv' type: 'Convolution' bottom: 'x' top: 'conv' convolution_param {{ num_output: 6 kernel_size: 3
  {FILL} }} }}
layer {{ name: 'relu' type: 'ReLU' bottom: 'conv' top: 'conv' }}
layer {{ name: 'depth' type: 'DepthwiseConvolution' bottom: 'conv' top: 'depth' convolution_param {{ num_output: 6
  kernel_size: 2 bias_term: false {FILL.split(' bias_filler')[0]} }} }}
layer {{ name: 'relu_depth' type: 'ReLU' bottom: 'depth' top: 'depth' }}
layer {{ name: 'up' type: 'Deconvolution' bottom: 'depth' top: 'up' convolution_param {{ num_output: 4 kernel_size: 2
  stride: 2 {FILL} }} }}
layer {{ name: 'relu_up' type: 'ReLU' bottom: 'up' top: 'up' }}
layer {{ name: 'fc' type: 'InnerProduct' bottom: 'up' top: 'fc' inner_product_param {{ num_output: 8 {FILL} }} }}
layer {{ name: 'relu_fc' type: 'ReLU' bottom: 'fc' top: 'fc' }}
layer {{ name: 'scores' type: 'InnerProduct' bottom: 'fc' top: 'scores' inner_product_param {{ num_output: 5
  transpose: true {FILL} }} }}
layer {{ name: 'relu_scores' type: 'ReLU' bottom: 'scores' top: 'scores' }}
layer {{ name: 'loss' type: 'SoftmaxWithLoss' bottom: 'scores' bottom: 'label' top: 'loss' }}
"""
RELUS = ["relu", "relu_depth", "relu_up", "relu_fc", "relu_scores"]
X = np.random.default_rng(0).normal(size=(2, 3, 9, 7))


def build(text=NET, dtype=np.float32):
    net = Net(parse_net(text), TRAIN, seed=3, dtype=dtype)
    net.blobs["x"].data[...] = X
    return net


def relus_run(net):
    """Names of the ReLU layers whose own forward runs."""
    run = []

    def watch(layer):
        forward = layer.forward

        def forward_and_tell(bottom, top):
            run.append(layer.name)
            forward(bottom, top)

        layer.forward = forward_and_tell

    for layer in net.layers:
        if layer.type == "ReLU":
            watch(layer)
    return run


def assert_same(mine, theirs, name):
    np.testing.assert_allclose(mine, theirs, ROUNDING, ROUNDING * np.abs(theirs).max(), err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blobs_and_gradients_are_those_without_fusion(dtype):
    fused, plain = build(dtype=dtype), build(dtype=dtype)
    plain.before_forward.append(lambda index: None)      # a hook reads the blobs
    run = relus_run(fused)
    for net in (fused, plain):
        net.forward()
        net.clear_param_diffs()
        net.backward()
    assert run == []
    for name in fused.blobs:
        assert_same(fused.blobs[name].data, plain.blobs[name].data, name)
    for name, blobs in fused.params.items():
        for mine, theirs in zip(blobs, plain.params[name]):
            assert_same(mine.diff, theirs.diff, name)
            assert mine.diff.any()
    assert (fused.blobs["conv"].data == 0).any() and (fused.blobs["conv"].data > 0).any()


@pytest.mark.parametrize("hooks", ["before_forward", "after_forward"])
def test_nothing_is_fused_with_a_hook_between_the_layers(hooks):
    net = build()
    minima: dict[str, float] = {}
    run = relus_run(net)
    names = [layer.name for layer in net.layers]
    getattr(net, hooks).append(lambda i: minima.setdefault(names[i], net.blobs["conv"].data.min()))
    net.forward()
    assert run == RELUS
    assert minima["conv" if hooks == "after_forward" else "relu"] < 0
    assert minima["relu_fc"] == 0


def test_a_range_of_layers_that_ends_between_shows_what_lies_between():
    net = build()
    run = relus_run(net)
    net.forward_layers(0, 1)
    assert net.blobs["conv"].data.min() < 0 and run == []
    before = net.blobs["conv"].data.copy()
    net.forward_layers(2, len(net.layers) - 1)
    assert run == ["relu"]
    np.testing.assert_array_equal(net.blobs["conv"].data, np.maximum(before, 0))


def test_a_nan_stays_one():
    net = build()
    net.blobs["x"].data[0, 1, 4, 3] = np.nan
    net.forward_layers(0, 2)
    assert np.isnan(net.blobs["conv"].data[0, :, 3, 2]).all()
    assert not np.isnan(net.blobs["conv"].data[1]).any()


@pytest.mark.parametrize("between", [
    "layer { name: 'r' type: 'ReLU' bottom: 'a' top: 'a' relu_param { negative_slope: 0.25 } }",
    "layer { name: 'r' type: 'ReLU' bottom: 'a' top: 'b' }",
    "layer { name: 'r' type: 'TanH' bottom: 'a' top: 'a' }",
    "layer { name: 'd' type: 'Power' bottom: 'a' top: 'b' power_param { shift: -1 } } "
    "layer { name: 'r' type: 'ReLU' bottom: 'a' top: 'c' } ",
    "layer { name: 'd' type: 'Dropout' bottom: 'a' top: 'a' dropout_param { dropout_ratio: 0.5 } } "
    "layer { name: 'r' type: 'ReLU' bottom: 'a' top: 'a' } ",
])
def test_what_is_not_fused(between):
    net = Net(parse_net(f"""layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
        layer {{ name: 'a' type: 'InnerProduct' bottom: 'x' top: 'a' inner_product_param {{ num_output: 40 {FILL} }} }}
        {between}"""))
    run = relus_run(net)
    net.blobs["x"].data[...] = X[:, 0, 0, :3]
    net.forward_layers(0, 1)
    assert net.blobs["a"].data.min() < 0
    net.forward()
    assert run == [layer.name for layer in net.layers if layer.type == "ReLU"]


def test_the_pass():
    def step(bottom, top, kind="", *fuses):
        return Node([*bottom], [*top], kind, fuses)

    assert find_chains([
        step("x", "a", "", "relu"), step("a", "a", "relu"), step("a", "a", "relu"),
        step("a", "b", "", "relu"), step("b", "b"), step("b", "b", "relu"),
        step("bx", "cd", "", "relu"), step("c", "c", "relu"),
        step("c", "e", "", "relu"), step("d", "d", "relu"),
        step("c", "f", "", "relu")]) == {0: [1]}
    both = "relu", "affine"
    assert find_chains([
        step("x", "a", "", *both), step("a", "a", "affine"), step("a", "a", "affine"), step("a", "a", "relu"),
        step("a", "a", "affine"),
        step("a", "b", "", "relu"), step("b", "b", "affine", "relu"), step("b", "b", "relu"),
        step("b", "c", "", "affine"), step("c", "c", "affine"), step("c", "c", "relu"),
        step("c", "d", "affine", *both), step("d", "d", "affine")]) == {0: [1, 2, 3], 6: [7], 8: [9], 11: [12]}
    every = *both, "scale"
    assert find_chains([
        step("x", "a", "", *every), step("a", "a", "scale"), step("a", "a", "affine"), step("a", "a", "relu"),
        step("a", "b", "", *every), step("b", "b", "scale"), step("b", "b", "scale"), step("b", "b", "relu"),
        step("b", "c", "", *every), step("c", "c", "affine"), step("c", "c", "scale"),
        step("c", "d", "", *every), step("d", "d", "scale"), step("d", "d", "relu"), step("d", "d", "scale"),
        step("d", "e", "", *both), step("e", "e", "scale")]) == {0: [1], 4: [5], 8: [9], 11: [12, 13]}
