"""What a training step on a GPU waits for: the displayed loss, and nothing else. On emulated CuPy, which counts."""

import emulated_cupy
import numpy as np
import pytest
from emulated_cupy import memory

import cuda_cpu
from every_layer_rows import ROWS
from folders import PROTOTXT
from spp.data import datum
from spp.data.database import DatabaseWriter
from spp.layers import TEST
from spp.net import Net
from spp.proto import text
from spp.proto.text import parse_net, parse_solver
from spp.solver import Solver

pytestmark = pytest.mark.skipif(cuda_cpu.COMPILER is None, reason=cuda_cpu.MISSING)
ZF5 = str(PROTOTXT / "zf5_spp_train_val.prototxt")

# Layers whose forward waits for the GPU, and why; none waits in backward.
WAITING = {
    "Filter": "how many rows it picks is the size of its top",
    "DetectionOutput": "how many boxes it finds is the size of its top; its suppression runs on the host, after a net",
    "ROIPooling": "regions, which come from the host, are checked and laid out there",
    "PSROIPooling": "as ROIPooling",
    "Python": "users' layers are given NumPy arrays",
}


@pytest.fixture(scope="module", autouse=True)
def cupy():
    with emulated_cupy.installed() as module:
        yield module


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An LMDB of 6 colour images: an epoch of 3 batches."""
    path = str(tmp_path_factory.mktemp("waits") / "db")
    rng = np.random.default_rng(0)
    with DatabaseWriter(path) as writer:
        for i in range(6):
            writer.put(b"%08d" % i, datum.raw(rng.integers(0, 255, (90, 110, 3), np.uint8), i))
    return path


def zf5(images):
    """ZF-5 SPP as it is shipped, with an eighth of its maps, smaller images and batches of 2; its TEST layers go."""
    net = text.read_net(ZF5)
    layers = [layer for layer in net.layer if not any(rule.phase == TEST for rule in layer.include)]
    del net.layer[:]
    net.layer.extend(layers)
    data = net.layer[0]
    data.data_param.source, data.data_param.batch_size = images, 2
    data.transform_param.resize_short, data.transform_param.crop_size = 80, 72
    data.transform_param.ClearField("mean_file")
    data.transform_param.ClearField("mean_mode")
    assert list(data.transform_param.size_param.size) == [224, 180]
    del data.transform_param.size_param.size[:]
    data.transform_param.size_param.size.extend([72, 60])
    for layer in net.layer:
        for param in (layer.convolution_param, layer.inner_product_param):
            if param.num_output:
                param.num_output //= 8 if layer.type == "Convolution" else 50
    return net


def waits_of_steps(solver, count):
    waits = []
    for _ in range(count):
        before = memory.State.waits
        solver.step(1)
        waits.append(memory.State.waits - before)
    return waits


def test_a_step_of_zf5_spp_waits_for_its_displayed_loss_alone(images):
    param = parse_solver("base_lr: 0.01 lr_policy: 'fixed' momentum: 0.9 weight_decay: 0.0005 random_seed: 1 "
                         "max_iter: 50 display: 5 average_loss: 5")
    param.net_param.CopyFrom(zf5(images))
    with Solver(param, "cuda") as solver:
        types = {layer.type for layer in solver.net.layers}
        assert types >= {"Data", "Convolution", "ReLU", "LRN", "Pooling", "SPP", "InnerProduct", "Dropout",
                         "SoftmaxWithLoss"}
        sizes = set()
        for _ in range(2):      # an epoch at each size
            solver.step(3)
            sizes.add(solver.net.blobs["data"].shape[2:])
        assert sizes == {(72, 72), (60, 60)}
        waits = waits_of_steps(solver, 10)      # iterations 6 to 15, of which 10 and 15 display
        assert solver.net.blobs["data"].shape[2:] in sizes
    assert waits == [0, 0, 0, 0, 1, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_which_layers_wait(row):
    net = Net(parse_net(row.text()), row.phase, device="cuda", seed=3)
    device = net.context.backend
    for seed in range(2):       # the second run finds all cached objects
        with device.use():
            for i, shape in enumerate(row.shapes):
                net.blobs[f"x{i}"].data[...] = device.from_host(row.values(i, shape, seed).astype(np.float32))
            before = memory.State.waits
            net.forward()
            forward = memory.State.waits
            for name in net.outputs:
                net.blobs[name].diff[...] = 0.7
            net.backward()
    assert (forward > before) == (row.type in WAITING)
    assert row.type == "Python" or memory.State.waits == forward
