"""Fixtures that several files of tests use; SPP_TEST_DEVICE says on which device the tests run, see on_device.py."""
import os
import signal
import sys

import workers      # before NumPy: sets the number of threads

import numpy as np
import pytest

from small_solver import NET, SOLVER
from spp import backend
from spp.data import datum
from spp.data.database import DatabaseWriter
from spp.errors import SppError
from spp.proto.text import parse_solver
from spp.solver import Solver

# A run in the background is started with SIGINT ignored, and so would be the programs that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
workers.lock_cache()

DEVICE = os.environ.get("SPP_TEST_DEVICE", "cpu")       # cpu, cuda, cuda:<index> or emulated
if DEVICE == "cpu":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""     # or a machine's GPU would be the device "auto", in programs too
# Files of tests that look at the host itself, and those that choose their devices.
OF_THE_HOST = ("test_allocations", "test_backend", "test_blob", "test_elementwise", "test_host_memory",
               "test_winograd")
OF_ANY_DEVICE = ("test_cuda", "test_device_nets", "test_benchmarks", "test_precision")


def pytest_collection_modifyitems(items):
    workers.long_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return workers.scheduler(config, log)


def pytest_sessionstart(session):
    """No GPU that works: no run, and nothing that looks like one."""
    if DEVICE not in ("cpu", "emulated"):
        try:
            backend.select(DEVICE)
        except SppError as error:
            pytest.exit(f"SPP_TEST_DEVICE: {error} (to install from these sources: {sys.executable} -m pip install "
                        "--editable '.[cuda13]')", returncode=1)


def pytest_report_header():
    """What a run on a GPU runs on: without cuDNN, too, all tests pass."""
    if DEVICE in ("cpu", "emulated"):
        return None
    import cupy
    used = backend.select(DEVICE)
    from spp.backend.cuda import convolution_plans
    with used.use():
        cudnn, device = convolution_plans.library(), cupy.cuda.Device()
        name = cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode()
    version = f"cuDNN {cudnn.backend_version_string()}" if cudnn else "no cuDNN"
    return f"{DEVICE}: {name} (sm_{device.compute_capability}), CuPy {cupy.__version__}, {version}"


@pytest.fixture(scope="module", autouse=True)
def _device(request):
    name = request.module.__name__
    if DEVICE == "cpu" or name.startswith(OF_ANY_DEVICE):
        yield
        return
    import emulated_cupy
    import on_device
    if name.startswith(OF_THE_HOST):
        with on_device.by_default("cpu"):
            yield
    elif DEVICE == "emulated":
        with emulated_cupy.installed(), on_device.used("cuda"):
            yield
    else:
        with on_device.used(DEVICE):
            yield


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("db") / "db")
    rng = np.random.default_rng(0)
    with DatabaseWriter(path) as writer:
        for i in range(13):
            image = rng.integers(0, 255, (12, 11, 3), np.uint8)
            image[:, :, i % 3] //= 4
            writer.put(b"%08d" % i, datum.raw(image, i % 3))
    return path


@pytest.fixture
def make(database, tmp_path):
    solvers = []

    def solver(extra="", net=NET, **arguments):
        text = SOLVER % (net % (database, database), tmp_path / "s", extra)
        solvers.append(Solver(parse_solver(text), **arguments))
        return solvers[-1]

    yield solver
    for one in solvers:
        one.close()
