"""Inference: convolutions write right into the top of the Concat that reads them."""
import numpy as np
import pytest

from spp.layers import TEST, TRAIN
from spp.net import Net
from spp.proto.text import parse_net

FILL = "weight_filler { type: 'gaussian' std: 0.3 } bias_filler { type: 'uniform' min: -1 max: 1 }"
INPUT = "layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: 2 dim: 5 dim: 9 dim: 7 } } }"
SHAPES = [(2, 5, 9, 7), (1, 5, 12, 15), (3, 5, 5, 6), (2, 5, 9, 7)]


def conv(name, bottom, outputs, kernel, pad=0, more="", relu=True):
    text = f"""layer {{ name: '{name}' type: 'Convolution' bottom: '{bottom}' top: '{name}' convolution_param {{
        num_output: {outputs} kernel_size: {kernel} pad: {pad} {FILL} {more} }} }}"""
    return text + (f"layer {{ name: 'relu_{name}' type: 'ReLU' bottom: '{name}' top: '{name}' }}" if relu else "")


def concat(top, *bottoms, param=""):
    read = " ".join(f"bottom: '{bottom}'" for bottom in bottoms)
    return f"layer {{ name: '{top}' type: 'Concat' {read} top: '{top}' {param} }}"


NET = "".join([INPUT, conv("s", "x", 8, 1), conv("a", "s", 6, 1), conv("b", "s", 33, 3, 1),
               conv("c", "s", 8, 5, 2, "group: 2", relu=False), conv("d", "s", 8, 3, 1, "group: 8"),
               concat("y", "a", "b", "c", "d"), conv("z", "y", 3, 3)])
PARTS = {"a": 0, "b": 6, "c": 39, "d": 47}


def build(text=NET, phase=TEST, watched=False, **how):
    net = Net(parse_net(text), phase, seed=4, device="cpu", **how)     # on a GPU blobs are in C order: Concat copies
    if watched:
        net.before_forward.append(lambda index: None)
    return net


def filled(shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def lies_in(net, blob, top):
    return net.blobs[blob].memory is net.blobs[top].memory


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("how", [{}, {"reuse_memory": True, "keep": ["y", "a"]}], ids=["plain", "reuse_memory"])
def test_values_at_every_size(dtype, how, watched):
    net, training = build(dtype=dtype, watched=watched, **how), build("force_backward: true " + NET, dtype=dtype)
    assert all(lies_in(net, name, "y") for name in PARTS) and not lies_in(training, "a", "y")
    for shape in SHAPES:
        for n in (net, training):
            n.forward(x=filled(shape))
        for name in ("a", "y", "z") if how else net.blobs:
            mine, theirs = net.blobs[name].data, training.blobs[name].data
            assert mine.shape == theirs.shape and theirs.std() > 0.1
            np.testing.assert_allclose(mine, theirs, 1e-5, 1e-5, err_msg=name)
        for name, first in PARTS.items() if not how else ():
            part = net.blobs["y"].data[:, first:first + net.blobs[name].shape[1]]
            np.testing.assert_array_equal(part, net.blobs[name].data)


def test_what_a_user_writes_is_what_the_concat_hands_on():
    net = build()
    net.forward(x=filled(SHAPES[0]))
    b, names = net.blobs["b"].data, [layer.name for layer in net.layers]
    others = net.blobs["y"].data[:, 39:].copy()
    b[...] = 7
    net.forward_layers(names.index("y"), len(names) - 1)
    assert (net.blobs["y"].data[:, 6:39] == 7).all() and net.blobs["b"].data is b
    np.testing.assert_array_equal(net.blobs["y"].data[:, 39:], others)


def test_no_images():
    net = build()
    net.forward(x=np.empty((0, 5, 9, 7), np.float32))
    assert net.blobs["b"].data.shape == (0, 33, 9, 7) and net.blobs["y"].data.shape == (0, 55, 9, 7)


def test_memory_is_taken_once():
    net = build()
    net.forward(x=filled(SHAPES[0]))
    assert net.blobs["y"].memory.flat.size == net.blobs["y"].count
    assert not net.blobs["b"].caffe_order and net.blobs["b"].shared


@pytest.mark.parametrize("text, top", [
    ("".join([conv("a", "x", 4, 1), conv("b", "x", 4, 1), concat("y", "a", "b"), conv("z", "a", 2, 1)]), "y"),
    ("".join([conv("a", "x", 4, 1), concat("y", "a", "x")]), "y"),
    ("".join([conv("a", "x", 4, 1), conv("b", "x", 4, 1), concat("y", "a", "b", param="concat_param { axis: 0 }")]),
     "y"),
    ("".join([conv("a", "x", 4, 1), conv("b", "x", 4, 1, relu=False),
              "layer { name: 'tanh' type: 'TanH' bottom: 'b' top: 'b' }", concat("y", "a", "b")]), "y"),
    ("".join([conv("a", "x", 4, 1), conv("b", "x", 4, 1), concat("y", "a", "b", "a")]), "y"),
    ("".join([conv("a", "x", 4, 1), concat("y", "a", "b"),
              "layer { name: 'l' type: 'Reduction' bottom: 'y' top: 'l' loss_weight: 1 }"]).replace(
                  "layer { name: 'y'", conv("b", "x", 4, 1) + "layer { name: 'y'"), "y"),
], ids=["another reader", "an input", "axis 0", "another layer in place", "twice", "backward"])
def test_what_is_copied(text, top):
    net = build(INPUT + text, TRAIN)
    parts = [layer.param.bottom for layer in net.layers if layer.type == "Concat"][0]
    assert not any(lies_in(net, name, top) for name in parts)
    net.forward(x=filled(SHAPES[0]))
    axis = 0 if "axis: 0" in text else 1
    np.testing.assert_array_equal(net.blobs[top].data, np.concatenate([net.blobs[name].data for name in parts], axis))


def test_a_concat_of_concats():
    net = build("".join([INPUT, conv("a", "x", 4, 1), conv("b", "x", 3, 1), concat("ab", "a", "b"),
                         conv("c", "x", 2, 1), concat("y", "ab", "c")]))
    assert lies_in(net, "a", "ab") and not lies_in(net, "ab", "y")
    net.forward(x=filled(SHAPES[1]))
    np.testing.assert_array_equal(net.blobs["y"].data,
                                  np.concatenate([net.blobs[name].data for name in "abc"], 1))
