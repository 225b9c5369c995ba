"""Inference: batch normalisation, Scale and Bias in the pass of the layer before them."""
import os
import subprocess
import sys

import numpy as np
import pytest

from folders import ROOT
from calls import record_calls
from spp import backend
from spp.layers import TEST, TRAIN
from spp.net import Net
from spp.ops.affine import Affine
from spp.proto.text import parse_net

FILL = "weight_filler { type: 'gaussian' std: 0.5 }"
FILLS = f"{FILL} bias_filler {{ type: 'uniform' min: -1 max: 1 }}"


def place(kind, blob, text=""):
    return f"layer {{ name: '{blob}_{kind.lower()}' type: '{kind}' bottom: '{blob}' top: '{blob}' {text} }}\n"


def bn_scale_relu(blob):
    return (place("BatchNorm", blob, "batch_norm_param { eps: 0.01 }")
            + place("Scale", blob, "scale_param { bias_term: true }") + place("ReLU", blob))


NET = f"""
layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: 2 dim: 6 dim: 9 dim: 11 }} }} }}
layer {{ name: 'a' type: 'Convolution' bottom: 'x' top: 'a' convolution_param {{ num_output: 40 kernel_size: 3 {FILLS}
}} }} {bn_scale_relu('a')}
layer {{ name: 'b' type: 'Convolution' bottom: 'a' top: 'b' convolution_param {{ num_output: 40 kernel_size: 3 pad: 1
bias_term: false {FILL} }} }} {place('BatchNorm', 'b', 'batch_norm_param { scale_bias: true }')} {place('ReLU', 'b')}
layer {{ name: 'c' type: 'DepthwiseConvolution' bottom: 'b' top: 'c' convolution_param {{ num_output: 40 kernel_size: 3
pad: 1 {FILLS} }} }} {place('Bias', 'c')} {place('Scale', 'c')} {place('BatchNorm', 'c')}
layer {{ name: 'sum' type: 'Eltwise' bottom: 'a' bottom: 'c' top: 'sum' eltwise_param {{ coeff: -0.5 coeff: 2 }} }}
{place('ReLU', 'sum')}
layer {{ name: 'bn' type: 'BatchNorm' bottom: 'sum' top: 'bn' }} {place('Scale', 'bn')} {place('ReLU', 'bn')}
layer {{ name: 'scale' type: 'Scale' bottom: 'bn' top: 'scale' scale_param {{ axis: 0 num_axes: 0 }} }}
{place('ReLU', 'scale')}
layer {{ name: 'up' type: 'Deconvolution' bottom: 'scale' top: 'up' convolution_param {{ num_output: 4 kernel_size: 2
stride: 2 {FILLS} }} }} {bn_scale_relu('up')}
layer {{ name: 'deep' type: 'Reshape' bottom: 'up' top: 'deep' reshape_param {{ shape {{ dim: 2 dim: 2 dim: 2 dim: 14
dim: 18 }} }} }}
layer {{ name: 'cube' type: 'Convolution' bottom: 'deep' top: 'cube' convolution_param {{ num_output: 3 kernel_size: 2
{FILLS} }} }} {bn_scale_relu('cube')}
"""
# layers whose own forward runs
ALONE = ["x", "a", "a_a_relu_0_split", "b", "c", "sum", "bn", "scale", "up", "deep", "cube"]


def build(text=NET, phase=TEST, dtype=np.float32, **how):
    net = Net(parse_net(text), phase, dtype=dtype, seed=3, **how)
    rng = np.random.default_rng(1)
    for layer in net.layers:
        if layer.type in ("BatchNorm", "Scale", "Bias"):
            for i, blob in enumerate(layer.blobs):
                positive = layer.type == "BatchNorm" and i in (1, 2) or blob.shape == ()
                blob.data[...] = rng.uniform(1 if positive else -2, 3, blob.shape)
    net.blobs["x"].data[...] = rng.normal(size=net.blobs["x"].shape)
    return net


def forwards(net):
    """Names of the layers whose own forward runs."""
    return record_calls(net, "forward")


@pytest.mark.parametrize("dtype, rtol", [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("reuse_memory", [False, True])
def test_the_blobs_are_those_without_fusion(dtype, rtol, reuse_memory):
    fused, plain = build(dtype=dtype, reuse_memory=reuse_memory, keep=["a", *ALONE[3:]]), build(dtype=dtype)
    plain.before_forward.append(lambda index: None)      # a hook reads the blobs
    run = forwards(fused)
    for net in (fused, plain):
        net.forward()
    assert run == ALONE
    for name in fused.blobs:
        mine, theirs = fused.blobs[name].data, plain.blobs[name].data
        assert theirs.std() > 0.1 and np.isfinite(theirs).all()
        np.testing.assert_allclose(mine, theirs, rtol, rtol * np.abs(theirs).max(), err_msg=name)


def test_parameters_are_looked_at_in_every_forward():
    net, other = build(), build()
    for n in (net, other):
        n.forward()
        n.params["a_scale"][1].data[3] += 100
        n.params["b_batchnorm"][0].data[...] *= -1
    net.forward()
    other.before_forward.append(lambda index: None)
    other.forward()
    np.testing.assert_allclose(net.blobs["cube"].data, other.blobs["cube"].data, 1e-4, 1e-3)


def test_a_range_that_ends_inside_a_chain_shows_what_lies_between():
    net, other = build(), build()
    names = [layer.name for layer in net.layers]
    other.before_forward.append(lambda index: None)
    for last in ("a", "a_batchnorm", "a_scale", "a_relu"):
        for n in (net, other):
            n.forward_layers(0, names.index(last))
        np.testing.assert_allclose(net.blobs["a"].data, other.blobs["a"].data, 1e-5, 1e-5)


def test_nan_stays():
    net = build()
    net.blobs["x"].data[0, 1, 4, 3] = np.nan
    net.forward_layers(0, 4)
    assert np.isnan(net.blobs["a"].data[0, :, 3, 2]).all() and not np.isnan(net.blobs["a"].data[1]).any()


LOSS = "layer { name: 'l' type: 'Reduction' bottom: 'a' top: 'l' loss_weight: 1 }"


@pytest.mark.parametrize("phase, text, alone", [
    (TRAIN, LOSS, ["a", "a_batchnorm"]), (TEST, LOSS, ["a", "a_batchnorm"]),
    (TEST, "force_backward: true", ["a", "a_batchnorm"]), (TRAIN, "", ["a", "a_batchnorm"]), (TEST, "", ["a"])])
def test_what_goes_backward_is_not_fused_into_the_convolution(phase, text, alone):
    net = build(NET.partition("layer { name: 'b'")[0] + text, phase)
    run = forwards(net)
    net.forward()
    assert [name for name in run if name.startswith("a")] == alone


@pytest.mark.parametrize("between", [
    "scale_param { axis: 2 }", "scale_param { axis: 0 num_axes: 0 }", "scale_param { axis: 1 num_axes: 2 }"])
def test_a_scale_along_other_axes_is_not_fused(between):
    net = build(NET.partition("layer { name: 'b'")[0].replace("scale_param { bias_term: true }", between))
    run = forwards(net)
    net.forward()
    assert run == ["x", "a", "a_scale"]


def test_maps_after_each_other():
    x, first, second = np.float64(7), Affine(2, 3, 5), Affine(-1, 0.5, 4)
    both = first.then(second)
    assert (x - both.shift) * both.scale + both.bias == ((x - 2) * 3 + 5 + 1) * 0.5 + 4


@pytest.mark.skipif(backend.EXACT, reason="SPP_EXACT=1 is set: nothing is fused")
def test_the_exact_switch_turns_it_off():
    code = ("import sys; sys.path[:0] = ['tests/engine', 'tests/support']; import test_affine_fusion as t; "
            "net = t.build(); run = t.forwards(net); net.forward(); print(*run)")
    process = subprocess.run([sys.executable, "-c", code], env={**os.environ, "SPP_EXACT": "1"}, capture_output=True,
                             text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    assert {"a_batchnorm", "a_scale", "c_bias", "bn_scale"} <= set(process.stdout.split())
    assert "sum_relu" not in process.stdout
