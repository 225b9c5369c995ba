"""In steady state a net allocates nothing: forward, backward and update ask for no more than a few small objects."""
import tracemalloc
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from allocations import SMALL, most_allocated
from public_nets import CASES, Text, dims, resnet18, zf5_spp
from spp.layers import TEST, TRAIN
from spp.net import Net
from spp.proto.caffe_pb2 import SolverParameter
from spp.proto.text import parse_net
from spp.solver import Solver

BATCH = 4


def test_the_counter_sees_a_temporary():
    array = np.ones(1 << 20, np.float32)
    assert most_allocated(lambda: (array * 2).sum()) >= array.nbytes
    assert most_allocated(lambda: np.multiply(array, 2, out=array)) < SMALL


def training(text):
    """The text of a net with probabilities `prob` as one that learns; its Solver."""
    text = text.replace("name: 'prob' type: 'Softmax'", "name: 'prob' type: 'SoftmaxWithLoss'").replace(
        "top: 'prob'", "bottom: 'label' top: 'prob'").replace("use_global_stats: true", "")
    label = f"layer {{ name: 'label' type: 'Input' top: 'label' input_param {{ {dims(BATCH)} }} }}"
    solver = Solver(SolverParameter(net_param=parse_net(label + text), base_lr=1e-3, lr_policy="fixed", momentum=0.9,
                                    weight_decay=1e-3, max_iter=10))
    net = solver.net
    net.blobs["data"].data[...] = np.random.default_rng(0).normal(size=net.blobs["data"].shape)
    net.blobs["label"].data[...] = range(BATCH)
    return solver


@pytest.mark.parametrize("make", [zf5_spp, resnet18])
def test_training(make):
    solver = training(make(batch=BATCH))
    assert max(blob.data.nbytes for blob in solver.net.blobs.values()) > 10 * SMALL
    assert most_allocated(lambda: solver.step(1)) < SMALL
    assert most_allocated(solver.apply_update) < SMALL


@pytest.mark.parametrize("reuse_memory", [False, True])
@pytest.mark.parametrize("make, shapes", CASES, ids=[make.__name__ for make, _ in CASES])
def test_inference(make, shapes, reuse_memory):
    net = Net(parse_net(make()), TEST, reuse_memory=reuse_memory)
    for name in net.inputs:
        net.blobs[name].data[...] = 1
    assert most_allocated(net.forward) < SMALL


def many_layers():
    """Layers that the public nets have not, with blobs of 1.2 MB."""
    net = Text("all sorts", 1, BATCH, 16, 64, 72)
    layers = [
        ("PReLU", ""), ("ELU", ""), ("Sigmoid", ""), ("TanH", ""), ("Swish", ""), ("BNLL", ""), ("AbsVal", ""),
        ("Power", "power_param { power: 2 scale: 0.5 shift: 3 }"), ("Exp", "exp_param { scale: 0.01 }"),
        ("Log", "log_param { shift: 1 }"), ("ReLU6", ""), ("Clip", "clip_param { min: 0.1 max: 5 }"),
        ("ReLU", "relu_param { negative_slope: 0.1 }"), ("Dropout", ""), ("Softmax", ""), ("BatchNorm", ""),
        ("Scale", "scale_param { bias_term: true }"), ("Bias", ""), ("MVN", ""),
        ("Reshape", "reshape_param { shape { dim: 0 dim: 0 dim: -1 dim: 72 } }"),
        ("Split", ""), ("Deconvolution", "convolution_param { num_output: 16 kernel_size: 1 group: 16 }"),
    ]
    x = "data"
    for kind, body in layers:
        x = net.layer(kind, kind.lower(), [x], body)
    for operation in ("SUM", "PROD", "MAX"):
        coefficients = "coeff: 1 coeff: -0.5" if operation == "SUM" else ""
        x = net.layer("Eltwise", operation, [x, "data"], f"eltwise_param {{ operation: {operation} {coefficients} }}")
    x = net.layer("Concat", "concat", [x, "data"])
    net.lines.append("layer { name: 'slice' type: 'Slice' bottom: 'concat' top: 'one' top: 'two' }")
    x = net.layer("Eltwise", "joined", ["one", "two"])
    x = net.pool("average", x, "pool: AVE kernel_size: 3 stride: 2")
    return net.classify("scores", x)


def test_all_sorts_of_layers():
    solver = training(many_layers())
    net = solver.net
    peaks: dict[str, list[int]] = defaultdict(list)
    base = 0

    def begin(index):
        nonlocal base
        base = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()

    def end(index):
        peaks[net.layers[index].type].append(tracemalloc.get_traced_memory()[1] - base)

    for _ in range(2):
        solver.step(1)
    for before, after in ((net.before_forward, net.after_forward), (net.before_backward, net.after_backward)):
        before.append(begin)
        after.append(end)
    tracemalloc.start()
    try:
        solver.step(1)
        peaks.clear()
        solver.step(1)
    finally:
        tracemalloc.stop()
    assert len(peaks) > 25
    assert {kind: sizes for kind, sizes in peaks.items() if max(sizes) >= SMALL} == {}


def test_an_inference_net_keeps_no_copies():
    """In place layers copy their input for the backward pass alone, and poolings keep where the maxima were."""
    text = """layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: 4 dim: 16 dim: 64 dim: 64 } } }
        layer { name: 'a' type: 'Power' bottom: 'x' top: 'a' }
        layer { name: 'b' type: 'Swish' bottom: 'a' top: 'a' }
        layer { name: 'c' type: 'Scale' bottom: 'a' top: 'a' }
        layer { name: 'p' type: 'Pooling' bottom: 'a' top: 'p' pooling_param { kernel_size: 2 } }"""
    for phase, force, copies in ((TEST, "", 0), (TRAIN, "", 0), (TRAIN, "force_backward: true ", 2)):
        net = Net(parse_net(force + text), phase)
        net.forward()
        layers: list[Any] = list(net.layers)
        assert sum(getattr(layer, "_copy", None) is not None for layer in layers) == copies
        assert (layers[-1].argmax.memory.flat is not None) == bool(copies)
