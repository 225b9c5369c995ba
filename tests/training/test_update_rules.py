"""Update rules against their formulas, resuming with each, and the solver's fields beside the rule."""
import os
import re

import h5py
import numpy as np
import pytest

from spp import weights
from spp.training import snapshot
from spp.backend import host
from spp.backend.types import UpdateStep
from spp.errors import NetError, SolverError
from spp.net import Net
from spp.proto import binary, text
from spp.training.reporting import Listener
from spp.solver import Solver
from spp.training.update_rules import RULES

NET = """
layer { name: "data" type: "DummyData" top: "data" dummy_data_param { shape { dim: 4 dim: 3 }
  data_filler { type: "gaussian" std: 1 } } }
layer { name: "label" type: "DummyData" top: "label" dummy_data_param { shape { dim: 4 }
  data_filler { type: "constant" value: 1 } } }
layer { name: "fc/1" type: "InnerProduct" bottom: "data" top: "fc" param { name: "w" }
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "fc" top: "fc" relu_param { negative_slope: 0.5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""
NUMBERS = {"SGD": "momentum: 0.9", "Nesterov": "momentum: 0.9", "AdaGrad": "delta: 0.01",
           "RMSProp": "rms_decay: 0.8 delta: 0.01", "AdaDelta": "momentum: 0.95 delta: 0.01",
           "Adam": "momentum: 0.9 momentum2: 0.99 delta: 0.01"}


class Recorder(Listener):
    def __init__(self):
        self.messages, self.losses = [], {}

    def on_step(self, solver, iteration, loss, lr, images):
        self.losses[iteration] = loss

    def on_message(self, solver, line):
        self.messages.append(line)


def make(tmp_path, extra="", net=NET, listener=None, **arguments):
    param = text.parse_solver(f'net_param {{ {net} }} base_lr: 0.1 lr_policy: "fixed" random_seed: 3 max_iter: 20 '
                              f'snapshot_prefix: "{tmp_path}/s" {extra}')
    return Solver(param, listeners=[listener] if listener else [], **arguments)


def params_of(solver):
    return [entry.blob.data.copy() for entry in solver.net.learnable]


# --- the rules: caffe.md 3.1, in double precision

def reference(kind, w, gradients, rate):
    """The parameter after one update for each gradient."""
    first, second = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        if kind == "SGD":
            first = 0.9 * first + rate * g
            w = w - first
        elif kind == "Nesterov":
            before, first = first, 0.9 * first + rate * g
            w = w - (1.9 * first - 0.9 * before)
        elif kind == "AdaGrad":
            first = first + g ** 2
            w = w - rate * g / (np.sqrt(first) + 0.01)
        elif kind == "RMSProp":
            first = 0.8 * first + 0.2 * g ** 2
            w = w - rate * g / (np.sqrt(first) + 0.01)
        elif kind == "AdaDelta":
            first = 0.95 * first + 0.05 * g ** 2
            u = g * np.sqrt((second + 0.01) / (first + 0.01))
            second = 0.95 * second + 0.05 * u ** 2
            w = w - rate * u
        else:
            first, second = 0.9 * first + 0.1 * g, 0.99 * second + 0.01 * g ** 2
            w = w - rate * np.sqrt(1 - 0.99 ** t) / (1 - 0.9 ** t) * first / (np.sqrt(second) + 0.01)
    return w


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-6), (np.float32, 1e-4)])
@pytest.mark.parametrize("kind", RULES)
def test_rule(kind, dtype, tolerance):
    p = text.parse_solver(f'type: "{kind}" {NUMBERS[kind]}')
    rng = np.random.default_rng(1)
    data, before = [rng.standard_normal(7).astype(dtype)] * 2
    data = data.copy()
    histories = [np.zeros(7, dtype) for _ in range(RULES[kind].histories)]
    gradients = rng.standard_normal((5, 7)).astype(dtype)
    for iteration, gradient in enumerate(gradients):
        RULES[kind].update([data], [gradient * 4], [[h] for h in histories],
                           UpdateStep([0.1], [0.0], False, 0.25, iteration), p)
    np.testing.assert_allclose(data, reference(kind, before.astype(np.float64), gradients, 0.1), tolerance, tolerance)
    assert all(history.any() for history in histories)


@pytest.mark.parametrize("l1", [False, True])
@pytest.mark.parametrize("kind", RULES)
def test_rule_with_decay(kind, l1):
    p = text.parse_solver(f'type: "{kind}" {NUMBERS[kind]}')
    before = np.array([-2.0, 0.5, 3.0])
    data, histories = before.copy(), [np.zeros(3) for _ in range(RULES[kind].histories)]
    gradient = np.array([1.0, -1.0, 0.25])
    RULES[kind].update([data], [gradient], [[h] for h in histories], UpdateStep([0.1], [0.3], l1, 2.0), p)
    whole = 2 * gradient + 0.3 * (np.sign(before) if l1 else before)
    np.testing.assert_allclose(data, reference(kind, before, [whole], 0.1), 1e-6)


@pytest.mark.parametrize("kind", RULES)
def test_a_gradient_that_is_no_number_stays_seen(kind):
    p = text.parse_solver(f'type: "{kind}" {NUMBERS[kind]}')
    data, histories = np.ones(3, np.float32), [np.zeros(3, np.float32) for _ in range(RULES[kind].histories)]
    gradient = np.array([1, np.nan, 1], np.float32)
    RULES[kind].update([data], [gradient], [[h] for h in histories], UpdateStep([0.1], [0.0], False, 1.0), p)
    assert np.isnan(data).tolist() == [False, True, False]


@pytest.mark.parametrize("format", ["BINARYPROTO", "HDF5"])
@pytest.mark.parametrize("kind", RULES)
def test_train_20_is_train_10_resume_train_10(tmp_path, kind, format):
    extra = f'type: "{kind}" {NUMBERS[kind]} weight_decay: 0.01 snapshot_format: {format}'
    whole, rest = Recorder(), Recorder()
    uninterrupted = make(tmp_path, extra, listener=whole)
    uninterrupted.step(20)
    half = make(tmp_path, extra)
    half.step(10)
    path = half.snapshot()
    resumed = make(tmp_path, extra, listener=rest)
    resumed.restore(path)
    resumed.step(10)
    assert rest.losses == {i: whole.losses[i] for i in range(11, 21)}
    for mine, theirs in zip(params_of(resumed), params_of(uninterrupted)):
        np.testing.assert_array_equal(mine, theirs)
    state = snapshot.read(path)
    assert [h.shape for h in state.history] == [(2, 3), (2,)] * RULES[kind].histories
    np.testing.assert_array_equal(state.history[-1], half.context.backend.to_host(half.history[-1]))


@pytest.mark.parametrize("change, message", [
    ('type: "Sgd"', "unknown solver type 'Sgd'; known types: SGD, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam"),
    ('type: "AdaGrad" momentum: 0.9', "momentum cannot be used with solver type AdaGrad; found 0.9, remove it"),
    ('type: "RMSProp" momentum: 0.9', "momentum cannot be used with solver type RMSProp; found 0.9, remove it"),
    ('type: "RMSProp" rms_decay: 1', "RMSProp needs 0 <= rms_decay < 1, found 1"),
    ('type: "Adam" momentum: 1', "Adam needs 0 <= momentum < 1, found 1"),
    ('type: "Adam" momentum2: -0.5', "Adam needs 0 <= momentum2 < 1, found -0.5")])
def test_numbers_that_do_not_suit_the_rule(tmp_path, change, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        make(tmp_path, change)


def test_a_snapshot_of_another_rule_is_refused(tmp_path):
    path = make(tmp_path, 'type: "Adam"').snapshot()
    with pytest.raises(SolverError, match="holds 4 history blobs, this net and solver need 2; is it the snapshot of "
                                          "another net or solver type"):
        make(tmp_path).restore(path)


# --- fields of the solver

def test_debug_info_on_display_iterations(tmp_path):
    recorder = Recorder()
    solver = make(tmp_path, "debug_info: true display: 2", listener=recorder)
    weight = solver.net.params["fc/1"][0].data.copy()
    solver.step(1)
    first, recorder.messages[:] = list(recorder.messages), []
    solver.step(1)
    assert not recorder.messages
    heads = [line.rpartition(": ")[0] for line in first]
    assert heads == [
        "    [Forward] Layer data, top blob data data", "    [Forward] Layer label, top blob label data",
        "    [Forward] Layer fc/1, top blob fc data", "    [Forward] Layer fc/1, param blob w data",
        "    [Forward] Layer fc/1, param blob 1 data", "    [Forward] Layer relu, top blob fc data",
        "    [Forward] Layer loss, top blob loss data", "    [Backward] Layer loss, bottom blob fc diff",
        "    [Backward] Layer relu, bottom blob fc diff", "    [Backward] Layer fc/1, param blob 0 diff",
        "    [Backward] Layer fc/1, param blob 1 diff", first[-1].rpartition(": ")[0]]
    values = {line.rpartition(": ")[0]: line.rpartition(": ")[2] for line in first}
    assert values[heads[3]] == f"{np.abs(weight).mean(dtype=np.float64):g}"
    assert values[heads[2]] != values[heads[5]]         # in place, yet each layer shows its own values
    norms = re.fullmatch(r"    \[Backward\] All net params \(data, diff\): L1 norm = \((\S+), \S+\); "
                         r"L2 norm = \((\S+), \S+\)", first[-1])
    assert norms and norms.group(1) == f"{np.abs(weight.astype(np.float64)).sum():g}"
    assert norms.group(2) == f"{np.sqrt((weight.astype(np.float64) ** 2).sum()):g}"


def test_debug_info_of_test_nets_and_of_the_net_itself(tmp_path):
    recorder = Recorder()
    make(tmp_path, "debug_info: true test_iter: 1 test_interval: 1", listener=recorder).test_all()
    assert recorder.messages[-1].startswith("    [Forward] Layer loss, top blob loss data: ")
    recorder.messages.clear()
    make(tmp_path, "display: 1", net="debug_info: true " + NET, listener=recorder).step(1)
    assert recorder.messages[0].startswith("    [Forward] Layer data, top blob data data: ")


def test_snapshot_diff(tmp_path):
    solver = make(tmp_path, "snapshot_diff: true")
    solver.step(1)
    diff = solver.net.params["fc/1"][0].diff
    assert diff.any()
    solver.snapshot()
    saved = next(layer for layer in binary.read_net_binary(str(tmp_path / "s_iter_1.caffemodel")).layer
                 if layer.name == "fc/1")
    np.testing.assert_array_equal(np.reshape(saved.blobs[0].diff, (2, 3)), diff)
    solver.param.snapshot_format = solver.param.HDF5
    solver.snapshot()
    with h5py.File(tmp_path / "s_iter_1.caffemodel.h5") as file:
        np.testing.assert_array_equal(file["diff/fc/1/0"], diff)
        np.testing.assert_array_equal(file["data/fc/1/0"], solver.net.params["fc/1"][0].data)


def devices_of_nets(monkeypatch):
    """A list that gets the device of every net that a solver makes; the nets are on the host."""
    devices = []

    def net(*args, device, **more):
        devices.append(device)
        return Net(*args, **more)

    monkeypatch.setattr("spp.solver.Net", net)
    return devices


@pytest.mark.parametrize("extra, device, expected", [
    ("solver_mode: CPU", "auto", "cpu"), ("solver_mode: CPU", "cpu", "cpu"), ("solver_mode: GPU", "auto", "auto"),
    ("", "auto", "auto")])
def test_the_device_is_the_solvers_where_the_user_gives_none(tmp_path, monkeypatch, extra, device, expected):
    devices = devices_of_nets(monkeypatch)
    make(tmp_path, extra, device=device)
    assert devices == [expected]


def test_the_device_id_counts_where_it_can_be_had(tmp_path, monkeypatch):
    devices = devices_of_nets(monkeypatch)
    monkeypatch.setattr("spp.backend.select", lambda device: host)
    make(tmp_path, "device_id: 2")
    make(tmp_path, "device_id: 2 solver_mode: CPU")
    assert devices == ["cuda:2", "cpu"]


def test_weights_reach_layers_that_only_the_test_net_has(tmp_path):
    extra_layer = ('layer { name: "extra" type: "InnerProduct" bottom: "data" top: "extra" include { phase: TEST } '
                   'inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }')
    source = Net(text.parse_net(NET + extra_layer), seed=9)
    source.save(str(tmp_path / "w.caffemodel"))
    source.save(str(tmp_path / "more.caffemodel.h5"))
    solver = make(tmp_path, f'test_iter: 1 test_interval: 5 weights: "{tmp_path}/w.caffemodel, '
                            f'{tmp_path}/more.caffemodel.h5"', net=NET + extra_layer)
    np.testing.assert_array_equal(solver.test_nets[0].params["extra"][0].data, source.params["extra"][0].data)
    np.testing.assert_array_equal(solver.net.params["fc/1"][0].data, source.params["fc/1"][0].data)


def test_states_may_give_a_phase(tmp_path):
    solver = make(tmp_path, "test_iter: 1 test_iter: 1 test_interval: 5 test_state { phase: TRAIN } test_state { }")
    assert [net.phase for net in [solver.net, *solver.test_nets]] == [0, 0, 1]


def test_the_snapshot_folder_is_tried_before_the_training(tmp_path):
    (tmp_path / "file").write_text("")
    solver = make(tmp_path)
    solver.param.snapshot_prefix = str(tmp_path / "file" / "s")
    with pytest.raises(SolverError, match="cannot make the folder .*file of snapshot_prefix"):
        solver.solve()
    assert solver.iter == 0


# --- HDF5 weights

SHARED = """
input: "data" input_shape { dim: 2 dim: 3 }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { name: "w" }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } bias_filler { type: "constant" value: 1 } } }
layer { name: "b/c" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } bias_filler { type: "constant" value: 2 } } }
"""


@pytest.mark.parametrize("gone", [["data/b/c/0"], ["data/b/c/0", "data/b/c/1"]])
def test_hdf5_with_the_owners_parameters_only(tmp_path, gone):
    """As Caffe writes it; a bias that is shared too is missing at the end."""
    net_text = SHARED
    if len(gone) == 2:
        net_text = SHARED.replace('param { name: "w" }', 'param { name: "w" } param { name: "bias" }')
    source, path = Net(text.parse_net(net_text), seed=1), str(tmp_path / "w.caffemodel.h5")
    source.save(path)
    with h5py.File(path, "a") as file:
        for name in gone:
            del file[name]
    net = Net(text.parse_net(net_text), seed=2)
    net.copy_from(path)
    for layer in ("a", "b/c"):
        for mine, theirs in zip(net.params[layer], source.params[layer]):
            np.testing.assert_array_equal(mine.data, theirs.data)
    alone = Net(text.parse_net(SHARED.replace('param { name: "w" }', "")))
    if len(gone) == 1:
        with pytest.raises(NetError, match="layer 'b/c': param 0 is missing in the file, and is shared with no other"):
            alone.copy_from(path)


@pytest.mark.parametrize("names, message", [
    (("x", "x"), "HDF5 cannot hold layer 'x' beside another layer of that name"),
    (("x", "x/0"), "HDF5 cannot hold layer 'x' beside another layer of that name, or one named 'x/0'"),
    (("x/1", "x"), "HDF5 cannot hold layer 'x' beside another layer of that name, or one named 'x/1'"),
    (("x", "/y"), "HDF5 cannot hold a layer named '/y'; rename the layer, or save as .caffemodel"),
    (("", "y"), "HDF5 cannot hold a layer named ''")])
def test_names_that_hdf5_cannot_hold(tmp_path, names, message):
    a, b = (f'"{name}" type' for name in names)
    net = Net(text.parse_net(SHARED.replace('"a" type', a).replace('"b/c" type', b)))
    with pytest.raises(NetError, match=re.escape(message)):
        weights.write(net, str(tmp_path / "w.h5"))
    assert not os.listdir(tmp_path)
    net.save(str(tmp_path / "w.caffemodel"))
