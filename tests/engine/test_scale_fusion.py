"""Training: a batch normalisation and the Scale after it in one pass, forward and backward."""
import numpy as np
import pytest

from calls import record_calls
from spp.layers import TEST, TRAIN
from spp.net import Net
from spp.proto.text import parse_net

FILL = "weight_filler { type: 'gaussian' std: 0.5 }"
STATS = "param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 }"
NET = f"""
layer {{ name: 'x' type: 'Input' top: 'x' top: 'label' input_param {{ shape {{ dim: 5 dim: 3 dim: 7 dim: 6 }}
  shape {{ dim: 5 }} }} }}
layer {{ name: 'a' type: 'Convolution' bottom: 'x' top: 'a' convolution_param {{ num_output: 6 kernel_size: 3
  bias_term: false {FILL} }} }}
layer {{ name: 'a_bn' type: 'BatchNorm' bottom: 'a' top: 'a' {STATS} }}
layer {{ name: 'a_scale' type: 'Scale' bottom: 'a' top: 'a' scale_param {{ bias_term: true }} }}
layer {{ name: 'a_relu' type: 'ReLU' bottom: 'a' top: 'a' }}
layer {{ name: 'b_bn' type: 'BatchNorm' bottom: 'a' top: 'b' {STATS} }}
layer {{ name: 'b_scale' type: 'Scale' bottom: 'b' top: 'b' }}
layer {{ name: 'c' type: 'Convolution' bottom: 'b' top: 'c' convolution_param {{ num_output: 4 kernel_size: 3 {FILL} }}
}}
layer {{ name: 'c_bn' type: 'BatchNorm' bottom: 'c' top: 'c' {STATS} batch_norm_param {{ use_global_stats: true }} }}
layer {{ name: 'c_scale' type: 'Scale' bottom: 'c' top: 'c' param {{ lr_mult: 0 }} param {{ lr_mult: 1 }}
  scale_param {{ bias_term: true }} }}
layer {{ name: 'c_relu' type: 'ReLU' bottom: 'c' top: 'c' }}
layer {{ name: 'd_bn' type: 'BatchNorm' bottom: 'c' top: 'd' {STATS} }}
layer {{ name: 'd_scale' type: 'Scale' bottom: 'd' top: 'd' }}
layer {{ name: 'd_bias' type: 'Bias' bottom: 'd' top: 'd' }}
layer {{ name: 'd_scale2' type: 'Scale' bottom: 'd' top: 'd' }}
layer {{ name: 'd_relu' type: 'ReLU' bottom: 'd' top: 'd' }}
layer {{ name: 'e_bn' type: 'BatchNorm' bottom: 'd' top: 'e' batch_norm_param {{ scale_bias: true }} }}
layer {{ name: 'e_relu' type: 'ReLU' bottom: 'e' top: 'e' }}
layer {{ name: 'scores' type: 'InnerProduct' bottom: 'e' top: 'scores' inner_product_param {{ num_output: 4 {FILL}
}} }}
layer {{ name: 'loss' type: 'SoftmaxWithLoss' bottom: 'scores' bottom: 'label' top: 'loss' }}
"""
# done by the layer before
FUSED = {"a_scale", "a_relu", "b_scale", "c_scale", "c_relu", "d_scale", "d_relu", "e_relu"}
HOOKS = ["before_forward", "after_forward", "before_backward", "after_backward"]


def build(dtype=np.float64, phase=TRAIN, text=NET, watched=()):
    net = Net(parse_net(text), phase, dtype=dtype, seed=3)
    rng = np.random.default_rng(1)
    for layer in net.layers:
        for i, blob in enumerate(layer.blobs if layer.type in ("BatchNorm", "Scale", "Bias") else ()):
            blob.data[...] = rng.uniform(1 if layer.type == "BatchNorm" and i else -2, 3, blob.shape)
    net.blobs["x"].data[...] = rng.normal(size=net.blobs["x"].shape)
    net.blobs["label"].data[...] = [0, 3, 1, 2, 2]
    for name in watched:
        getattr(net, name).append(lambda index: None)
    return net


def step(net, backward=None):
    net.forward()
    net.clear_param_diffs()
    if backward:
        net.set_loss_diffs()
        backward(net)
    else:
        net.backward()


def assert_same(net, plain, rtol):
    for name in net.blobs:
        theirs = plain.blobs[name].data
        np.testing.assert_allclose(net.blobs[name].data, theirs, rtol, rtol * np.abs(theirs).max(), err_msg=name)
    for name, blobs in net.params.items():
        for i, (mine, theirs) in enumerate(zip(blobs, plain.params[name])):
            at = f"{name} {i}"
            np.testing.assert_allclose(mine.data, theirs.data, rtol, rtol, err_msg=at)
            learns = not name.endswith("_bn") and at != "c_scale 0" or at in ("e_bn 3", "e_bn 4")
            assert bool(theirs.diff.any()) == learns, at
            # d_scale2 scales what e_bn normalises: its gradient is what rounding leaves
            atol = rtol * max(0.1, np.abs(theirs.diff).max())
            np.testing.assert_allclose(mine.diff, theirs.diff, rtol, atol, err_msg=at)


@pytest.mark.parametrize("dtype, rtol", [(np.float64, 1e-11), (np.float32, 3e-5)])
@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_values_and_gradients_are_those_without_fusion(phase, dtype, rtol):
    net, plain = build(dtype, phase), build(dtype, phase, watched=HOOKS)
    forwards, backwards = record_calls(net, "forward"), record_calls(net, "backward")
    for _ in range(2):
        step(net)
        step(plain)
    names = {layer.name for layer in net.layers}
    assert names - set(forwards) == FUSED
    assert names - set(backwards) == {"x", *(name for name in FUSED if name.endswith("scale"))}
    assert_same(net, plain, rtol)


@pytest.mark.parametrize("hook", HOOKS[2:])
def test_who_looks_at_backward_alone_sees_every_gradient(hook):
    net, plain, records = build(), build(watched=HOOKS), []
    for n in (net, plain):
        getattr(n, hook).append(
            lambda index, n=n: records.append((n is net, index, n.context.backend.to_host(n.blobs["d"].diff).copy())))
        step(n)
    mine = [(index, diff) for is_net, index, diff in records if is_net]
    theirs = [(index, diff) for is_net, index, diff in records if not is_net]
    assert len(mine) == len(net.layers)
    for (i, a), (j, b) in zip(mine, theirs):
        assert i == j
        np.testing.assert_allclose(a, b, 1e-10, 1e-12)
    assert_same(net, plain, 1e-11)


def test_backward_in_parts_at_every_layer():
    plain = build(watched=HOOKS)
    step(plain)
    for split in range(1, len(plain.layers)):
        net = build()

        def in_parts(net, split=split):
            net.backward_layers(len(net.layers) - 1, split)
            net.backward_layers(split - 1, 0)

        step(net, in_parts)
        assert_same(net, plain, 1e-11)
        assert net.blobs["a"].diff.any()
        np.testing.assert_allclose(net.blobs["a"].diff, plain.blobs["a"].diff, 1e-10, 1e-12)


def test_forward_with_and_without_hooks_in_turn():
    net, plain = build(), build(watched=HOOKS)
    for watched in (False, True, False, True):
        net.before_forward[:] = [lambda index: None] if watched else []
        step(net)
        step(plain)
        assert_same(net, plain, 1e-11)


def test_a_batch_normalization_that_needs_no_gradient_is_not_fused():
    text = NET.replace("name: 'a' type: 'Convolution' bottom: 'x' top: 'a'",
                       "name: 'a' type: 'Convolution' bottom: 'x' top: 'a' param { lr_mult: 0 }")
    net, plain = build(text=text), build(text=text, watched=HOOKS)
    forwards = record_calls(net, "forward")
    step(net)
    step(plain)
    assert "a_scale" in forwards and "b_scale" not in forwards
    for name in ("a_scale", "b_scale", "c"):
        np.testing.assert_allclose(net.params[name][0].diff, plain.params[name][0].diff, 1e-11, 1e-12)
    assert not net.params["a"][0].diff.any()


def test_an_input_of_no_images():
    net = build()
    net.forward(x=np.empty((0, 3, 7, 6)), label=np.empty(0))
    net.backward()
    assert net.blobs["b"].data.shape == (0, 6, 5, 4)
