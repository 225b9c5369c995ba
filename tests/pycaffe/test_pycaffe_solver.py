"""spp.pycaffe: the solvers, Python layers, and what is set for the whole process."""
import gc
import io as text_io
import logging
import sys
import threading

import numpy as np
import pytest

import spp.pycaffe as caffe
from pycaffe_nets import DEPLOY, NET, X, write
from spp.data import datum
from spp.data.database import DatabaseWriter
from spp.errors import SppError

# --- solvers

SOLVER = """
net: '%s' test_iter: 3 test_interval: 10 base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: 'inv'
gamma: 0.0001 power: 0.75 display: 50 max_iter: 100 snapshot_after_train: false snapshot_prefix: 'model'
"""


@pytest.fixture
def solver_file(tmp_path):
    return write(tmp_path, SOLVER % write(tmp_path, NET % 13), "solver.prototxt")


@pytest.mark.parametrize("make", [caffe.SGDSolver, caffe.get_solver])
def test_solve(solver_file, make):
    solver = make(solver_file)
    assert type(solver) is caffe.SGDSolver and solver.iter == 0 and solver.lr == pytest.approx(0.01)
    assert solver.param.max_iter == 100 and solver.param.display == 50 and solver.param.layer_wise_reduce
    solver.solve()
    assert solver.iter == 100 and solver.lr == pytest.approx(0.01 * (1 + 0.0001 * 100) ** -0.75)


@pytest.mark.parametrize("name", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_every_solver(tmp_path, name):
    momentum = "" if name in ("AdaGrad", "RMSProp") else "momentum: 0.9"
    net_file = write(tmp_path, NET % 13)
    path = write(tmp_path, f"net: '{net_file}' type: '{name}' base_lr: 0.01 lr_policy: 'fixed' {momentum} "
                 "delta: 0.0001", "s.prototxt")
    solver = caffe.get_solver(path)
    assert type(solver) is getattr(caffe, f"{name}Solver")
    before = np.array(solver.net.params["ip"][0].data)
    solver.step(2)
    assert solver.iter == 2 and (solver.net.params["ip"][0].data != before).any()
    if momentum:
        assert caffe.SGDSolver(path).param.type == "SGD"        # whatever the file says


def test_settings_of_the_solver_can_be_changed(solver_file):
    solver = caffe.SGDSolver(solver_file)
    solver.param.max_iter, solver.param.base_lr = 3, 0.5
    assert solver.lr == 0.5
    solver.solve()
    assert solver.iter == 3


def test_apply_update(solver_file):
    solver = caffe.SGDSolver(solver_file)
    weight = solver.net.params["conv"][0]
    weight.data[...], weight.diff[...] = 0, 1
    solver.apply_update()
    np.testing.assert_allclose(weight.data, -0.01, 1e-6)
    assert solver.iter == 1


def test_nets_outlive_the_solver(solver_file):
    solver = caffe.SGDSolver(solver_file)
    nets = [solver.net, *solver.test_nets]
    assert len(nets) == 2
    del solver
    gc.collect()
    for net in nets:
        assert all(np.isfinite(blob.data.sum()) for blob in [*net.blobs.values(), *net.params["ip"]])
        assert net.forward()["loss"] > 0


DATA = """
layer { name: 'd' type: 'Data' top: 'x' data_param { source: '%s' batch_size: 2 } }
layer { name: 'ip' type: 'InnerProduct' bottom: 'x' top: 'y' loss_weight: 1 inner_product_param { num_output: 1 } }
"""


def test_no_thread_outlives_net_and_solver(tmp_path):
    with DatabaseWriter(str(tmp_path / "db")) as writer:
        for i in range(4):
            writer.put(b"%d" % i, datum.raw(np.full((2, 2, 3), i, np.uint8), i))
    net_file = write(tmp_path, DATA % (tmp_path / "db"))
    solver_file = write(tmp_path, f"net: '{net_file}' base_lr: 1 lr_policy: 'fixed'", "s.prototxt")
    before = threading.active_count()
    net, solver = caffe.Net(net_file, caffe.TEST), caffe.SGDSolver(solver_file)
    net.forward()
    solver.step(1)
    assert threading.active_count() > before
    train_net = solver.net
    del solver, net
    gc.collect()
    assert (train_net.forward()["y"].shape, train_net.blobs["x"].data[0, 0, 0, 0]) == ((2, 1), 2)
    del train_net
    gc.collect()
    assert threading.active_count() == before


def test_snapshot_and_restore(solver_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    solver = caffe.SGDSolver(solver_file)
    solver.snapshot()
    assert {f.name for f in tmp_path.glob("model*")} == {"model_iter_0.caffemodel", "model_iter_0.solverstate"}
    solver.step(4)
    solver.snapshot()
    for resume in (lambda s: s.restore("model_iter_4.solverstate"), lambda s: s.solve("model_iter_4.solverstate")):
        other = caffe.SGDSolver(solver_file)
        other.param.max_iter = 4
        resume(other)
        assert other.iter == 4
        np.testing.assert_array_equal(other.net.params["ip"][0].data, solver.net.params["ip"][0].data)
    with pytest.raises(RuntimeError, match="Could not open file model_iter_5.solverstate"):
        solver.restore("model_iter_5.solverstate")


def test_solver_callbacks_and_sharing(solver_file, tmp_path):
    solver = caffe.SGDSolver(solver_file)
    other = caffe.Net(write(tmp_path, NET % 13), caffe.TEST)
    solver.share_weights(other)
    seen = []

    def start():
        seen.append(("start", solver.iter, bool(solver.net.params["ip"][0].diff.any())))

    def ready():
        seen.append(("ready", solver.iter, bool(solver.net.params["ip"][0].diff.any())))
        for blobs in solver.net.params.values():
            for blob in blobs:
                blob.diff[...] = 0

    solver.param.weight_decay = 0
    solver.add_callback(start, ready)
    before = np.array(other.params["ip"][0].data)
    solver.step(2)
    assert seen == [("start", 0, False), ("ready", 0, True), ("start", 1, False), ("ready", 1, True)]
    np.testing.assert_array_equal(other.params["ip"][0].data, before)
    solver.net.params["ip"][0].data[0, 0] = 77
    assert other.params["ip"][0].data[0, 0] == 77


def test_a_solver_finds_its_net_from_another_folder(tmp_path, monkeypatch):
    write(tmp_path, NET % 13)
    path = write(tmp_path, SOLVER % "net.prototxt", "solver.prototxt")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert caffe.SGDSolver(path).net.outputs == ["loss"]


@pytest.mark.parametrize("text, message", [
    (None, "Could not open file .*solver.prototxt"),
    ("net: 'nowhere.prototxt' base_lr: 1 lr_policy: 'fixed'", "File not found: nowhere.prototxt"),
    ("base_lr: 1 lr_policy: 'fixed'", "exactly one of net, net_param, train_net, train_net_param; found none")])
def test_wrong_solvers(tmp_path, text, message):
    path = write(tmp_path, text, "solver.prototxt") if text else str(tmp_path / "solver.prototxt")
    for make in (caffe.SGDSolver, caffe.get_solver):
        with pytest.raises(RuntimeError, match=message):
            make(path)


# --- Python layers

MODULE = '''
import spp.pycaffe as caffe
from pycaffe_nets import DEPLOY, NET, X, write


class Times10(caffe.Layer):
    def setup(self, bottom, top):
        self.factor = float(self.param_str or 10)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.factor * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.factor * top[0].diff


class Broken(caffe.Layer):
    def setup(self, bottom, top):
        raise RuntimeError("broken by design")

    def forward(self, bottom, top):
        pass


class WithParameter(caffe.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = 0

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        pass


class Phase(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def set_roidb(self, roidb):
        self.roidb = roidb

    def reshape(self, bottom, top):
        top[0].reshape()

    def forward(self, bottom, top):
        top[0].data[()] = self.phase
'''
PYTHON = ("layer {{ name: '{0}' type: 'Python' bottom: '{1}' top: '{0}' python_param {{ module: 'pycaffe_test_layers' "
          "layer: '{2}' {3} }} }}\n")
INPUT = "force_backward: true input: 'data' input_shape { dim: 10 dim: 9 dim: 8 dim: 3 }\n"


@pytest.fixture
def python_net(tmp_path):
    (tmp_path / "pycaffe_test_layers.py").write_text(MODULE)
    yield lambda text, phase=caffe.TEST: caffe.Net(write(tmp_path, text, "python.prototxt"), phase)
    sys.modules.pop("pycaffe_test_layers", None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


@pytest.mark.parametrize("rest, factor", [("", 1000), ("param_str: '2'", 8)])
def test_python_layers(python_net, rest, factor):
    caffe_net = python_net(INPUT + "".join(PYTHON.format(name, bottom, "Times10", rest) for name, bottom in
                                           (("one", "data"), ("two", "one"), ("three", "two"))))
    caffe_net.blobs["data"].data[...] = 7
    assert (caffe_net.forward()["three"] == 7 * factor).all()
    caffe_net.blobs["three"].diff[...] = 3
    assert (caffe_net.backward()["data"] == 3 * factor).all()
    caffe_net.blobs["data"].reshape(4, 4, 4, 4)
    caffe_net.forward()
    assert [blob.shape for blob in caffe_net.blobs.values()] == [(4, 4, 4, 4)] * 4


def test_errors_of_python_layers_come_through(python_net):
    with pytest.raises(RuntimeError, match="^broken by design"):
        python_net(INPUT + PYTHON.format("one", "data", "Broken", ""))


def test_parameters_of_python_layers(python_net, tmp_path):
    text = INPUT + PYTHON.format("layer", "data", "WithParameter", "")
    caffe_net, weights = python_net(text), str(tmp_path / "w.caffemodel")
    assert caffe_net.params["layer"][0].data[0] == 0
    caffe_net.params["layer"][0].data[0] += 1
    caffe_net.save(weights)
    loaded, sharing = python_net(text), python_net(text)
    loaded.copy_from(weights)
    assert loaded.params["layer"][0].data[0] == 1
    sharing.share_with(caffe_net)
    caffe_net.params["layer"][0].data[0] = 5
    assert sharing.params["layer"][0].data[0] == 5


@pytest.mark.parametrize("phase", [caffe.TRAIN, caffe.TEST])
def test_python_layers_know_the_phase(python_net, phase):
    text = ("layer { name: 'layer' type: 'Python' top: 'phase' python_param { module: 'pycaffe_test_layers' "
            "layer: 'Phase' } }")
    caffe_net = python_net(text, phase)
    assert caffe_net.forward()["phase"] == phase and caffe_net.blobs["phase"].shape == ()
    caffe_net.layers[0].set_roidb([1, 2])          # as py-faster-rcnn does
    assert caffe_net.layers[0].roidb == [1, 2]


# --- the process

def test_layer_types():
    assert {"Data", "Convolution", "InnerProduct", "Python"} <= set(caffe.layer_type_list())


def test_random_seed(tmp_path):
    path = write(tmp_path, NET % 13)
    weights = []
    for seed in (1, 1, 2):
        caffe.set_random_seed(seed)
        weights += [np.array(caffe.Net(path, caffe.TRAIN).params["conv"][0].data) for _ in range(2)]
    assert (weights[0] != weights[1]).all() and (weights[0] != weights[4]).all()
    np.testing.assert_array_equal(weights[:2], weights[2:4])


def test_settings():
    assert (caffe.TRAIN, caffe.TEST, caffe.__version__) == (0, 1, "1.0.0")
    assert caffe.solver_count() == 1 and caffe.solver_rank() == 0
    caffe.set_solver_count(2)
    caffe.set_solver_rank(1)
    caffe.set_multiprocess(True)
    assert caffe.solver_count() == 2 and caffe.solver_rank() == 1
    caffe.set_solver_count(1)
    caffe.set_solver_rank(0)
    caffe.set_multiprocess(False)
    assert not caffe.has_nccl()
    with pytest.raises(RuntimeError, match="needs NCCL"):
        caffe.NCCL(None, "uid")


def test_modes(monkeypatch, tmp_path):
    def no_gpu(device):
        raise SppError(f"no {device}")
    monkeypatch.setattr("spp.backend.select", no_gpu)
    caffe.set_device(2)
    with pytest.warns(RuntimeWarning, match="no GPU can be used, computing on the CPU: no cuda:2"):
        caffe.set_mode_gpu()
    monkeypatch.undo()
    caffe.set_device(0)
    caffe.set_mode_cpu()
    assert caffe.Net(write(tmp_path, DEPLOY), caffe.TEST).forward(data=X)["pool"].shape == (4, 3, 1, 1)


def test_log(solver_file, monkeypatch):
    logger, stream = logging.getLogger("spp"), text_io.StringIO()
    before = logger.level, list(logger.handlers)
    monkeypatch.setattr(sys, "stderr", stream)
    try:
        caffe.init_log()
        caffe.log("hello")
        solver = caffe.SGDSolver(solver_file)
        solver.param.max_iter = 1
        solver.solve()
        monkeypatch.setenv("GLOG_minloglevel", "2")
        caffe.log("not shown")
        caffe.init_log(0)
        caffe.log("shown again")
        caffe.init_log(0, False)
        caffe.log("nowhere")
        with pytest.raises(ValueError, match="level must be 0"):
            caffe.init_log(4)
    finally:
        caffe.init_log(0, False)
        logger.setLevel(before[0])
        assert logger.handlers == before[1]
    lines = stream.getvalue().splitlines()
    assert all(line[0] == "I" and line[1:5].isdigit() and "] " in line for line in lines)
    messages = [line.split("] ", 1)[1] for line in lines]
    assert messages[:3] == ["hello", "Solving testnet", "Learning Rate Policy: inv"]
    assert messages[-1] == "shown again" and "Optimization Done." in messages and "not shown" not in messages
    assert any(line.startswith("    Train net output #0: loss = ") for line in messages)


def test_timer():
    timer = caffe.Timer()
    timer.start()
    sum(range(10000))
    timer.stop()
    assert 0 < timer.ms < 10000
    first = timer.ms
    assert timer.ms == first
