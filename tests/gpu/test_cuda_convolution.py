"""Convolution on the GPU, without one: on emulated CuPy, with a stand-in for cuDNN, with cuDNN's real planning."""
import itertools
import json
import logging
import os
import sys
import threading

import emulated_cupy
import fake_cudnn
import numpy as np
import pytest

import cuda_cpu
import nvrtc
from spp.backend import host
from spp.backend.types import Epilogue, Geometry
from spp.ops.convolution import output_size

pytestmark = pytest.mark.skipif(cuda_cpu.COMPILER is None, reason=cuda_cpu.MISSING)

# x, weight, stride, pad, dilation, group
CASES = {
    "plane": ((2, 3, 7, 9), (4, 3, 3, 2), (2, 1), (1, 0), (1, 1), 1),
    "groups, dilated": ((3, 4, 9, 11), (6, 2, 3, 2), (1, 2), (2, 1), (2, 3), 2),
    "depthwise": ((2, 5, 6, 5), (10, 1, 3, 3), (1, 1), (1, 1), (1, 1), 5),
    "line": ((2, 3, 8), (4, 3, 3), (2,), (1,), (1,), 1),
    "volume": ((2, 4, 5, 6, 4), (4, 2, 2, 3, 2), (1, 2, 1), (1, 0, 1), (2, 1, 1), 2),
    "no spatial axis": ((3, 4), (5, 4), (), (), (), 1),
    "four spatial axes": ((1, 2, 3, 4, 3, 3), (3, 2, 2, 2, 1, 2), (1, 1, 1, 1), (0, 1, 0, 0), (1, 1, 1, 1), 1),
    "beyond the pad": ((2, 2, 5, 5), (2, 2, 7, 7), (3, 3), (0, 0), (1, 1), 1),
    "whole map": ((2, 3, 4, 5), (2, 3, 4, 5), (1, 1), (0, 0), (1, 1), 1),
}
PLANNED = [name for name in CASES if name not in ("no spatial axis", "four spatial axes", "beyond the pad")]


@pytest.fixture
def cupy():
    with emulated_cupy.installed() as module:
        yield module


@pytest.fixture
def cudnn(cupy, monkeypatch):
    module = fake_cudnn.module()
    monkeypatch.setitem(sys.modules, "cudnn", module)
    return module


@pytest.fixture
def no_cudnn(cupy, monkeypatch):
    monkeypatch.setitem(sys.modules, "cudnn", None)     # importing it raises ImportError


class Problem:
    """A case's arrays with distinct values, and the host's results in float64."""

    def __init__(self, case, dtype=np.float32):
        x, weight, stride, pad, dilation, group = CASES[case]
        self.geometry = Geometry(weight[2:], stride, pad, dilation, group)
        rng = np.random.default_rng(3)
        out = map(output_size, x[2:], *self.geometry[:4])
        shapes = {"x": x, "weight": weight, "bias": weight[:1], "dy": (x[0], weight[0], *out)}
        self.arrays = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
        # values that the 16-bit types hold: with them only the results are rounded
        exact = {name: np.round(a * 8) / 8 for name, a in self.arrays.items()}
        self.arrays = exact
        self.expected = self.run(host, {name: a.astype(np.float64) for name, a in exact.items()}, np.zeros)

    def run(self, backend, arrays, zeros, precision="fp32", relu=False, bias=True):
        """y, dx, and 1 + dweight and 1 + dbias by a backend's functions."""
        x, weight, dy = arrays["x"], arrays["weight"], arrays["dy"]
        y, dx = zeros(dy.shape, dy.dtype), zeros(x.shape, x.dtype)
        dweight, dbias = zeros(weight.shape, x.dtype), zeros(weight.shape[:1], x.dtype)
        y += 77         # to be overwritten
        dx += 77
        dweight += 1
        dbias += 1
        epilogue = Epilogue(arrays["bias"] if bias else None, relu=relu)
        backend.convolution_forward(x, weight, y, self.geometry, epilogue, precision)
        backend.convolution_backward_data(dy, weight, dx, self.geometry, precision)
        backend.convolution_backward_weights(x, dy, dweight, dbias, self.geometry, precision)
        return {"y": y, "dx": dx, "dweight": dweight, "dbias": dbias}

    def check(self, cupy, results, tolerance):
        for name, values in self.expected.items():
            values = values if name != "y" or not self.relu else np.maximum(values, 0)
            np.testing.assert_allclose(results[name].get(), values, rtol=tolerance,
                                       atol=tolerance * abs(values).max(), err_msg=name)

    def solve(self, cupy, precision="fp32", relu=False, order="C"):
        from spp.backend.cuda import convolution
        self.relu = relu
        arrays = {name: cupy.array(a) if order == "C" else _channels_last(cupy, a) for name, a in self.arrays.items()}
        zeros = cupy.zeros if order == "C" else lambda shape, dtype: _channels_last(cupy, np.zeros(shape, dtype))
        return self.run(convolution, arrays, zeros, precision, relu)


def _channels_last(cupy, array):
    """The array in other memory order, and not at the beginning of its memory."""
    moved = np.moveaxis(array, 1, -1) if array.ndim > 1 else array
    flat = cupy.zeros(array.size + 1, array.dtype)
    flat[1:] = cupy.array(np.ascontiguousarray(moved).ravel())
    return cupy.moveaxis(flat[1:].reshape(moved.shape), -1, 1) if array.ndim > 1 else flat[1:]


@pytest.mark.parametrize("order", ["C", "channels last"])
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize("case", CASES)
def test_without_cudnn(cupy, no_cudnn, case, dtype, tolerance, order):
    problem = Problem(case, dtype)
    problem.check(cupy, problem.solve(cupy, relu=order == "C", order=order), tolerance)


def test_without_cudnn_a_large_batch_is_split(cupy, no_cudnn, monkeypatch):
    from spp.backend.cuda import convolution_fallback
    problem = Problem("groups, dilated")
    shares = list(convolution_fallback._shares(problem.arrays["x"], problem.arrays["weight"], problem.arrays["dy"]))
    assert len(shares) == 1
    monkeypatch.setattr(convolution_fallback, "COLUMN_BYTES", 1)
    x = problem.arrays["x"]
    assert len(list(convolution_fallback._shares(x, problem.arrays["weight"], problem.arrays["dy"]))) == len(x)
    problem.check(cupy, problem.solve(cupy), 1e-6)


def test_missing_cudnn_is_logged_once(cupy, no_cudnn, caplog):
    problem = Problem("plane")
    problem.solve(cupy)
    problem.solve(cupy)
    lines = [record.getMessage() for record in caplog.records if record.name == "spp.backend"]
    assert len(lines) == 1 and "nvidia-cudnn-frontend" in lines[0] and "im2col" in lines[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("with_cudnn", [True, False])
def test_relu_keeps_nan(request, cupy, with_cudnn, precision):
    request.getfixturevalue("cudnn" if with_cudnn else "no_cudnn")
    from spp.backend.cuda import convolution
    x = cupy.array(np.array([[[[np.nan, -2, 3, 0]]]], np.float32))
    y = cupy.zeros(x.shape, x.dtype)
    convolution.convolution_forward(x, cupy.ones((1, 1, 1, 1), np.float32), y,
                                    Geometry((1, 1), (1, 1), (0, 0), (1, 1)), Epilogue(relu=True), precision)
    np.testing.assert_array_equal(y.get(), [[[[np.nan, 0, 3, 0]]]])


@pytest.mark.parametrize("precision, dtype, tolerance", [
    ("fp32", np.float32, 1e-6), ("bf16", np.float32, 8e-3), ("fp16", np.float32, 1e-3), ("fp32", np.float64, 1e-14)])
@pytest.mark.parametrize("with_cudnn", [True, False])
@pytest.mark.parametrize("case", ["plane", "groups, dilated", "no spatial axis"])
def test_bias_scale_shift_and_relu_in_one_pass(request, cupy, case, with_cudnn, precision, dtype, tolerance):
    request.getfixturevalue("cudnn" if with_cudnn else "no_cudnn")
    from spp.backend.cuda import convolution
    problem = Problem(case, dtype)
    x, weight, bias, dy = (problem.arrays[name] for name in ("x", "weight", "bias", "dy"))
    scale, shift = np.linspace(-2, 3, len(bias)).astype(dtype), np.linspace(5, -4, len(bias)).astype(dtype)
    column = (-1, *[1] * (dy.ndim - 2))
    for given_bias, scaled, relu in itertools.product((True, False), repeat=3):
        expected = problem.expected["y"] - (0 if given_bias else bias.reshape(column))
        if scaled:
            expected = expected * scale.reshape(column) + shift.reshape(column)
        assert (expected < 0).any()
        expected = np.maximum(expected, 0) if relu else expected
        y = _channels_last(cupy, np.full(dy.shape, 77, dtype)) if relu else cupy.full(dy.shape, 77, dtype)
        vectors = [cupy.array(values) if is_used else None
                   for values, is_used in ((bias, given_bias), (scale, scaled), (shift, scaled))]
        convolution.convolution_forward(cupy.array(x), cupy.array(weight), y, problem.geometry,
                                        Epilogue(vectors[0], vectors[1], vectors[2], relu), precision)
        np.testing.assert_allclose(y.get(), expected, tolerance, tolerance * abs(expected).max())
    if with_cudnn and case != "no spatial axis":        # cuDNN adds the bias where that saves the pass
        added = sum(graph.added is not None for graph in fake_cudnn.Graph.instances)
        assert (added, len(fake_cudnn.Graph.instances)) == ((1, 2) if precision == "fp32" else (0, 1))


def test_an_empty_batch(cupy, cudnn):
    from spp.backend.cuda import convolution
    x, y = cupy.zeros((0, 2, 4, 4), np.float32), cupy.zeros((0, 3, 2, 2), np.float32)
    weight, dweight, dbias = (cupy.ones(shape, np.float32) for shape in ((3, 2, 3, 3), (3, 2, 3, 3), (3,)))
    geometry = Geometry((3, 3), (1, 1), (0, 0), (1, 1))
    convolution.convolution_forward(x, weight, y, geometry)
    convolution.convolution_backward_weights(x, y, dweight, dbias, geometry)
    assert (dweight.get() == 1).all() and (dbias.get() == 1).all() and not fake_cudnn.Graph.instances


# --- with a stand-in for cuDNN

@pytest.mark.parametrize("precision, dtype, tolerance, kind", [
    ("fp32", np.float32, 1e-6, "FLOAT"), ("tf32", np.float32, 1e-6, "FLOAT"), ("bf16", np.float32, 8e-3, "BFLOAT16"),
    ("fp16", np.float32, 1e-3, "HALF"), ("fp32", np.float64, 1e-14, "DOUBLE"), ("bf16", np.float64, 1e-14, "DOUBLE")])
@pytest.mark.parametrize("case", PLANNED)
def test_with_cudnn(cupy, cudnn, case, precision, dtype, tolerance, kind):
    problem = Problem(case, dtype)
    for order in ("C", "channels last"):
        problem.check(cupy, problem.solve(cupy, precision, order=order), tolerance)
    graphs = fake_cudnn.Graph.instances
    assert [graph.operation for graph in graphs] == ["forward", "data", "weights"]      # planned once
    assert [graph.runs for graph in graphs] == [2, 2, 2]
    for graph in graphs:
        assert graph.kinds[0].name == kind == graph.result.kind.name
        assert graph.kinds[2].name == ("DOUBLE" if kind == "DOUBLE" else "FLOAT")
        assert {"NONDETERMINISTIC", "REDUCED_PRECISION_REDUCTION"} <= graph.notes
        assert ("TENSOR_CORE" in graph.notes) == (precision == "fp32")
        strides = graph.left.stride
        assert strides[1] == (1 if kind in ("HALF", "BFLOAT16") else np.prod(graph.left.dim[2:]))
        assert graph.handle["stream"] == 0


@pytest.mark.parametrize("exact", [False, True])
def test_exact_sums(cupy, cudnn, monkeypatch, exact):
    from spp.backend.cuda import convolution_plans
    monkeypatch.setattr(convolution_plans, "EXACT", exact)
    Problem("plane").solve(cupy)
    for graph in fake_cudnn.Graph.instances:
        assert graph.notes.issuperset({"WINOGRAD", "FFT"}) == exact != graph.notes.isdisjoint({"WINOGRAD", "FFT"})


@pytest.mark.parametrize("case", ["no spatial axis", "four spatial axes", "beyond the pad"])
def test_problems_that_cudnn_does_not_get(cupy, cudnn, case, caplog):
    problem = Problem(case)
    problem.check(cupy, problem.solve(cupy), 1e-6)
    assert not fake_cudnn.Graph.instances and not caplog.records


def test_problems_that_cudnn_declines_are_computed_by_the_fallback(cupy, cudnn, caplog):
    caplog.set_level(logging.INFO)
    fake_cudnn.Graph.declines = staticmethod(lambda graph: graph.operation == "data")
    for case in ("plane", "line", "plane"):
        problem = Problem(case)
        problem.check(cupy, problem.solve(cupy, "tf32"), 1e-6)
    assert [graph.operation for graph in fake_cudnn.Graph.instances] == 2 * ["forward", "data", "weights"]
    warning, = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "declines a convolution (FLOAT, data)" in warning
    messages = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    assert len(messages) == 2
    assert all("'data'" in line and "no engine" in line and "\n" not in line for line in messages)


def test_plans_belong_to_a_thread(cupy, cudnn):
    problem = Problem("plane")
    problem.solve(cupy)
    thread = threading.Thread(target=problem.solve, args=(cupy,))
    thread.start()
    thread.join()
    graphs = fake_cudnn.Graph.instances
    assert len(graphs) == 6 and graphs[0].handle is graphs[2].handle is not graphs[3].handle


def test_memory_that_a_plan_may_take(cupy, cudnn):
    from spp.backend.cuda.convolution_plans import WORKSPACE_BYTES, Problem as Plan
    small = Plan("forward", (1, 2, 3, 3), (2, 2, 3, 3), (1, 2, 1, 1), Geometry((3, 3), (1, 1), (0, 0), (1, 1)),
                 "FLOAT")
    large = Plan("data", (64, 64, 224, 224), (64, 64, 3, 3), (64, 64, 224, 224),
                 Geometry((3, 3), (1, 1), (1, 1), (1, 1)), "HALF")
    assert small.workspace == WORKSPACE_BYTES
    assert large.workspace == 2 * (2 * 64 * 64 * 224 * 224 + 64 * 64 * 9)


def test_on_a_gpu(monkeypatch):
    if not os.environ.get("SPP_TEST_DEVICE", "cpu").startswith("cuda"):
        pytest.skip("computes on a GPU: SPP_TEST_DEVICE=cuda")
    import cupy
    from spp.backend.cuda import convolution_plans
    declined = []
    convolution_plans._find.cache_clear()
    monkeypatch.setattr(convolution_plans, "_say_declined", lambda kind, operation: declined.append(kind))
    for precision, dtype, tolerance in (("fp32", np.float32, 1e-5), ("tf32", np.float32, 2e-3),
                                        ("bf16", np.float32, 1.6e-2), ("fp16", np.float32, 2e-3),
                                        ("fp32", np.float64, 1e-13)):
        for case in CASES:
            for order in ("C", "channels last"):
                problem = Problem(case, dtype)
                problem.check(cupy, problem.solve(cupy, precision, order == "C", order), tolerance)
    if convolution_plans.library() is None:
        pytest.skip("cuDNN does not work here: cuBLAS computed all convolutions")
    assert convolution_plans._find.cache_info().hits > 0
    assert set(declined) <= {"BFLOAT16"}        # for which a GPU may be too old


# --- 16-bit forms

@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half(cupy, precision):
    from spp.backend.cuda import half
    rng = np.random.default_rng(0)
    edges = [np.inf, -np.inf, np.nan, 0, -0.0, 65504, 65519.99, 65520, 1e30, 2 ** -14, 2 ** -24, 2 ** -25,
             1.5 * 2 ** -24, 2 ** -25 * 1.001, 2 ** -14 * 0.9999]
    x = np.concatenate([edges, rng.normal(size=8 * 33 * 35 - len(edges)) * 10.0 ** rng.integers(-8, 6)])
    x = x.astype(np.float32).reshape(2, 33, 4, 35)
    rounded = _rounded(x, precision)
    bits = half.narrow(cupy.array(x), precision)
    y = cupy.zeros(x.shape, np.float32)
    half.widen(bits, y, precision)
    np.testing.assert_array_equal(y.get(), rounded)
    np.testing.assert_array_equal(np.signbit(y.get()), np.signbit(x))
    bias = rng.normal(size=33).astype(np.float32)
    y = cupy.array(x.copy())
    half.widen(bits, y, precision, Epilogue(cupy.array(bias), relu=True), add=True)
    np.testing.assert_array_equal(y.get(), np.maximum(rounded + bias[:, None, None] + x, 0))
    scale, shift = np.linspace(-2, 2, 33).astype(np.float32), bias[::-1].copy()
    half.widen(bits, y, precision, Epilogue(cupy.array(bias), cupy.array(scale), cupy.array(shift)))
    by_channel = [values[:, None, None].astype(np.float64) for values in (bias, scale, shift)]
    np.testing.assert_allclose(y.get(), (rounded + by_channel[0]) * by_channel[1] + by_channel[2], 1e-5, 1e-5)


def _rounded(x, precision):
    if precision == "fp16":
        with np.errstate(over="ignore"):
            return x.astype(np.float16).astype(np.float32)
    bits = x.view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000
    return np.where(np.isnan(x), np.nan, bits.astype(np.uint32).view(np.float32)).astype(np.float32)


@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90", "sm_100", "sm_120"])
def test_half_compiles(arch):
    compiler = pytest.importorskip("cupy", reason="CuPy is not installed").cuda.nvrtc
    nvrtc.library()
    from spp.backend.cuda.kernels import source
    for options in ((), ("-DFP16=1",)):
        program = compiler.createProgram(source("half.cu"), "half.cu", (), ())
        compiler.compileProgram(program, (f"-arch={arch}", "--std=c++17", *options))
        assert compiler.getCUBIN(program)


# --- cuDNN's own planning

H100 = {"deviceVer": 900, "driverVer": 12090, "deviceName": "NVIDIA H100", "multiProcessorCount": 132,
        "l2CacheSize": 52428800, "smCountOrigin": 0, "cudaDeviceId": 0, "isTccDriver": 0, "maxCtasPerSM": 32,
        "maxRegistersPerSM": 65536, "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448,
        "oversizedSharedMemoryPerBlock": 232448, "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048,
        "memClockRateKHz": 2619000, "memoryBusWidth": 5120, "pciDeviceId": 9008, "regsPerBlock": 65536,
        "reservedSharedMemoryPerBlock": 1024, "smClockRateKHz": 1980000, "supportCoopLaunch": 1,
        "totalGlobalMem": 85024112640, "warpSize": 32, "maxGridSize": [2147483647, 65535, 65535],
        "maxBlockSize": [1024, 1024, 64]}


@pytest.mark.parametrize("kind", ["FLOAT", "HALF", "BFLOAT16", "DOUBLE"])
@pytest.mark.parametrize("operation", ["forward", "data", "weights"])
def test_cudnn_takes_the_graphs(operation, kind):
    """As far as it goes: without libcudnn the frontend takes the calls, with it cuDNN plans for an H100."""
    pytest.importorskip("cupy", reason="CuPy is not installed")
    cudnn = pytest.importorskip("cudnn", reason="nvidia-cudnn-frontend is not installed")
    from spp.backend.cuda import convolution_plans as plans
    problem = plans.Problem(operation, (8, 6, 13, 17), (8, 3, 3, 5), (8, 8, 13, 8),
                            Geometry((3, 5), (1, 2), (1, 1), (1, 1), 2), kind, bias=operation == "forward")
    try:
        device = {"device_property": cudnn.create_device_properties(json.dumps(H100))}
    except RuntimeError:
        device = {"handle": cudnn.Handle(0, 0, 0) if hasattr(cudnn, "Handle") else 0}
    if "handle" in device:
        with pytest.raises(RuntimeError, match="cudnn"):    # and not a TypeError or an AttributeError
            plans.make(cudnn, problem, **device)
    else:
        assert plans.make(cudnn, problem, **device).get_workspace_size() <= problem.workspace
