"""Twelve steps of the reference's solvers, from the start and from its own snapshot."""
import numpy as np
import pytest

import golden
from spp.training import policies
from spp.proto import text
from spp.solver import Solver
from spp.training.update_rules import RULES

CASES = golden.cases("solvers")
CAFFE_RULES = {"AdaDelta", "AdaGrad", "Adam", "Nesterov", "RMSProp", "SGD"}
CAFFE_POLICIES = {"exp", "fixed", "inv", "multistep", "poly", "sigmoid", "step"}


def test_all_rules_and_policies_of_caffe_are_among_the_cases():
    params = [text.read_solver(golden.path("solvers", case, "solver.prototxt")) for case in CASES]
    assert len(CASES) == 17
    assert {p.type for p in params} == CAFFE_RULES <= set(RULES)
    assert {p.lr_policy for p in params} == CAFFE_POLICIES <= set(policies.POLICIES)


@pytest.fixture
def solver(request):
    with Solver(golden.path("solvers", request.param, "solver.prototxt")) as trained:
        yield request.param, trained


def follow(case, solver, first):
    data = np.load(golden.path("solvers", case, "data.npz"))
    params = [(key, key.split("/")[1:]) for key in data.files if key.startswith("param/")]
    blobs = {key: solver.net.params[layer][int(index)] for key, (layer, index) in params}
    for key, blob in blobs.items():
        golden.assert_close(blob.data, data[key][first], f"{case} {key} before step {first}", golden.SOLVER_TOLERANCE)
    for step in range(first, 12):
        solver.net.blobs["data"].data[...] = data["batch/data"][step]
        solver.net.blobs["label"].data[...] = data["batch/label"][step]
        solver.step(1)
        assert solver.lr == pytest.approx(data["lr"][step], rel=1e-5)       # the rate of the next step
        golden.assert_close(solver.net.loss, data["loss"][step], f"{case} loss of step {step}",
                            golden.SOLVER_TOLERANCE)
        for key, blob in blobs.items():
            golden.assert_close(blob.data, data[key][step + 1], f"{case} {key} after step {step}",
                                golden.SOLVER_TOLERANCE)


@pytest.mark.parametrize("solver", CASES, indirect=True)
def test_from_the_start(solver):
    case, trained = solver
    trained.net.copy_from(golden.path("solvers", case, "init.caffemodel"))
    follow(case, trained, 0)


@pytest.mark.parametrize("solver", CASES, indirect=True)
def test_from_the_references_snapshot(solver):
    case, trained = solver
    suffix = ".h5" if case.endswith("hdf5") else ""
    trained.restore(golden.path("solvers", case, f"s_iter_6.solverstate{suffix}"))
    assert trained.iter == 6
    follow(case, trained, 6)
