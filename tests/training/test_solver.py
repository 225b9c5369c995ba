"""Solver: nets and states, testing, rates, resuming bit for bit."""
import re

import numpy as np
import pytest

from small_solver import NET, Hook, Recorder, weights
from spp.training import policies
from spp.training import snapshot
from spp.errors import SolverError, SppError
from spp.proto.text import parse_solver
from spp.solver import Solver


@pytest.mark.parametrize("extra", ["", "snapshot_format: HDF5 plateau_param { patience: 1 }"])
def test_train_20_is_train_10_resume_train_10_bit_for_bit(make, tmp_path, extra):
    whole, first, second = Recorder(), Recorder(), Recorder()

    def solver(listener):
        solver = make(extra, listeners=[listener])
        if extra:
            solver.param.lr_policy = "plateau"
        return solver

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
    assert [iteration for iteration, _, _ in recorder.displayed] == [0, 5, 10, 15, 20]
    assert [name for name, _, _ in recorder.displayed[0][2]] == ["loss"]
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


def test_functions_called_where_a_step_begins_and_where_its_gradients_are_complete(make):
    solver = make("iter_size: 2")
    events = []

    def look(name):
        gradient = max(abs(entry.blob.diff).max() for entry in solver.net.learnable)
        events.append((name, solver.iter, gradient > 0, weights(solver)[0].copy()))

    solver.listeners.append(Hook(lambda: look("complete"), lambda: look("begins")))
    solver.step(2)
    assert [entry[:3] for entry in events] == [("begins", 0, False), ("complete", 0, True), ("begins", 1, True),
                                               ("complete", 1, True)]
    first, second, third, _ = (entry[3] for entry in events)
    np.testing.assert_array_equal(first, second)        # not yet applied
    assert (second != third).any()


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
    result = parse_solver('base_lr: 0.1 lr_policy: "fixed" gamma: 0.1 stepsize: 10 power: 0.5 max_iter: 100 '
                          'stepvalue: 5 stepvalue: 8')
    for name, value in fields.items():
        setattr(result, name, value)
    return result


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
    ("", "the solver gives no lr_policy; known policies: exp, fixed"),
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
