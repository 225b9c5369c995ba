"""The benchmarks run, on small images on the CPU, and their nets compute in torch what they compute here."""
import importlib
import json
import os
import subprocess
import sys

import emulated_cupy
import fake_cudnn
import numpy as np
import pytest

import cuda_cpu
from folders import ROOT
from spp.layers import TEST
from spp.net import Net

FOLDER = ROOT / "benchmarks"
SIDES = {"zf5_spp": 64, "overfeat7_spp": 64, "alexnet": 67, "vgg16": 32, "squeezenet": 48, "resnet18": 33}


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield lambda name: pytest.importorskip(name)
    for name in ("gpu", "gpu_detection", "nets", "turns", "torch_nets"):
        sys.modules.pop(name, None)


def import_torchvision():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    try:
        # Beside a torch that it does not fit, the first import fails and a second one does not: only a call shows it.
        importlib.import_module("torchvision.ops").nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        pytest.skip(f"torchvision does not work: {str(error).partition('. ')[0]}")


def small(param):
    """The net with few units in its large fully connected layers."""
    for layer in param.layer:
        if layer.inner_product_param.num_output == 4096:
            layer.inner_product_param.num_output = 40
    return param


def randomised(net):
    rng = np.random.default_rng(7)
    for blobs in net.params.values():
        for blob in blobs:
            fan_in = max(1, blob.count // blob.shape[0])
            blob.data[...] = np.abs(rng.normal(1, 0.1, blob.shape)) if blob.shape == (1,) else rng.normal(
                0.1 * (blob.data.ndim == 1), (2 / fan_in) ** 0.5, blob.shape)


@pytest.mark.parametrize("name", SIDES)
def test_nets_and_their_torch_nets(modules, name):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    nets, torch_nets = modules("nets"), modules("torch_nets")
    param = small(nets.inference(name, 2, SIDES[name]))
    with Net(param, TEST, device="cpu") as net:
        randomised(net)
        for layer, blobs in net.params.items():
            if layer.startswith("bn_"):
                for blob in blobs[1:]:
                    blob.data[...] = np.abs(blob.data) + 0.5
        x = np.random.default_rng(0).normal(0, 1, net.blobs["data"].shape).astype(np.float32)
        net.forward(data=x)
        for blob in list(net.params.values())[-1]:      # so that the scores have a deviation of 1
            blob.data[...] /= net.blobs["scores"].data.std()
        torch_net = torch_nets.TorchNet(param).eval()
        with torch.no_grad():
            torch_net(torch.from_numpy(x))
            torch_nets.load(torch_net, {layer: [np.array(blob.data) for blob in blobs]
                                        for layer, blobs in net.params.items()})
            theirs = torch_net(torch.from_numpy(x)).numpy()
        ours = net.forward(data=x)["prob"].reshape(theirs.shape[:2])
        assert 1e-4 < ours.std() < 0.1
        np.testing.assert_allclose(ours, theirs.reshape(ours.shape), rtol=2e-3)


def test_overfeat7_has_the_maps_of_table_1(modules):
    nets = modules("nets")
    with Net(small(nets.inference("overfeat7_spp", 1)), TEST, device="cpu") as net:
        shapes = {name: blob.shape[1:] for name, blob in net.blobs.items() if len(blob.shape) == 4}
        assert shapes["conv1"] == (96, 109, 109) and shapes["norm1"] == (96, 36, 36)
        assert shapes["pool2"] == (256, 18, 18)
        assert all(shapes[f"conv{i}"] == (512, 18, 18) for i in range(3, 8))
        assert net.blobs["spp"].shape == (1, 25600) and net.blobs["prob"].shape == (1, 1000)


@pytest.mark.parametrize("contender", ["spp", "torch"])
@pytest.mark.parametrize("task", ["squeezenet inference-1 fp32 cpu 48", "resnet18 training-128 fp32 cpu 33"])
def test_a_turn_of_each_contender(modules, contender, task):
    if contender == "torch":
        pytest.importorskip("torch", reason="torch is not installed")
    gpu = modules("gpu")
    run = gpu.make(contender, task.replace("128", "4"))
    run()
    run()


def test_limits_and_what_is_achieved(modules):
    gpu = modules("gpu")
    limits = gpu.limits("cpu", 64, 1 << 16)
    assert set(limits) == {"fp32", "bytes"} and min(limits.values()) > 0
    operations, moved = gpu.work_of("squeezenet", 48)
    assert operations > 1e7 and moved > 1e6
    line = gpu.achieved(2.0, 8, True, (1e12, 1e9), {"fp32": 50e12, "bytes": 3e12}, "fp32")
    assert "12.0 TFLOP/s of 50.0" in line and "12 GB/s of 3000" in line


@pytest.mark.parametrize("script, task, more", [("gpu.py", "inference-1", ["--nets", "squeezenet"]),
                                                ("gpu_detection.py", "windows", [])])
def test_the_programs(script, task, more, tmp_path):
    output = tmp_path / "out.json"
    result = subprocess.run([sys.executable, str(FOLDER / script), "--small", "--device", "cpu", "--tasks", task,
                             "--precisions", "fp32", "--rounds", "2", "--contenders", "spp", "--output", str(output),
                             *more], capture_output=True, text=True, cwd=FOLDER.parent)
    assert result.returncode == 0, result.stderr
    assert "    spp: " in result.stdout
    task_results, = json.loads(output.read_text())["tasks"].values()
    assert len(task_results["spp"]["seconds"]) == 2


@pytest.mark.parametrize("script", ["gpu.py", "gpu_detection.py"])
def test_without_a_gpu_one_line_says_so(script, tmp_path):
    result = subprocess.run([sys.executable, str(FOLDER / script), "--device", "cuda:7", "--output",
                             str(tmp_path / "out.json")], capture_output=True, text=True,
                            env={"PYTHONPATH": str(FOLDER.parent), "PATH": ""})
    assert result.returncode == 1 and result.stdout == "" and not list(tmp_path.iterdir())
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("error: device 'cuda:7'")


def test_detection_pools_what_torch_pools(modules):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    detection = modules("gpu_detection")
    x = np.random.default_rng(0).normal(size=(1, 4, 11, 13)).astype(np.float32)
    windows = detection.windows_on(11, 13, 20)
    assert windows.min() >= 0 and (windows.max(0) <= [12, 10, 12, 10]).all()
    assert (windows[:, 2:] - windows[:, :2]).min() >= 1
    features = np.empty((20, 200), np.float32)
    detection.pyramids(x, windows, features)
    np.testing.assert_array_equal(features, detection.looped(torch.from_numpy(x), windows).numpy())
    import_torchvision()
    boxes = torch.from_numpy(np.insert(windows, 0, 0, 1))
    np.testing.assert_array_equal(features, detection.roi_pooled(torch.from_numpy(x), boxes).numpy())


@pytest.mark.parametrize("contender", ["spp", "torch loop", "torchvision", "R-CNN"])
def test_a_turn_of_each_detector(modules, monkeypatch, contender):
    if contender == "torchvision":
        import_torchvision()
    if contender == "torch loop":
        pytest.importorskip("torch", reason="torch is not installed")
    detection = modules("gpu_detection")
    whole = detection.nets.inference
    monkeypatch.setattr(detection.nets, "inference", lambda *args: small(whole(*args)))
    assert detection.make("R-CNN", "windows fp32 cpu 8 4") is None
    for task in ("windows", "5-scales"):
        run = detection.make(contender, f"{task} fp32 cpu 8 6")
        if run is not None:
            run()


@pytest.mark.skipif(cuda_cpu.COMPILER is None, reason=cuda_cpu.MISSING)
@pytest.mark.skipif(os.environ.get("SPP_TEST_DEVICE", "cpu") != "cpu", reason="makes an emulated GPU of its own")
def test_ours_on_an_emulated_gpu(modules, monkeypatch):
    gpu, detection = modules("gpu"), modules("gpu_detection")
    whole = gpu.nets.inference
    monkeypatch.setattr(gpu.nets, "inference", lambda *args: small(whole(*args)))
    with emulated_cupy.installed():
        monkeypatch.setitem(sys.modules, "cudnn", fake_cudnn.module())
        limits = gpu.limits("cuda", 64, 1 << 16)
        assert set(limits) == {"fp32", "tf32", "bf16", "bytes"} and min(limits.values()) > 0
        assert isinstance(gpu.name_of("cuda"), str)
        gpu.make("spp", "squeezenet inference-1 tf32 cuda 48")()
        gpu.make("spp", "squeezenet training-1 tf32 cuda 48")()
        detection.make("spp", "windows fp32 cuda 8 3")()
        assert all(graph.runs for graph in fake_cudnn.Graph.instances)
