"""caffe.SGDSolver and the others: training by a solver prototxt, whole or step by step."""
import logging
import os
import weakref
from typing import Any, Callable, ContextManager

import spp.net
import spp.solver
from spp import paths
from spp import host_copy
from spp.proto import text
from spp.pycaffe import common
from spp.pycaffe.common import caffe_errors, readable
from spp.pycaffe.net import Net
from spp.training.reporting import LogLines

log = logging.getLogger("spp.pycaffe.solver")


class _Log(LogLines):
    """The lines that Caffe logs, to Python's logging."""

    def write(self, text: str) -> None:
        log.info(text)


class Solver:
    """A solver of the type that the file names; the child classes have their type whatever the file says.

    `net` and `test_nets` are caffe.Nets, `param` is the SolverParameter, of which max_iter, display and base_lr
    may be set. Computes on the device that set_mode_* tells, whatever the file's solver_mode. Raises CaffeError,
    a RuntimeError, for a missing file and for everything that is wrong with solver or net.
    """

    type = ""

    @caffe_errors()
    def __init__(self, solver_file: str | os.PathLike[str]) -> None:
        path = readable(solver_file)
        self.param = text.read_solver(path)
        if self.type:
            self.param.type = self.type
        for field in ("net", "train_net"):
            if self.param.HasField(field):
                setattr(self.param, field, paths.find(getattr(self.param, field), path))
        self.param.test_net[:] = [paths.find(name, path) for name in self.param.test_net]
        if self.param.random_seed < 0:
            self.param.random_seed = common.next_seed()
        self._solver = spp.solver.Solver(self.param, common.device(), [_Log()])
        self.net = Net.of(self._solver.net, self._solver)
        self.test_nets = [Net.of(net, self._solver) for net in self._solver.test_nets]
        # when this object and its nets are all gone: the threads of data layers would go on
        weakref.finalize(self._solver, _close, [self._solver.net, *self._solver.test_nets])

    @property
    def iter(self) -> int:
        """Number of updates done."""
        return self._solver.iter

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        return self._solver.lr

    @caffe_errors()
    def step(self, count: int) -> None:
        """Do `count` updates, with the tests, the log and the snapshots that the solver asks for."""
        with self._engine():
            self._solver.step(count)

    @caffe_errors()
    def solve(self, resume_file: str | os.PathLike[str] | None = None) -> None:
        """Train up to max_iter, from a .solverstate if one is given."""
        with self._engine():
            if resume_file is not None:
                self._solver.restore(readable(resume_file))
            self._solver.max_iter = self.param.max_iter
            self._solver.solve()

    @caffe_errors()
    def restore(self, state_file: str | os.PathLike[str]) -> None:
        """Go on from a .solverstate."""
        with self._engine():
            self._solver.restore(readable(state_file))

    @caffe_errors()
    def snapshot(self) -> None:
        """Write <snapshot_prefix>_iter_<iter>.caffemodel and .solverstate."""
        with self._engine():
            self._solver.snapshot()

    @caffe_errors()
    def apply_update(self) -> None:
        """Change the parameters by the gradients in their diffs, and count an iteration."""
        with self._engine():
            self._solver.apply_update()
        self._solver.iter += 1

    def share_weights(self, net: Net) -> None:
        """Let `net` use the train net's weights, in its memory."""
        net.share_with(self.net)

    def add_callback(self, on_start: Callable[[], Any], on_gradients_ready: Callable[[], Any]) -> None:
        """Call a function where each iteration begins, and one where its gradients are complete."""
        self._solver.before_step.append(self._lending(on_start))
        self._solver.after_gradients.append(self._lending(on_gradients_ready))

    def _engine(self) -> ContextManager:
        """Around the engine's work: arrays that were handed out go to a GPU, and come back."""
        return host_copy.device_access([blob for net in (self.net, *self.test_nets) for blob in net._seen])

    def _lending(self, function: Callable[[], Any]) -> Callable[[], Any]:
        for net in (self.net, *self.test_nets):
            function = net._lending(function)
        return function


class SGDSolver(Solver):
    """Stochastic gradient descent with momentum."""

    type = "SGD"


class NesterovSolver(Solver):
    """Nesterov's accelerated gradient."""

    type = "Nesterov"


class AdaGradSolver(Solver):
    """AdaGrad."""

    type = "AdaGrad"


class RMSPropSolver(Solver):
    """RMSProp."""

    type = "RMSProp"


class AdaDeltaSolver(Solver):
    """AdaDelta."""

    type = "AdaDelta"


class AdamSolver(Solver):
    """Adam."""

    type = "Adam"


def _close(nets: list[spp.net.Net]) -> None:
    for net in nets:
        net.close()


SOLVERS = {cls.type: cls for cls in (SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver,
                                     AdamSolver)}


@caffe_errors()
def get_solver(solver_file: str | os.PathLike[str]) -> Solver:
    """The solver that the file's `type` names."""
    return SOLVERS.get(text.read_solver(readable(solver_file)).type, Solver)(solver_file)
