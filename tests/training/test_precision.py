"""The precision of a net: who takes which, how it reaches the layers, and the scaling of the loss that fp16 needs."""
import inspect
import sys

import emulated_cupy
import fake_cudnn
import numpy as np
import pytest

import cuda_cpu
from programs import error_of, run
from small_solver import NET as SMALL_NET, Hook, Recorder, weights
from spp.training import snapshot
from spp.backend import host
from spp.errors import NetError, SolverError
from spp.layers import TEST, TRAIN
from spp.training.loss_scale import INITIAL, PATIENCE
from spp.net import Net
from spp.proto import text

NET = """force_backward: true
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "up" type: "Deconvolution" bottom: "conv" top: "up" convolution_param { num_output: 2 kernel_size: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "up" top: "fc" inner_product_param { num_output: 3 } }
"""


@pytest.mark.parametrize("precision, message", [
    ("bf16", "precision bf16 needs a GPU, and this net is on the CPU, which computes in fp32; drop the precision"),
    ("int8", "unknown precision 'int8': expected fp32, tf32, bf16, fp16")])
def test_the_host_computes_in_fp32(precision, message):
    with pytest.raises(NetError, match=message):
        Net(text.parse_net(NET), TEST, device="cpu", precision=precision)


def test_a_net_of_float64_computes_in_float64():
    with emulated_cupy.installed(), pytest.raises(NetError, match="precision tf32 needs a net of dtype float32, found "
                                                                  "float64"):
        Net(text.parse_net(NET), TEST, device="cuda", dtype=np.float64, precision="tf32")


def test_the_programs_say_it_in_one_line(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    result = run("time_net", "--model", "net.prototxt", "--device", "cpu", "--precision", "tf32", cwd=tmp_path)
    assert "precision tf32 needs a GPU" in error_of(result)


@pytest.mark.skipif(cuda_cpu.COMPILER is None, reason=cuda_cpu.MISSING)
def test_layers_hand_it_to_the_gpu(monkeypatch):
    with emulated_cupy.installed():
        from spp.backend import cuda
        calls = set()
        for name in ("convolution_forward", "convolution_backward_data", "convolution_backward_weights",
                     "inner_product_forward", "inner_product_backward_data", "inner_product_backward_weights"):
            real = getattr(cuda, name)

            def tell(*args, name=name, real=real):
                calls.add((name, inspect.signature(real).bind(*args).arguments["precision"]))
                real(*args)
            monkeypatch.setattr(cuda, name, tell)
        with Net(text.parse_net(NET), TRAIN, device="cuda", precision="bf16") as net:
            net.forward()
            net.backward()
        assert len(calls) == 6 and {precision for _, precision in calls} == {"bf16"}


@pytest.mark.skipif(cuda_cpu.COMPILER is None, reason=cuda_cpu.MISSING)
@pytest.mark.parametrize("precision, kind", [("bf16", "BFLOAT16"), ("fp16", "HALF")])
def test_training_in_16_bits_is_training(make, monkeypatch, precision, kind):
    net = SMALL_NET.replace("dropout_ratio: 0.25", "dropout_ratio: 0")
    reference = make(net=net, device="cpu")
    reference.step(4)
    with emulated_cupy.installed():
        monkeypatch.setitem(sys.modules, "cudnn", fake_cudnn.module())
        solver = make(net=net, device="cuda", precision=precision)
        solver.step(4)
        results = [entry.blob.data.get() for entry in solver.net.learnable]
        assert solver.net.loss_scale == (INITIAL if precision == "fp16" else 1)
        solver.close()
    assert {graph.kinds[0].name for graph in fake_cudnn.Graph.instances} == {kind}
    for mine, theirs in zip(results, weights(reference)):
        assert 0 < abs(mine - theirs).max() < 0.05 * abs(theirs).max()


# --- loss scaling, on the host: what it does has nothing to do with the device

@pytest.fixture
def any_precision(monkeypatch):
    monkeypatch.setattr(host, "precisions", ("fp32", "fp16"))


def test_scaling_changes_nothing_but_the_range(make, any_precision):
    plain, scaled = make(device="cpu"), make(device="cpu", precision="fp16")
    for solver in (plain, scaled):
        solver.step(6)
    assert scaled.net.loss_scale == scaled.loss_scale.value == INITIAL and plain.net.loss_scale == 1
    for mine, theirs in zip(weights(plain), weights(scaled)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    scaled.net.clear_param_diffs()
    scaled.net.forward()
    scaled.net.backward()
    large = [abs(entry.blob.diff).max() for entry in scaled.net.learnable]
    plain.net.clear_param_diffs()
    plain.net.forward()
    plain.net.backward()
    for result, entry in zip(large, plain.net.learnable):
        np.testing.assert_allclose(result, INITIAL * abs(entry.blob.diff).max(), rtol=1e-4)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_an_overflow_skips_the_update(make, any_precision, bad):
    recorder = Recorder()
    solver = make(device="cpu", precision="fp16", listeners=[recorder])

    def spoil():
        if solver.iter == 2:
            solver.net.learnable[1].blob.diff[3] = bad

    solver.listeners.append(Hook(spoil))
    solver.step(2)
    before, history = weights(solver), [h.copy() for h in solver.history]
    solver.step(1)
    assert all(np.array_equal(*pair) for pair in zip([*before, *history], [*weights(solver), *solver.history]))
    assert solver.iter == 3 and solver.loss_scale.value == solver.net.loss_scale == INITIAL / 2
    assert "no update in iteration 2, next loss scale 32768" in recorder.messages[-1]
    solver.step(1)
    assert not np.array_equal(before[0], weights(solver)[0]) and np.isfinite(weights(solver)[0]).all()


def test_the_scale_grows_slowly_and_is_in_snapshots(make, any_precision):
    solver = make(device="cpu", precision="fp16")
    solver.loss_scale.restore({"value": 8.0, "updates": PATIENCE - 2})
    solver.step(1)
    assert (solver.net.loss_scale, solver.loss_scale.updates) == (8, PATIENCE - 1)
    path = solver.snapshot()
    assert snapshot.read(path).resume["loss_scale"] == {"value": 8, "updates": PATIENCE - 1}
    other = make(device="cpu", precision="fp16")
    other.restore(path)
    for resumed in (solver, other):
        resumed.step(1)
        assert (resumed.net.loss_scale, resumed.loss_scale.updates) == (16, 0)
    assert all(np.array_equal(*pair) for pair in zip(weights(solver), weights(other)))
    plain = make(device="cpu")
    plain.restore(path)     # a training may change its precision
    assert plain.net.loss_scale == 1


def test_gradients_that_overflow_without_scaling(make, any_precision):
    solver = make(device="cpu", precision="fp16")
    solver.loss_scale.restore({"value": 1.0, "updates": 0})
    solver.listeners.append(Hook(lambda: solver.net.learnable[0].blob.diff.fill(np.inf)))
    with pytest.raises(SolverError, match="overflow fp16 without any loss scaling: training has diverged; lower"):
        solver.step(1)
