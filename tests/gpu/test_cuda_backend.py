"""The CUDA backend without a GPU: what it offers beside the host's, when it is chosen, and the stand-in for CuPy."""
import inspect
import os
import subprocess
import sys
from types import ModuleType

import emulated_cupy
import numpy as np
import pytest
from emulated_cupy import functions, memory

from folders import ROOT
from spp import backend
from spp.backend.types import Epilogue
from spp.errors import SppError


# --- when it is chosen

def test_nothing_imports_cupy_before_a_gpu_is_asked_for():
    code = ("import sys, spp, spp.net, spp.solver, spp.pycaffe, tools.train_net; from spp import backend; "
            "backend.select('cpu'); print([name for name in sys.modules if name.startswith('cup')])")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == "[]", run.stderr


# --- which device a name means

@pytest.fixture
def fresh():
    """GPUs are looked for anew in the test, and after it."""
    mine = {name: module for name, module in sys.modules.items() if name.startswith("spp.backend.cuda")}
    backend.forget_devices()
    yield
    sys.modules.update(mine)
    backend.forget_devices()


@pytest.fixture
def emulation():
    with emulated_cupy.installed() as cupy:
        yield cupy


def no_driver():
    raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is\ninsufficient")


def broken(*args):
    raise memory.OutOfMemoryError(512, 0)


def cupy_without(**changed):
    modules = emulated_cupy.module()
    modules["cupy"].cuda.runtime.__dict__.update({k: v for k, v in changed.items() if k == "getDeviceCount"})
    modules["cupy"].__dict__.update({k: v for k, v in changed.items() if k != "getDeviceCount"})
    return modules["cupy"]


@pytest.mark.parametrize("cupy, device, message", [
    (None, "cuda", 'device \'cuda\': CuPy is not installed; pip install "spp[cuda13]" (or "spp[cuda12]", as the '
     'driver is); or use --device cpu'),
    (cupy_without(getDeviceCount=no_driver), "cuda:0", "device 'cuda:0': no NVIDIA driver works here "
     "(cudaErrorInsufficientDriver: CUDA driver version is insufficient); install one, or the CuPy that suits it (pip "
     'install "spp[cuda12]" for an older one); or use --device cpu'),
    (cupy_without(getDeviceCount=lambda: 0), "cuda",
     "device 'cuda': this machine has no NVIDIA GPU; or use --device cpu"),
    (cupy_without(), "cuda:7",
     "device 'cuda:7': this machine has cuda:0, cuda:1; choose one of them; or use --device cpu"),
    (cupy_without(zeros=broken), "cuda",
     "device 'cuda': GPU 0 does not work (Out of memory allocating 512 bytes (allocated so far: 0 bytes, limit set "
     "to: 0 bytes).); is it in use by another program?; or use --device cpu"),
])
def test_a_device_that_is_not_to_be_had(monkeypatch, fresh, caplog, cupy, device, message):
    caplog.set_level("INFO")
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    if isinstance(cupy, ModuleType):
        for name, module in emulated_cupy.module().items():
            if name != "cupy":
                monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(SppError) as error:
        backend.select(device)
    assert str(error.value) == message
    if device in ("cuda", "cuda:0"):
        assert backend.select("auto").xp is backend.select("auto").xp is np
        # without a message where no GPU was requested, else with one line
        reason = message.removeprefix(f"device '{device}': ").removesuffix("; or use --device cpu")
        assert caplog.messages == ([] if "not installed" in message else [f"Computing on the CPU: {reason}"])


def absent():
    raise ImportError("Failure finding\nlibcublas.so.13" + " or another" * 100)


def test_cuda_libraries_that_do_not_work(monkeypatch, fresh):
    for name, module in emulated_cupy.module().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys.modules["cupy"].cuda, "get_cublas_handle", absent)
    with pytest.raises(SppError) as error:
        backend.select("cuda")
    cause, remedy = str(error.value).split("...)")
    assert cause.startswith("device 'cuda': CuPy cannot compile, or lacks a library (Failure finding libcublas.so.13 ")
    assert len(cause) < 400 and remedy == (
        '; pip install "spp[cuda13]" (or "spp[cuda12]", as the driver is) into an environment without packages of '
        "another CUDA; or use --device cpu")
    assert backend.select("auto").xp is np


def test_real_cupy_without_a_driver(fresh):
    """On the machine that the tests run on: one line with the remedy, or a GPU."""
    pytest.importorskip("cupy", reason="CuPy is not installed")
    run = subprocess.run([sys.executable, "-c", "from spp import backend; print(backend.select('cuda').index)"],
                         capture_output=True, text=True, cwd=ROOT)
    last = (run.stdout or run.stderr).strip().splitlines()[-1]
    failed = last.startswith("spp.errors.SppError: device 'cuda': ") and "pip install" in last
    assert failed or last == "0"


def test_auto_and_cuda_take_a_gpu_that_works(emulation):
    assert backend.select("auto") is backend.select("cuda") is backend.select("cuda:0") is not backend.select("cuda:1")
    assert backend.select("cpu").xp is np and backend.select("auto").xp is emulation
    first, second = backend.select("cuda:0").zeros(3, np.float32), backend.select("cuda:1").zeros(3, np.float32)
    assert (first.device.id, second.device.id) == (0, 1)
    assert backend.select("cuda:1").from_host(np.ones(2)).device.id == 1
    assert backend.of(first) is backend.of(second) is sys.modules["spp.backend.cuda"]
    with backend.select("cuda:1").use():
        assert emulation.zeros(2).device.id == 1
    with pytest.raises(TypeError, match="no backend for arrays of type builtins.list"):
        backend.of([1])


def test_a_number_is_fetched(emulation):
    device = backend.select("cuda")
    value = emulation.full((), 2.5, np.float32)
    before = memory.State.waits
    number = device.number(value)
    assert number.shape == () and memory.State.waits == before
    arrived = device.fetch(number * 2)
    assert memory.State.waits == before and arrived() == 5 and device.fetch(7)() == 7
    host = backend.select("cpu")
    assert host.number(np.array(2.5)) == 2.5 and host.fetch(3)() == 3.0


def test_order_of_axes_survives_the_way_to_the_device_and_back(emulation):
    device = backend.select("cuda")
    x = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for array in (x, last, x[:, :, ::2], np.float64(3.5).reshape(())):
        there = device.from_host(array)
        np.testing.assert_array_equal(device.to_host(there), array)
        assert there.shape == array.shape
    assert device.from_host(last).strides == last.strides == device.to_host(device.from_host(last)).strides
    transposed = there = device.from_host(x).transpose(0, 2, 1, 3)
    matrix = device.load_matrix(transposed, 2, "test")
    np.testing.assert_array_equal(device.to_host(matrix), x.transpose(0, 2, 1, 3).reshape(8, 15))
    assert device.empty_matrix(there[0, 0], 1, "test").shape == (3, 5)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n, k, o", [(3, 5, 4), (1, 7, 2), (4, 1, 1), (0, 3, 2)])
def test_inner_product(emulation, dtype, n, k, o, precision):
    device, host = backend.select("cuda"), backend.select("cpu")
    rng = np.random.default_rng(0)
    x, weight, bias, dy = (rng.normal(size=s).astype(dtype) for s in ((n, k), (o, k), (o,), (n, o)))
    for transpose in (False, True):
        w = np.ascontiguousarray(weight.T) if transpose else weight
        for relu in (False, True):
            expected, y = np.empty((n, o), dtype), device.zeros(n * o * 2, dtype).reshape(n, o, 2)[..., 0]
            scale, shift = (bias + 2, bias - 1) if relu else (None, None)
            host.inner_product_forward(x, w, expected, transpose, Epilogue(bias, scale, shift, relu))
            on_device = [None if a is None else device.from_host(a) for a in (bias, scale, shift)]
            epilogue = Epilogue(on_device[0], on_device[1], on_device[2], relu)
            device.inner_product_forward(device.from_host(x), device.from_host(w), y, transpose, epilogue, precision)
            np.testing.assert_allclose(device.to_host(y), expected, 1e-5, 1e-6)
        expected, dx = np.empty((n, k), dtype), device.zeros(n * k, dtype).reshape(n, k)
        host.inner_product_backward_data(dy, w, expected, transpose)
        device.inner_product_backward_data(device.from_host(dy), device.from_host(w), dx, transpose, precision)
        np.testing.assert_allclose(device.to_host(dx), expected, 1e-5, 1e-6)
        expected = np.ones(w.shape, dtype)
        dweight = device.from_host(expected)
        host.inner_product_backward_weights(x, dy, expected, transpose)
        device.inner_product_backward_weights(device.from_host(x), device.from_host(dy), dweight, transpose, precision)
        np.testing.assert_allclose(device.to_host(dweight), expected, 1e-5, 1e-6)


# --- the stand-in for CuPy

def test_the_emulation_has_nothing_that_cupy_has_not():
    if "SPP_TEST_DEVICE" in os.environ:
        pytest.skip("the emulation stands in CuPy's place")
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    cupyx = pytest.importorskip("cupyx", reason="CuPy is not installed")
    for line in functions.SIGNATURES.split("\n")[1:-1]:
        name, mine = functions._bound(line)
        real = inspect.signature(getattr(cupy, name)).parameters
        assert list(mine.parameters) == [p for p in real if p in mine.parameters], name
        for parameter in mine.parameters.values():
            theirs = real[parameter.name]
            assert (parameter.default is parameter.empty) == (theirs.default is theirs.empty), (name, parameter.name)
    for line in functions.METHODS.split("\n")[1:-1]:
        assert hasattr(cupy.ndarray, line.split("(")[0])
    for name in functions.UFUNCS:
        assert isinstance(getattr(cupy, name), cupy.ufunc)
    assert hasattr(cupy.ufunc, "at")
    modules = emulated_cupy.module()
    for name in vars(modules["cupy"]):
        assert name.startswith("__") or hasattr(cupy, name), name
    for name in vars(emulated_cupy.ndarray):
        assert name.startswith("_") or hasattr(cupy.ndarray, name), name
    for name in vars(modules["cupy.cuda"]):        # cublas itself needs a library
        assert name.startswith("__") or name == "cublas" or hasattr(cupy.cuda, name), name
    for name in vars(modules["cupy.cuda.runtime"]):
        assert name.startswith("__") or hasattr(cupy.cuda.runtime, name), name
    for name in vars(modules["cupyx"]):
        assert name.startswith("__") or hasattr(cupyx, name), name


def test_the_emulation_is_as_strict_as_cupy(emulation):
    cupy = emulation
    x, y = cupy.arange(6.0).reshape(2, 3), np.ones((2, 3))

    def assign():
        x[...] = y

    def iadd():
        x.__iadd__(y)

    for wrong in (lambda: np.asarray(x), lambda: np.array(x), lambda: x + y, lambda: y + x, lambda: y * x, iadd,
                  lambda: np.add(x, y), lambda: cupy.maximum(x, y), lambda: cupy.add(x, 1, out=y), lambda: cupy.sum(y),
                  lambda: cupy.where(x > 0, x, y), lambda: x.sum(out=y), lambda: cupy.multiply(x, 2, where=True),
                  lambda: cupy.RawModule(code="").get_function, lambda: np.linalg.norm(x), lambda: x.set(x)):
        if wrong.__code__.co_names[:1] == ("RawModule",):
            continue
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError, match="non-scalar numpy.ndarray cannot be used for fill"):
        assign()
    with pytest.raises(ValueError, match="different from the current device"), cupy.cuda.Device(1):
        cupy.add(x, 1)
    with pytest.raises(ValueError, match="truth value"):
        bool(x)
    for missing in ("linalg", "random", "RawKernel"):       # CuPy has them; whoever needs one adds it
        assert not hasattr(cupy, missing)


def test_new_arrays_lie_as_cupys_do(emulation):
    """CuPy does as NumPy where it copies, and not where it computes."""
    cupy = emulation
    transposed = cupy.zeros((2, 3, 4, 5), np.float32).transpose(0, 3, 1, 2)
    for result in (transposed + 1, -transposed, transposed > 0, np.sqrt(transposed), transposed.sum(1, keepdims=True),
                   transposed.copy(), cupy.where(transposed > 0, transposed, 0), transposed.any(3),
                   cupy.take(transposed, cupy.arange(2), 1)):
        assert result.flags.c_contiguous
    for result in (cupy.empty_like(transposed), cupy.zeros_like(transposed), transposed.astype(np.float16)):
        assert np.argsort(result.strides).tolist() == np.argsort(transposed.strides).tolist()
    host = np.zeros((2, 3, 4))
    assert cupy.array(host.transpose(0, 2, 1)).flags.c_contiguous and cupy.array(host.T).flags.f_contiguous


def test_the_emulation_computes(emulation):
    cupy = emulation
    x = cupy.arange(6, dtype=np.float32).reshape(2, 3)
    assert isinstance(x.sum(), cupy.ndarray) and x.sum().shape == () and float(x.sum()) == 15
    assert x[1, 2].shape == () and isinstance(x[1, 2], cupy.ndarray)
    x[0, 1] = np.float32(9)
    x[1] += x[0]
    (np.float32(2) * x)[...] = 0
    np.testing.assert_array_equal(x.get(), [[0, 9, 2], [3, 13, 7]])
    assert (np.multiply(x, 2) / 2 == x).all() and np.sum(x).shape == ()
    picked = x[cupy.asarray(np.array([1, 2]))]      # out of range begins again at 0
    np.testing.assert_array_equal(picked.get(), [[3, 13, 7], [0, 9, 2]])
    with pytest.raises(AttributeError):
        cupy.zeros(3).put
    assert np.isnan(cupy.empty(3).get()).all()
    before = memory.State.waits
    x.max(axis=1), x.argmax(), x[0] > 1
    assert memory.State.waits == before
    x[x > 3], float(x[0, 0])
    assert memory.State.waits > before
