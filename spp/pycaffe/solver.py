"""caffe.SGDSolver and the others: training by a solver prototxt, whole or step by step."""
import logging
import os
import weakref
from typing import Any, Callable

import spp.net
import spp.solver
from spp import paths
from spp.proto import text
from spp.pycaffe import common
from spp.pycaffe.common import caffe_errors, readable
from spp.pycaffe.net import Net, OnDevice
from spp.training.reporting import Listener, LogLines

log = logging.getLogger("spp.pycaffe.solver")


class _Log(LogLines):
    """Passes Caffe's log lines to Python's logging."""

    def write(self, text: str) -> None:
        log.info(text)


class _Callbacks(Listener):
    """Calls the two functions of `add_callback`."""

    def __init__(self, on_start: Callable[[], Any], on_gradients_ready: Callable[[], Any]) -> None:
        self._on_start, self._on_gradients_ready = on_start, on_gradients_ready

    def on_step_begin(self, solver: spp.solver.Solver) -> None:
        self._on_start()

    def on_gradients(self, solver: spp.solver.Solver) -> None:
        self._on_gradients_ready()


class Solver(OnDevice):
    """A solver of the type that the file names; subclasses override the file's type.

    `net` and `test_nets` are caffe.Nets. `param` is the SolverParameter; its max_iter, display and base_lr may be
    set. The device is that of set_mode_cpu or set_mode_gpu, not that of the file's solver_mode. Raises CaffeError,
    a RuntimeError, for a missing file and for any error in the solver or its nets.
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
        self._all_blobs = [blob for net in (self.net, *self.test_nets) for blob in net._all_blobs]
        # once this object and its nets are garbage; the threads of data layers would run on
        weakref.finalize(self._solver, _close, [self._solver.net, *self._solver.test_nets])

    @property
    def iter(self) -> int:
        """Number of updates done."""
        return self._solver.iter

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        return self._solver.lr

    def step(self, count: int) -> None:
        """Do `count` updates, with the solver's tests, log lines and snapshots."""
        with self._engine():
            self._solver.step(count)

    def solve(self, resume_file: str | os.PathLike[str] | None = None) -> None:
        """Train up to max_iter; resume from a .solverstate if `resume_file` is given."""
        with self._engine():
            if resume_file is not None:
                self._solver.restore(readable(resume_file))
            self._solver.max_iter = self.param.max_iter
            self._solver.solve()

    def restore(self, state_file: str | os.PathLike[str]) -> None:
        """Resume from a .solverstate."""
        with self._engine():
            self._solver.restore(readable(state_file))

    def snapshot(self) -> None:
        """Write <snapshot_prefix>_iter_<iter>.caffemodel and .solverstate."""
        with self._engine():
            self._solver.snapshot()

    def apply_update(self) -> None:
        """Update the parameters by the gradients in their diffs, and count an iteration."""
        with self._engine():
            self._solver.apply_update()
        self._solver.iter += 1

    def share_weights(self, net: Net) -> None:
        """Let `net` share the memory of the train net's weights."""
        net.share_with(self.net)

    def add_callback(self, on_start: Callable[[], Any], on_gradients_ready: Callable[[], Any]) -> None:
        """Call `on_start` when an iteration begins, and `on_gradients_ready` when its gradients are complete."""
        self._solver.listeners.append(_Callbacks(self._with_host_access(on_start),
                                                 self._with_host_access(on_gradients_ready)))


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


SOLVERS = {cls.type: cls for cls in Solver.__subclasses__()}


@caffe_errors()
def get_solver(solver_file: str | os.PathLike[str]) -> Solver:
    """A solver of the class that the file's `type` names."""
    return SOLVERS.get(text.read_solver(readable(solver_file)).type, Solver)(solver_file)
