"""Too little memory on a GPU, wherever it is missed, and GPUs that fail: one line that names the layer."""
import functools
import importlib
import sys
from typing import Any

import emulated_cupy
import fake_cudnn
import numpy as np
import pytest
from emulated_cupy import memory

import cuda_cpu
from programs import error_of, run, training_folder
from spp import backend
from spp.errors import DeviceError, NetError
from spp.layers import TRAIN
from spp.net import Net
from spp.proto.text import parse_net

pytestmark = pytest.mark.skipif(cuda_cpu.COMPILER is None, reason=cuda_cpu.MISSING)
NET = """
layer { name: "in" type: "Input" top: "x" top: "label"
  input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } shape { dim: 2 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv" convolution_param { num_output: 4 kernel_size: 3
  weight_filler { type: "gaussian" std: 0.3 } } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 3 } }
layer { name: "add" type: "Bias" bottom: "fc" top: "add" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "add" bottom: "label" top: "loss" }
"""
ILLEGAL = "cudaErrorIllegalAddress: an illegal memory access was encountered"
LOST = (f"GPU 0 has failed and is lost to this process, by this or by work begun earlier ({ILLEGAL}); go on from the "
        "last snapshot, with CUDA_LAUNCH_BLOCKING=1 to learn where it is")
FREE = "of the 17,179,869,184 bytes of GPU 0 8,589,934,592 are free"


@pytest.fixture
def cupy(monkeypatch):
    with emulated_cupy.installed() as module:
        monkeypatch.setitem(sys.modules, "cudnn", fake_cudnn.module())
        yield module
        memory.State.failed = ""


def net():
    return Net(parse_net(NET), TRAIN, device="cuda", seed=1)


class Failing:
    """Replaces a function, and raises `error` at its first `times` calls."""

    def __init__(self, function: Any, error: str, times: int = 10 ** 6) -> None:
        self.function, self.error, self.left = function, error, times

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left >= 0:
            raise RuntimeError(self.error)
        return self.function(*args, **kwargs)


def method(owner, name):
    """Something that replaces a method."""
    def replace(patch, cupy, *failing):
        wrong = Failing(getattr(owner(cupy), name), *failing)
        patch.setattr(owner(cupy), name, lambda self, *args, **kwargs: wrong(self, *args, **kwargs))
    return replace


def cublas(patch, cupy, *failing):
    patch.setattr(cupy.cuda, "get_cublas_handle", Failing(cupy.cuda.get_cublas_handle, *failing))


def cudnn_handle(patch, cupy, *failing):
    patch.setattr(sys.modules["cudnn"], "create_handle", Failing(sys.modules["cudnn"].create_handle, *failing))


def of_graph(name):
    return method(lambda cupy: fake_cudnn.Graph, name)


def cuda_kernel(patch, cupy, *failing):
    """The launch of a kernel of ours; the convolution here has none."""
    kernels: Any = importlib.import_module("spp.backend.cuda.kernels")
    kernel = kernels._kernel
    launch = Failing(lambda names, *args: kernel(*names)(*args), *failing)
    patch.setattr(kernels, "_kernel", lambda *names: functools.partial(launch, names))


def cupy_kernel(patch, cupy, *failing):
    add = type(cupy.add).__call__
    wrong = Failing(add, *failing)
    patch.setattr(type(cupy.add), "__call__", lambda self, *args, **kwargs: (
        wrong if self.name == "add" and args[0].shape == (2, 3) else add)(self, *args, **kwargs))


DRIVER, RUNTIME = "CUDA_ERROR_OUT_OF_MEMORY: out of memory", "cudaErrorMemoryAllocation: out of memory"
WHERE = [       # who asks for memory, what is said, the layer
    (cublas, "CUBLAS_STATUS_ALLOC_FAILED", "'conv' (Convolution)"),         # cuDNN is tried first
    (cudnn_handle, "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "'conv' (Convolution)"),
    (of_graph("build_plans"), "[cudnn_frontend] Error:\nCUDNN_STATUS_ALLOC_FAILED", "'conv' (Convolution)"),
    (of_graph("execute"), "CUDNN_STATUS_EXECUTION_FAILED: out of memory", "'conv' (Convolution)"),
    (cuda_kernel, DRIVER, "'pool' (Pooling)"),
    (method(lambda cupy: cupy.RawModule, "get_function"), DRIVER, "'pool' (Pooling)"),
    (cupy_kernel, RUNTIME, "'fc' (InnerProduct)"),
]
NAMES = ["cublas", "create_handle", "build_plans", "execute", "launch", "load", "cupy"]


@pytest.mark.parametrize("replace, text, layer", WHERE, ids=NAMES)
def test_too_little_memory_in_a_library_names_the_layer(cupy, monkeypatch, caplog, replace, text, layer):
    instance = net()
    with monkeypatch.context() as patch:
        replace(patch, cupy, text)
        with pytest.raises(NetError) as error:
            instance.forward(x=np.ones((2, 3, 9, 8), np.float32))
    assert str(error.value) == (f"layer {layer}: needs more memory than there is ({' '.join(text.split())}; {FREE}); "
                                "make its sizes, the input or the batch smaller")
    instance.forward(x=np.ones((2, 3, 9, 8), np.float32))       # nothing remembers it
    assert np.isfinite(instance.loss) and not caplog.records
    assert fake_cudnn.Graph.instances[-1].runs


@pytest.mark.parametrize("replace, text, layer", WHERE[:-1], ids=NAMES[:-1])
def test_what_the_pool_keeps_unused_is_given_back_first(cupy, monkeypatch, replace, text, layer):
    instance, before = net(), memory.State.freed
    with monkeypatch.context() as patch:
        replace(patch, cupy, text, 1)
        instance.forward(x=np.ones((2, 3, 9, 8), np.float32))
    assert memory.State.freed == before + 1


def test_a_workspace_that_is_not_to_be_had(cupy, monkeypatch):
    instance = net()
    monkeypatch.setattr(fake_cudnn.Graph, "get_workspace_size", lambda self: 1 << 20)
    monkeypatch.setattr(memory.State, "limit", 1 << 19)
    with pytest.raises(NetError, match=r"layer 'conv' \(Convolution\): needs more memory than there is \(Out of "
                                       r"memory allocating 1,048,576 bytes"):
        instance.forward()


@pytest.mark.parametrize("free, declined", [(1 << 20, False), (1 << 33, True)])
def test_what_libraries_say_where_hardly_any_memory_is_left(cupy, monkeypatch, caplog, free, declined):
    instance = net()
    monkeypatch.setattr(cupy.cuda.runtime, "memGetInfo", lambda: (free, 1 << 34))
    cudnn_handle(monkeypatch, cupy, "CUDNN_STATUS_NOT_INITIALIZED")
    if declined:        # for another reason
        instance.forward()
        assert "cuDNN declines a convolution (FLOAT, forward)" in caplog.text
    else:
        with pytest.raises(NetError, match=r"layer 'conv'.*CUDNN_STATUS_NOT_INITIALIZED; of the .* 1,048,576 are fr"):
            instance.forward()


def test_other_errors_are_left_alone(cupy, monkeypatch):
    instance = net()
    cupy_kernel(monkeypatch, cupy, "CUBLAS_STATUS_INVALID_VALUE")
    with pytest.raises(RuntimeError, match="^CUBLAS_STATUS_INVALID_VALUE$") as error:
        instance.forward()
    assert backend.as_spp_error(error.value) is error.value
    assert str(backend.as_spp_error(MemoryError("4 bytes"))) == (
        "needs more memory than there is (4 bytes); make its sizes, the input or the batch smaller")
    wrong = NetError("as it is")
    assert backend.as_spp_error(wrong) is wrong


# --- a GPU that is lost

def lose():
    memory.State.failed = ILLEGAL


def test_a_lost_gpu_is_told_in_one_line(cupy):
    instance = net()
    instance.forward()
    loss = instance.fetch_loss()
    lose()
    with pytest.raises(DeviceError) as error:
        instance.forward()
    assert str(error.value) == f"layer 'conv' (Convolution): {LOST}"
    with pytest.raises(DeviceError) as error:
        instance.backward_layers(5, 0)
    assert str(error.value) == f"layer 'loss' (SoftmaxWithLoss): {LOST}"
    device = instance.context.backend
    with pytest.raises(DeviceError) as error:
        loss()
    assert str(error.value) == f"layer 'loss' (SoftmaxWithLoss): {LOST}"        # whose labels are looked at first
    for outside in (instance.clear_param_diffs, device.synchronize, device.fetch(instance.blobs["fc"].data[0, 0]),
                    lambda: device.to_host(instance.blobs["x"].data)):
        with pytest.raises(DeviceError) as error:
            outside()
        assert str(error.value) == LOST


def test_a_convolution_does_not_turn_to_im2col_on_a_lost_gpu(cupy, monkeypatch, caplog):
    instance = net()
    monkeypatch.setattr(fake_cudnn.Graph, "check_support", lambda self: lose())
    with pytest.raises(DeviceError, match=r"layer 'conv' \(Convolution\): GPU 0 has failed"):
        instance.forward()
    assert not caplog.records


def test_a_program_ends_with_one_line(cupy, tmp_path, monkeypatch):
    folder = training_folder(tmp_path)
    cuda: Any = importlib.import_module("spp.backend.cuda")
    run_update, calls = cuda.update, []

    def at_the_third(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 3:
            lose()
        run_update(*args)

    monkeypatch.setattr(cuda, "update", at_the_third)
    result = run("train_net", "--solver", "solver.prototxt", "--device", "cuda", cwd=folder)
    assert error_of(result) == f"error: {LOST}"


def test_a_solver_that_reads_images_can_be_closed_all_the_same(cupy, make):
    solver = make(device="cuda")
    solver.step(2)
    lose()
    with pytest.raises(DeviceError, match=r"layer 'data' \(Data\): GPU 0 has failed|^GPU 0 has failed"):
        solver.step(1)
    solver.close()
