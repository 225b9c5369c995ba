"""Solver: nets and states, testing, rates, snapshots that lose nothing, resuming bit for bit."""
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from spp import policies, snapshot
from spp.data import datum
from spp.data.database import DatabaseWriter
from spp.errors import SolverError, SppError
from spp.proto.text import parse_solver
from spp.reporting import Listener
from spp.solver import Solver

NET = """
layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "%s" backend: LMDB batch_size: 4 }
  transform_param { crop_size: 9 mirror: true scale: 0.01 } include { phase: TRAIN } }
layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "%s" backend: LMDB batch_size: 3 }
  transform_param { crop_size: 9 scale: 0.01 } include { phase: TEST } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 6 kernel_size: 3
  weight_filler { type: "msra" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "spp" type: "SPP" bottom: "conv" top: "spp" spp_param { bins: 2 bins: 1 } }
layer { name: "drop" type: "Dropout" bottom: "spp" top: "spp" dropout_param { dropout_ratio: 0.25 } }
layer { name: "fc" type: "InnerProduct" bottom: "spp" top: "fc" inner_product_param { num_output: 3
  weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""
SOLVER = """
net_param { %s }
base_lr: 0.05 lr_policy: "step" gamma: 0.5 stepsize: 7 momentum: 0.9 weight_decay: 0.001 random_seed: 3 max_iter: 20
test_iter: 2 test_interval: 4 snapshot_prefix: "%s" %s
"""


@pytest.fixture(scope="module")
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
    made = []

    def solver(extra="", net=NET, **arguments):
        text = SOLVER % (net % (database, database), tmp_path / "s", extra)
        made.append(Solver(parse_solver(text), **arguments))
        return made[-1]

    yield solver
    for one in made:
        one.close()


def weights(solver):
    return [np.array(entry.blob.data) for entry in solver.net.learnable]


class Recorder(Listener):
    def __init__(self):
        self.losses, self.tests, self.messages, self.snapshots, self.shown = {}, {}, [], [], []

    def on_step(self, solver, iteration, loss, lr, images):
        self.losses[iteration] = (loss, lr)
        assert images == 4 * solver.param.iter_size

    def on_display(self, solver, iteration, loss, lr, outputs):
        self.shown.append((iteration, loss, outputs))

    def on_test(self, solver, iteration, index, outputs, loss):
        self.tests[iteration] = outputs

    def on_snapshot(self, solver, path):
        self.snapshots.append(os.path.basename(path))

    def on_message(self, solver, text):
        self.messages.append(text)


@pytest.mark.parametrize("extra", ["", "snapshot_format: HDF5 plateau_param { patience: 1 }"])
def test_train_20_is_train_10_resume_train_10_bit_for_bit(make, tmp_path, extra):
    whole, first, second = Recorder(), Recorder(), Recorder()

    def solver(listener):
        made = make(extra, listeners=[listener])
        if extra:
            made.param.lr_policy = "plateau"
        return made

    uninterrupted = solver(whole)
    assert uninterrupted.solve() == "done"
    half = solver(first)
    half.max_iter = 10
    half.solve()
    suffix = ".h5" if "HDF5" in extra else ""
    path = str(tmp_path / f"s_iter_10.solverstate{suffix}")
    assert first.snapshots == [f"s_iter_10.caffemodel{suffix}", f"s_iter_10.solverstate{suffix}"]
    rest = solver(second)
    rest.restore(path)
    assert rest.iter == 10
    rest.solve()
    assert {**first.losses, **second.losses} == whole.losses
    assert {**first.tests, **second.tests} == whole.tests and sorted(whole.tests) == [0, 4, 8, 12, 16, 20]
    for mine, theirs in zip(weights(rest), weights(uninterrupted)):
        np.testing.assert_array_equal(mine, theirs)
    assert len({loss for loss, _ in whole.losses.values()}) == 20
    assert len({lr for _, lr in whole.losses.values()}) == 3


def test_a_run_without_a_seed_resumes_bit_for_bit_too(make, tmp_path):
    one = make()
    one.param.random_seed = -1
    first = Solver(one.param)
    recorder = Recorder()
    first.listeners.append(recorder)
    first.step(3)
    path = first.snapshot()
    first.step(3)
    second = Solver(one.param)
    assert second.seed != first.seed
    again = Recorder()
    second.listeners.append(again)
    second.restore(path)
    second.step(3)
    assert again.losses == {i: recorder.losses[i] for i in (4, 5, 6)}
    first.close()
    second.close()


def test_display_test_and_snapshot_events(make):
    recorder = Recorder()
    solver = make("display: 5 snapshot: 6 average_loss: 3", listeners=[recorder])
    solver.solve()
    assert [iteration for iteration, _, _ in recorder.shown] == [0, 5, 10, 15, 20]
    assert [name for name, _, _ in recorder.shown[0][2]] == ["loss"]
    assert [(name, weight) for name, _, weight in recorder.tests[0]] == [("accuracy", 0), ("loss", 1)]
    kinds = ("caffemodel", "solverstate")
    assert recorder.snapshots == [f"s_iter_{i}.{kind}" for i in (6, 12, 18, 20) for kind in kinds]
    assert snapshot.latest(solver.param.snapshot_prefix) == solver.param.snapshot_prefix + "_iter_20.solverstate"
    assert solver.test_nets[0].params["fc"][0].data is not solver.net.params["fc"][0].data
    assert np.shares_memory(solver.test_nets[0].params["fc"][0].data, solver.net.params["fc"][0].data)


def test_iter_size_adds_up_a_larger_batch(make):
    sure = NET.replace('dropout_ratio: 0.25', 'dropout_ratio: 0')
    small = make('iter_size: 2', net=sure)
    large = make('', net=sure.replace("batch_size: 4", "batch_size: 8"))
    small.step(3)
    large.step(3)
    for mine, theirs in zip(weights(small), weights(large)):
        np.testing.assert_allclose(mine, theirs, 1e-4, 1e-6)


def test_stop_finishes_the_iteration_and_snapshots(make):
    class Stopper(Recorder):
        def on_step(self, solver, iteration, loss, lr, images):
            if iteration == 5:
                solver.request_stop()

    recorder = Stopper()
    solver = make(listeners=[recorder])
    assert solver.solve() == "stopped" and solver.iter == 5
    assert recorder.snapshots == ["s_iter_5.caffemodel", "s_iter_5.solverstate"]


def test_request_snapshot(make):
    recorder = Recorder()
    solver = make("snapshot_after_train: false", listeners=[recorder])
    solver.request_snapshot()
    solver.solve()
    assert recorder.snapshots == ["s_iter_1.caffemodel", "s_iter_1.solverstate"]


def test_diverged_training_stops_and_keeps_the_last_snapshot(make, tmp_path):
    solver = make("snapshot: 2")
    solver.step(2)
    solver.net.params["conv"][0].data[0] = np.nan
    with pytest.raises(SolverError, match="the loss is nan at iteration 2: training has diverged; the last snapshot "
                                          "is of iteration 2; lower base_lr, or set clip_gradients"):
        solver.solve()
    make().restore(str(tmp_path / "s_iter_2.solverstate"))


def test_clipping_is_reported(make):
    recorder = Recorder()
    solver = make("clip_gradients: 0.01", listeners=[recorder])
    before = weights(solver)
    solver.param.weight_decay = 0
    solver.step(1)
    moved = np.sqrt(sum(((now - was) ** 2).sum() for now, was in zip(weights(solver), before)))
    assert moved == pytest.approx(0.05 * 0.01, rel=1e-4)
    assert re.fullmatch(r"Gradient clipping: scaling down gradients \(L2 norm [\d.]+ > 0.01\) by scale factor [\d.]+",
                        recorder.messages[0])


def test_weights_to_start_from(make, tmp_path):
    source = make()
    source.step(2)
    source.net.save(str(tmp_path / "w.caffemodel"))
    target = make(f'weights: "{tmp_path}/w.caffemodel"')
    for mine, theirs in zip(weights(target), weights(source)):
        np.testing.assert_array_equal(mine, theirs)
    assert not target.history[0].any()


# --- policies

def param(**fields):
    made = parse_solver('base_lr: 0.1 lr_policy: "fixed" gamma: 0.1 stepsize: 10 power: 0.5 max_iter: 100 '
                        'stepvalue: 5 stepvalue: 8')
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize("policy, iteration, expected", [
    ("fixed", 77, 0.1), ("step", 9, 0.1), ("step", 25, 0.001), ("exp", 2, 0.001), ("inv", 30, 0.05),
    ("multistep", 4, 0.1), ("multistep", 5, 0.01), ("multistep", 8, 0.001), ("poly", 75, 0.05), ("poly", 100, 0),
    ("sigmoid", 10, 0.05), ("sigmoid", 20, 0.1 / (1 + np.exp(-1)))])
def test_policy(policy, iteration, expected):
    assert policies.POLICIES[policy](param(lr_policy=policy), iteration) == pytest.approx(expected)


def test_plateau_drops_when_the_error_stops_improving():
    p = param()
    p.plateau_param.patience, p.plateau_param.min_delta, p.plateau_param.max_drops = 2, 0.01, 2
    plateau = policies.Plateau()
    errors = [0.5, 0.4, 0.395, 0.41, 0.3, 0.3, 0.295, 0.2, 0.2, 0.2, 0.2, 0.2]
    dropped = [plateau.observe(p, error) for error in errors]
    assert [i for i, drop in enumerate(dropped) if drop] == [3, 6]
    assert plateau.rate(p) == pytest.approx(0.001) and plateau.drops == 2


def test_plateau_follows_the_accuracy(make):
    recorder = Recorder()
    solver = make("plateau_param { patience: 1 min_delta: 1 }", listeners=[recorder])
    solver.param.lr_policy = "plateau"
    solver.solve()
    assert solver.lr == pytest.approx(0.05 * 0.25)
    assert recorder.messages == ["Plateau: no better accuracy for 1 tests, lr = 0.025",
                                 "Plateau: no better accuracy for 1 tests, lr = 0.0125"]


@pytest.mark.parametrize("change, message", [
    ('type: "Sgd"', "unknown solver type 'Sgd'; known types: SGD, Nesterov, AdaGrad"),
    ('regularization_type: "L3"', "unknown regularization_type 'L3'; known: L1, L2"),
    ("iter_size: 0", "iter_size and average_loss must be at least 1, found 0, 1"),
    ("test_state { } test_state { }",
     "test_state must be given not at all or once for each of the 1 test nets; found 2"),
    ("test_iter: 5 test_net: 'x'", None)])
def test_wrong_solvers(make, change, message):
    if message is None:
        with pytest.raises(SppError, match="File not found: x"):
            make(change)
        return
    with pytest.raises(SolverError, match=re.escape(message)):
        make(change)


@pytest.mark.parametrize("text, message", [
    ("", "the solver gives no lr_policy; known policies: exp, fixed, inv, multistep, plateau, poly, sigmoid, step"),
    ('lr_policy: "stepp" base_lr: 1', "unknown lr_policy 'stepp'"),
    ('lr_policy: "step" base_lr: 1 gamma: 0.1', "lr_policy 'step' needs stepsize, which the solver does not give"),
    ('lr_policy: "fixed"', "lr_policy 'fixed' needs base_lr"),
    ('lr_policy: "fixed" base_lr: 1 snapshot: 5', "the solver gives snapshot but no snapshot_prefix"),
    ('lr_policy: "fixed" base_lr: 1', "exactly one of net, net_param, train_net, train_net_param; found none"),
    ('lr_policy: "fixed" base_lr: 1 net: "a" train_net: "b"', "found net, train_net"),
    ('lr_policy: "fixed" base_lr: 1 train_net_param { } test_iter: 1',
     "test_iter must be given once for each test net: found 1 test_iter and 0 test net(s)"),
    ('lr_policy: "fixed" base_lr: 1 net_param { } test_iter: 1', "test_interval must be positive")])
def test_incomplete_solvers(text, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        Solver(parse_solver(text))


def test_states_merge(tmp_path):
    text = """net_param { layer { name: "a" type: "DummyData" top: "a" dummy_data_param { shape { dim: 1 } }
        include { stage: "train-a" } include { stage: "test-a" } }
        layer { name: "b" type: "DummyData" top: "b" dummy_data_param { shape { dim: 1 } }
        include { phase: TEST min_level: 2 } } }
        lr_policy: "fixed" base_lr: 1 test_iter: 1 test_iter: 1 test_interval: 1
        train_state { stage: "train-a" } test_state { stage: "test-a" } test_state { level: 2 }"""
    solver = Solver(parse_solver(text))
    assert [[layer.name for layer in net.layers] for net in [solver.net, *solver.test_nets]] == [["a"], ["a"], ["b"]]


# --- snapshots

def test_caffes_snapshot_starts_data_anew_and_says_so(make, tmp_path):
    recorder = Recorder()
    solver = make(listeners=[recorder])
    solver.step(2)
    path = solver.snapshot()
    state = snapshot.read(path)
    state.resume = {}
    snapshot.write(path, state)
    other = make(listeners=[recorder])
    other.restore(path)
    assert other.iter == 2
    assert "is Caffe's: it does not say where the data and random streams were" in recorder.messages[0]


def test_moved_snapshots_find_their_weights_beside_them(make, tmp_path):
    solver = make()
    solver.step(1)
    path = solver.snapshot()
    os.mkdir(tmp_path / "moved")
    for kind in ("solverstate", "caffemodel"):
        os.rename(tmp_path / f"s_iter_1.{kind}", tmp_path / "moved" / f"s_iter_1.{kind}")
    make().restore(str(tmp_path / "moved" / os.path.basename(path)))
    os.remove(tmp_path / "moved" / "s_iter_1.caffemodel")
    with pytest.raises(SolverError, match="are neither in the current folder nor beside it; put the .caffemodel"):
        make().restore(str(tmp_path / "moved" / os.path.basename(path)))


@pytest.mark.parametrize("damage, message", [
    (lambda path: os.remove(path), "snapshot .* not found; give the path of a .solverstate"),
    (lambda path: os.truncate(path, 200), "truncated"),
    (lambda path: Path(path).write_bytes(b"\x89HDF\r\n\x1a\nrest"),
     "no solver state in Caffe's HDF5 layout, or damaged"),
    (lambda path: history(path, -1), "holds 3 history blobs, this net and solver need 4"),
    (lambda path: history(path, 0),
     r"the history of conv\[0\] has shape \(2,\), the net's parameter has \(6, 3, 3, 3\)")])
def test_damaged_states(make, damage, message):
    solver = make()
    path = solver.snapshot()
    damage(path)
    with pytest.raises(SppError, match=message):
        make().restore(path)


def history(path, index):
    state = snapshot.read(path)
    if index < 0:
        state.history.pop()
    else:
        state.history[index] = np.zeros(2, np.float32)
    snapshot.write(path, state)


KILLED = """
    import os, sys, threading, time
    from spp.proto.text import parse_solver
    from spp.solver import Solver
    solver = Solver(parse_solver(sys.argv[1]))
    delay = float(sys.argv[2])
    solver.step(1)
    solver.snapshot()
    print("ready", flush=True)
    threading.Thread(target=lambda: (time.sleep(delay), os.kill(os.getpid(), 9)), daemon=True).start()
    while True:
        solver.iter += 1
        solver.snapshot()
"""


@pytest.mark.parametrize("delay", [0.005, 0.02, 0.031, 0.05])
def test_kill_9_in_a_snapshot_leaves_the_previous_one(make, database, tmp_path, delay):
    big = NET.replace("num_output: 6", "num_output: 4000")
    text = SOLVER % (big % (database, database), tmp_path / "s", "")
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), text, str(delay)], capture_output=True,
                         text=True)
    assert run.returncode == -signal.SIGKILL and run.stdout == "ready\n", run.stderr
    states = [name for name in os.listdir(tmp_path) if name.endswith(".solverstate")]
    assert states
    newest = snapshot.latest(str(tmp_path / "s"))
    solver = make(net=big)
    for name in states:
        solver.restore(str(tmp_path / name))
    solver.restore(newest)
    assert solver.iter == max(int(name.removeprefix("s_iter_").removesuffix(".solverstate")) for name in states)


def test_full_disk_keeps_the_previous_snapshot(make, tmp_path, monkeypatch):
    solver = make()
    solver.step(1)
    path = solver.snapshot()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    solver.step(1)
    with pytest.raises(SppError, match="the disk is full; free some space and try again"):
        solver.snapshot()
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["s_iter_1.caffemodel", "s_iter_1.solverstate"]
    make().restore(path)


def test_resume_holds_json(make):
    solver = make()
    solver.step(2)
    resume = snapshot.read(solver.snapshot()).resume
    assert json.loads(json.dumps(resume)) == resume
    assert resume["seed"] == 3 and set(resume["net"]) == {"data", "drop"} and resume["net"]["data"]["position"] == 2


def test_a_net_is_a_net_param_or_a_file_found_from_the_solver(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "net.prototxt").write_text(
        'layer { name: "d" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 } } }')
    (tmp_path / "models" / "solver.prototxt").write_text('net: "models/net.prototxt" base_lr: 1 lr_policy: "fixed"')
    monkeypatch.chdir("/")
    assert Solver(str(tmp_path / "models" / "solver.prototxt")).net.blobs["x"].shape == (2,)
    (tmp_path / "models" / "net.prototxt").unlink()
    with pytest.raises(SppError, match=r"File not found: models/net.prototxt \(named in .*solver.prototxt\); looked"):
        Solver(str(tmp_path / "models" / "solver.prototxt"))
