"""Whole nets on a GPU, emulated: beside the host's, on two devices, with the arrays that users see."""
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import emulated_cupy
import numpy as np
import pytest
from emulated_cupy import memory

import cuda_cpu
import spp.pycaffe as caffe
from folders import ROOT
from small_solver import NET, Recorder
from spp import host_copy
from spp.errors import NetError, SolverError
from spp.layers import TEST, TRAIN
from spp.net import Net
from spp.proto.text import parse_net, parse_solver
from spp.pycaffe import common
from spp.solver import Solver

pytestmark = pytest.mark.skipif(cuda_cpu.COMPILER is None, reason=cuda_cpu.MISSING)
SMALL = """
layer { name: "in" type: "Input" top: "x" top: "label"
  input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } shape { dim: 2 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv" convolution_param { num_output: 4 kernel_size: 3
  weight_filler { type: "gaussian" std: 0.3 } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "norm" type: "LRN" bottom: "conv" top: "norm" lrn_param { local_size: 3 alpha: 1 } }
layer { name: "pool" type: "Pooling" bottom: "norm" top: "pool" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "drop" type: "Dropout" bottom: "pool" top: "pool" }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 3
  weight_filler { type: "gaussian" std: 0.3 } } }
layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""
TRAINED = ("base_lr: 0.1 lr_policy: 'fixed' momentum: 0.9 weight_decay: 0.01 random_seed: 5 max_iter: 20 "
           "average_loss: 3")


@pytest.fixture(scope="module", autouse=True)
def cupy():
    with emulated_cupy.installed() as module:
        yield module


@pytest.fixture
def gpu():
    """caffe.set_mode_gpu(), for one test."""
    state = dict(common._state)
    caffe.set_device(1)
    caffe.set_mode_gpu()
    yield
    common._state.update(state)


def image(seed=0, size=(2, 3, 9, 8)):
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def host(array):
    return array.get() if hasattr(array, "get") else np.array(array)


def small(device, phase=TEST):
    return Net(parse_net(SMALL.replace('type: "Dropout"', 'type: "ReLU"')), phase, device=device, seed=7)


def small_solver(device, extra="", text=SMALL.replace('type: "Dropout"', 'type: "ReLU"')):
    solver = Solver(parse_solver(f"net_param {{ {text} }} {TRAINED} {extra}"), device)
    with solver.net.context.backend.use():
        for name, values in (("x", image()), ("label", np.array([2, 0]))):
            solver.net.blobs[name].data[...] = solver.net.context.backend.from_host(values)
    return solver


# --- the engine

def test_host_and_gpu_nets_side_by_side_in_one_process(cupy):
    nets = [small(device, TRAIN) for device in ("cpu", "cuda", "cuda:1")]
    for seed, size in ((0, (2, 3, 9, 8)), (1, (1, 3, 9, 8)), (2, (4, 3, 9, 8))):
        for net in nets:
            net.forward(x=image(seed, size), label=np.arange(size[0]) % 3)
            net.clear_param_diffs()
            net.backward()
        assert nets[0].loss == pytest.approx(nets[1].loss, 1e-5) == nets[2].loss
        for name, blob in nets[0].blobs.items():
            for other in (net.blobs[name] for net in nets[1:]):
                np.testing.assert_allclose(host(other.data), blob.data, 1e-4, 1e-6, err_msg=name)
        for mine, theirs in zip(nets[0].learnable, nets[1].learnable):
            np.testing.assert_allclose(host(theirs.blob.diff), mine.blob.diff, 1e-4, 1e-6, err_msg=mine.name)
    for index, net in enumerate(nets[1:]):
        assert {blob.data.device.id for blob in net.blobs.values()} == {index}
        assert all(isinstance(entry.blob.diff, cupy.ndarray) for entry in net.learnable)
    assert isinstance(nets[0].blobs["conv"].data, np.ndarray) and cupy.cuda.Device().id == 0


class Steps(Recorder):
    def on_step(self, solver, iteration, loss, lr, images):
        self.losses[iteration] = loss


@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "Adam"])
def test_host_and_gpu_solvers_agree(kind):
    extra = f"type: '{kind}' clip_gradients: 0.5 iter_size: 2"
    results = []
    for device in ("cpu", "cuda:1"):
        solver, recorder = small_solver(device, extra), Steps()
        solver.listeners.append(recorder)
        solver.step(4)
        results.append((recorder.losses, [host(entry.blob.data) for entry in solver.net.learnable], recorder.messages))
    assert list(results[0][0]) == [1, 2, 3, 4] == list(results[1][0]) and len(results[1][2]) == len(results[0][2])
    np.testing.assert_allclose(list(results[1][0].values()), list(results[0][0].values()), 1e-4)
    for mine, theirs in zip(results[0][1], results[1][1]):
        np.testing.assert_allclose(theirs, mine, 1e-3, 1e-5)


def test_a_step_waits_for_nothing_but_its_loss():
    solver = small_solver("cuda", "display: 2", SMALL)
    solver.step(1)
    waits = []
    for _ in range(4):
        before = memory.State.waits
        solver.step(1)
        waits.append(memory.State.waits - before)
    assert waits == [0, 1, 0, 1]        # the outputs that are displayed
    deploy = small("cuda")
    deploy.forward(x=image(), label=[0, 1])
    before = memory.State.waits
    deploy.forward(x=image(), label=[0, 1])
    assert memory.State.waits == before


def test_divergence_is_told_with_its_iteration():
    solver = small_solver("cuda")
    solver.param.base_lr = 1e20
    with pytest.raises(SolverError, match="the loss is (nan|inf) at iteration [12]: training has diverged"):
        solver.step(5)


def test_a_wrong_label_is_told_when_the_loss_is_looked_at():
    net = small("cuda")
    net.forward(x=image(), label=[0, 3])
    net.forward(x=image(), label=[5, 3])        # the first one counts
    with pytest.raises(NetError, match=r"layer 'accuracy' \(Accuracy\): label 3 is no class of the 3 that the scores"):
        net.loss
    net.forward(x=image(), label=[0, 1])
    assert np.isfinite(net.loss)
    solver = small_solver("cuda")
    with solver.net.context.backend.use():
        solver.net.blobs["label"].data[...] = 4
    with pytest.raises(NetError, match=r"layer 'loss' \(SoftmaxWithLoss\): label 4 is no class of the 3"):
        solver.step(1)


def test_ignored_labels(cupy):
    text = SMALL.replace('bottom: "label" top: "loss"', 'bottom: "label" top: "loss" loss_param { ignore_label: 1 }')
    text = text.replace('"Dropout"', '"ReLU"')
    nets = [Net(parse_net(text), TRAIN, device=device, seed=7) for device in ("cpu", "cuda")]
    for labels in ([0, 1], [1, 1], [2, 0]):
        for net in nets:
            net.forward(x=image(), label=labels)
            net.backward()
        assert nets[0].loss == pytest.approx(nets[1].loss, 1e-5)
        np.testing.assert_allclose(host(nets[1].blobs["fc"].diff), nets[0].blobs["fc"].diff, 1e-4, 1e-7)


def test_too_little_memory_names_layer_and_bytes(monkeypatch):
    monkeypatch.setattr(memory.State, "limit", 1000)
    net = Net(parse_net(SMALL.replace("num_output: 4", "num_output: 16")), TEST, device="cuda")
    for limit, where, size in ((1000, "layer 'in' (Input): ", 1728), (1730, "layer 'conv' (Convolution): ", 5376)):
        monkeypatch.setattr(memory.State, "limit", limit)
        with pytest.raises(NetError) as error:
            net.forward(x=image())
        assert str(error.value) == (
            f"{where}needs more memory than there is (Out of memory allocating {size:,} bytes (allocated so far: 0 "
            f"bytes, limit set to: {limit:,} bytes).); make its sizes, the input or the batch smaller")


def test_snapshots_go_between_devices(make, tmp_path):
    first = make(device="cuda:1")
    first.step(5)
    path = first.snapshot()
    first.step(3)
    for device in ("cuda", "cpu"):
        second = make(device=device, net=NET.replace("dropout_ratio: 0.25", "dropout_ratio: 0"))
        second.restore(path)
        assert second.iter == 5 and second.context.backend.asynchronous == (device == "cuda")
    again = make(device="cuda:1")
    again.restore(path)
    again.step(3)
    for mine, theirs in zip(first.net.learnable, again.net.learnable):
        np.testing.assert_array_equal(host(theirs.blob.data), host(mine.blob.data))


# --- what users see

def test_pycaffe_arrays_are_numpy_and_reach_the_net(tmp_path, gpu):
    (tmp_path / "net.prototxt").write_text(SMALL)
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    assert net._net.context.backend.zeros(1, np.float32).device.id == 1
    data, weight = net.blobs["x"].data, net.params["fc"][0].data
    assert type(data) is type(weight) is np.ndarray and data is net.blobs["x"].data and not data.any()
    data[...] = image()
    net.forward()
    prob = net.blobs["fc"].data
    first = prob.copy()
    weight *= 2
    net.params["fc"][1].data[...] += 1      # through an array that the caller does not keep
    out = net.forward()
    assert net.blobs["fc"].data is prob and net.blobs["x"].data is data and set(out) == {"accuracy", "loss"}
    np.testing.assert_allclose(prob, 2 * first + 1, 1e-5)       # read after forward
    part = data[1]
    part[...] = 0
    net.forward(end="conv")
    np.testing.assert_array_equal(net.blobs["conv"].data[1], 0)
    assert (data[1] == 0).all() and data[0].any()
    net.blobs["x"].reshape(1, 3, 9, 8)
    net.blobs["label"].reshape(1)
    assert net.blobs["x"].data is not data and net.blobs["x"].data.shape == (1, 3, 9, 8)
    net.forward()
    assert net.blobs["fc"].data.shape == (1, 3) and prob.shape == (2, 3)
    conv_weight = net.params["conv"][0].data.copy()
    net.save(str(tmp_path / "w.caffemodel"))
    net.params["conv"][0].data[...] = 7
    net.copy_from(str(tmp_path / "w.caffemodel"))
    np.testing.assert_array_equal(net.params["conv"][0].data, conv_weight)
    layer = net.layer_dict["conv"]
    assert type(layer.blobs[0].data) is np.ndarray and layer.type == "Convolution" and layer in net.layers


def test_pycaffe_gradients_and_callbacks(tmp_path, gpu):
    (tmp_path / "net.prototxt").write_text("force_backward: true " + SMALL.replace('"Dropout"', '"ReLU"'))
    (tmp_path / "solver.prototxt").write_text(f"net: 'net.prototxt' {TRAINED}")
    solver = caffe.get_solver(str(tmp_path / "solver.prototxt"))
    net = solver.net
    events: list[tuple[Any, float]] = []
    net.blobs["x"].data[...], net.blobs["label"].data[...] = image(), [1, 2]
    gradient, weight, conv = net.params["fc"][0].diff, net.params["fc"][0].data, net.blobs["conv"].data
    before = weight.copy()

    def ready():
        events.append(("ready", np.abs(gradient).sum()))
        gradient[...] = 0

    solver.add_callback(lambda: events.append(("start", 0)), ready)
    net.after_forward(lambda i: events.append((i, conv.max())) if i == 2 else None)
    solver.step(1)
    assert [event for event, _ in events] == ["start", 2, "ready"]
    assert events[1][1] == conv.max() > 0 and events[2][1] > 0
    np.testing.assert_allclose(weight, before * (1 - 0.1 * 0.01), 1e-6)        # the gradient was zeroed: only decay
    net.forward()
    net.backward()
    assert net.blobs["x"].diff.any() and type(net.blobs["x"].diff) is np.ndarray
    (tmp_path / "deploy.prototxt").write_text("force_backward: true " + SMALL[:SMALL.index('layer { name: "drop"')])
    deploy = caffe.Net(str(tmp_path / "deploy.prototxt"), caffe.TEST)
    deploy.forward()
    with pytest.warns(RuntimeWarning, match="backward gave zeros"):
        deploy.backward()
    deploy.blobs["pool"].diff[...] = 1
    assert deploy.backward()["x"].shape == (2, 3, 9, 8)


def test_only_arrays_that_are_in_use_are_brought_back(cupy):
    net = small("cuda")
    face = host_copy.host_view(net.blobs["fc"])
    assert host_copy.host_view(net.blobs["fc"]) is face and isinstance(net.blobs["fc"].data, cupy.ndarray)
    with host_copy.device_access(net.blobs.values()):
        net.forward(x=image())
    before = memory.State.waits
    with host_copy.device_access(net.blobs.values()):
        net.forward(x=image())
    assert memory.State.waits == before         # no host array is in use
    array = face.data
    before = memory.State.waits
    with host_copy.device_access(net.blobs.values()):
        net.forward(x=image(1))
    assert memory.State.waits == before + 1
    np.testing.assert_array_equal(array, net.blobs["fc"].data.get())
    array[0, 0] = np.nan
    with host_copy.device_access(net.blobs.values()):
        pass
    assert np.isnan(net.blobs["fc"].data.get()[0, 0]) and np.isnan(array[0, 0])
    fc_copy = net.blobs["fc"].memory.host_copy
    assert fc_copy._store.size == 6
    del array
    with host_copy.device_access(net.blobs.values()):
        assert fc_copy._store.size == 0        # no host memory while no view exists


def test_python_layers_get_numpy_arrays(tmp_path, monkeypatch):
    (tmp_path / "mine_on_gpu.py").write_text("""
import numpy as np
from spp.layers import Layer

class Scaled(Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(3).data[...] = [1, 2, 3]
        self.seen = []

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        self.seen.append([type(array) for array in (bottom[0].data, top[0].data, self.blobs[0].data)])
        top[0].data[...] = bottom[0].data * self.blobs[0].data

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += (top[0].diff * bottom[0].data).sum(0)
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff * self.blobs[0].data
""")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = SMALL.replace('"Dropout"', '"ReLU"').replace(
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc"',
        'layer { name: "py" type: "Python" bottom: "fc" top: "py" python_param { module: "mine_on_gpu" '
        'layer: "Scaled" } } layer { name: "loss" type: "SoftmaxWithLoss" bottom: "py"')
    nets = [Net(parse_net(text), TRAIN, device=device, seed=7) for device in ("cpu", "cuda:1")]
    for _ in range(2):
        for net in nets:
            net.forward(x=image(), label=[0, 1])
            net.backward()
    layer: Any = next(layer for layer in nets[1].layers if layer.name == "py")
    assert layer.seen == [[np.ndarray] * 3] * 2
    for name in ("py", "fc", "conv"):
        np.testing.assert_allclose(host(nets[1].blobs[name].diff), nets[0].blobs[name].diff, 1e-4, 1e-6)
    np.testing.assert_allclose(host(nets[1].params["py"][0].diff), nets[0].params["py"][0].diff, 1e-4)


# --- the suite

@pytest.mark.skipif("SPP_TEST_DEVICE" in os.environ, reason="this run is on a device already")
@pytest.mark.parametrize("arguments", [
    ["tests/engine/test_golden_layers.py", "tests/training/test_golden_solvers.py"],
    ["tests/layers/test_every_layer.py", "-k", "check_gradient or check_single_precision"],
    ["tests/pycaffe/test_pycaffe_net.py", "tests/layers/test_python_layer.py"],
], ids=lambda arguments: Path(arguments[0]).stem.removeprefix("test_"))
def test_the_tests_pass_on_the_emulation(arguments):
    """The most telling part; `SPP_TEST_DEVICE=emulated pytest` runs all."""
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments], cwd=ROOT,
                         capture_output=True, text=True, env={**os.environ, "SPP_TEST_DEVICE": "emulated"})
    assert run.returncode == 0, run.stdout[-3000:]


def test_a_run_without_a_gpu_fails():
    code = ("import sys; sys.modules['cupy'] = None; import pytest; "
            "sys.exit(pytest.main(['-q', 'tests/engine/test_filler.py']))")
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                         env={**os.environ, "SPP_TEST_DEVICE": "cuda"})
    assert run.returncode == 1 and "device 'cuda': CuPy is not installed" in run.stdout + run.stderr
    assert "passed" not in run.stdout
