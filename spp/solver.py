"""Solver: train a net by a SolverParameter, test it, snapshot it, resume it (Caffe's Solver and SGDSolver)."""
import math
import os
import secrets
from collections import deque
from typing import Any, Iterable, Sequence

import numpy as np

from spp import paths, policies, snapshot
from spp.errors import SolverError
from spp.layers import TEST, TRAIN
from spp.net import Net
from spp.ops import update
from spp.proto import text
from spp.reporting import Listener

Output = tuple[str, float, float]       # name, value, loss weight


class Solver:
    """Optimises a train net and tests it on test nets.

    param: the path of a solver prototxt, or a SolverParameter. weights: caffemodels to start from, besides
    the solver's own `weights`. listeners hear of what happens. Raises SppError where solver or net is wrong.

    `net`, `test_nets`, `iter` (updates done) and `max_iter` are there to be read; `max_iter` may be set.
    """

    def __init__(self, param: Any, device: str = "auto", listeners: Iterable[Listener] = (),
                 weights: Sequence[str] = (), level: int | None = None, stages: Sequence[str] = ()) -> None:
        self.source = param if isinstance(param, str) else None
        self.param = text.read_solver(param) if isinstance(param, str) else param
        self._check()
        self.listeners = list(listeners)
        self.iter = 0
        self.max_iter: int = self.param.max_iter
        self.seed: int = self.param.random_seed if self.param.random_seed >= 0 else secrets.randbits(32)
        self._device = device
        state = type(self.param.train_state)()
        state.CopyFrom(self.param.train_state)
        if level is not None:
            state.level = level
        state.stage.extend(stages)
        self.net = self._make_net(self._train_net(), TRAIN, state)
        for path in (p for names in (*self.param.weights, *weights) for p in names.split(",")):
            self.net.copy_from(paths.find(path.strip(), self.source))
        self.test_nets = [self._make_net(net, TEST, state) for net, state in self._test_nets()]
        for net in self.test_nets:
            net.share_with(self.net)
        xp = self.net.context.backend
        self.history = [xp.zeros(entry.blob.count, entry.blob.dtype) for entry in self.net.learnable]
        self.plateau = policies.Plateau()
        self._stop = self._snapshot_wanted = False

    # --- what the solver prototxt asks for

    def _check(self) -> None:
        p = self.param
        if p.type != "SGD":
            raise SolverError(f"unknown solver type {p.type!r}; known types: SGD")
        policies.check(p)
        if p.regularization_type not in ("L1", "L2"):
            raise SolverError(f"unknown regularization_type {p.regularization_type!r}; known: L1, L2")
        if p.iter_size < 1 or p.average_loss < 1:
            raise SolverError(f"iter_size and average_loss must be at least 1, found {p.iter_size}, {p.average_loss}")
        if p.snapshot and not p.snapshot_prefix:
            raise SolverError("the solver gives snapshot but no snapshot_prefix; add snapshot_prefix: \"folder/name\"")

    def _train_net(self) -> Any:
        p = self.param
        given = [name for name in ("net", "net_param", "train_net", "train_net_param") if p.HasField(name)]
        if len(given) != 1:
            raise SolverError("the solver must specify its train net by exactly one of net, net_param, train_net, "
                              f"train_net_param; found {', '.join(given) or 'none'}")
        return getattr(p, given[0])

    def _test_nets(self) -> list[tuple[Any, Any]]:
        """Each test net with its NetState, in Caffe's order; the generic net fills up to the number of test_iter."""
        p = self.param
        nets = [*p.test_net_param, *p.test_net]
        generic = p.net_param if p.HasField("net_param") else p.net if p.HasField("net") else None
        if generic is None and len(nets) != len(p.test_iter) or len(nets) > len(p.test_iter):
            raise SolverError(f"test_iter must be given once for each test net: found {len(p.test_iter)} test_iter "
                              f"and {len(nets)} test net(s)")
        nets += [generic] * (len(p.test_iter) - len(nets))
        if nets and p.test_interval <= 0:
            raise SolverError("test_interval must be positive where there is a test net (test_iter is given)")
        if len(p.test_state) not in (0, len(nets)):
            raise SolverError(f"test_state must be given not at all or once for each of the {len(nets)} test nets; "
                              f"found {len(p.test_state)}")
        default = type(p.train_state)()
        return [(net, p.test_state[i] if p.test_state else default) for i, net in enumerate(nets)]

    def _make_net(self, net: Any, phase: int, state: Any) -> Net:
        if isinstance(net, str):
            net = paths.find(net, self.source)
            level = text.read_net(net).state.level
        else:
            level = net.state.level
        return Net(net, phase, state.level if state.HasField("level") else level, state.stage, device=self._device,
                   seed=self.seed)

    # --- training

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        if self.param.lr_policy == "plateau":
            return self.plateau.rate(self.param)
        return policies.POLICIES[self.param.lr_policy](self.param, self.iter)

    def solve(self) -> str:
        """Train up to `max_iter`, testing and taking snapshots as the solver says; returns "done" or "stopped"."""
        self._tell("on_start")
        self.step(self.max_iter - self.iter)
        if self.param.snapshot_after_train and self.param.snapshot_prefix and self._last_snapshot != self.iter:
            self.snapshot()
        if not self._stop:
            if self.param.display and self.iter % self.param.display == 0:
                self.net.forward()
                self._tell("on_display", self.iter, self.net.loss, self.lr, _outputs(self.net))
            if self._tests_now():
                self.test_all()
        reason = "stopped" if self._stop else "done"
        self._tell("on_end", reason)
        return reason

    _last_snapshot = -1

    def step(self, count: int) -> None:
        """Do `count` updates, or fewer if `request_stop` is called meanwhile."""
        p = self.param
        losses: deque[float] = deque(maxlen=p.average_loss)
        end = self.iter + count
        while self.iter < end and not self._stop:
            if self._tests_now():
                self.test_all()
                if self._stop:
                    break
            loss, images = self._gradients()
            losses.append(loss)
            smoothed = sum(losses) / len(losses)
            rate = self.lr
            if p.display and self.iter % p.display == 0:
                self._tell("on_display", self.iter, smoothed, rate, _outputs(self.net))
            self.apply_update()
            self.iter += 1
            self._tell("on_step", self.iter, smoothed, rate, images)
            if self._snapshot_wanted or p.snapshot and self.iter % p.snapshot == 0:
                self._snapshot_wanted = False
                self.snapshot()

    def _gradients(self) -> tuple[float, int]:
        """Forward and backward over iter_size batches; the mean loss and the number of images."""
        self.net.clear_param_diffs()
        total, images = 0.0, 0
        for _ in range(self.param.iter_size):
            self.net.forward()
            loss = self.net.loss
            if not math.isfinite(loss):
                last = f"; the last snapshot is of iteration {self._last_snapshot}" if self._last_snapshot >= 0 else ""
                raise SolverError(f"the loss is {loss} at iteration {self.iter}: training has diverged{last}; "
                                  "lower base_lr, or set clip_gradients")
            self.net.backward()
            total += loss
            images += self._batch_size()
        return total / self.param.iter_size, images

    def _batch_size(self) -> int:
        shape = self.net.tops[0][0].shape if self.net.tops and self.net.tops[0] else ()
        return shape[0] if shape else 1

    def apply_update(self) -> None:
        """Clip, scale and regularise the gradients, and change the parameters (Caffe's ApplyUpdate)."""
        p = self.param
        rate, scale = self.lr, self._clip() / p.iter_size
        for entry, history in zip(self.net.learnable, self.history):
            if entry.lr_mult:
                update.sgd(entry.blob.data.reshape(-1), entry.blob.diff.reshape(-1), history, rate * entry.lr_mult,
                           p.momentum, p.weight_decay * entry.decay_mult, p.regularization_type == "L1", scale)

    def _clip(self) -> float:
        """What clip_gradients multiplies all gradients by: their common L2 norm is held at its value."""
        limit = self.param.clip_gradients
        if limit < 0:
            return 1.0
        squares = sum(float(np.vdot(entry.blob.diff, entry.blob.diff)) for entry in self.net.learnable)
        norm = math.sqrt(squares)
        if norm <= limit:
            return 1.0
        self._tell("on_message", f"Gradient clipping: scaling down gradients (L2 norm {norm:g} > {limit:g}) by "
                                 f"scale factor {limit / norm:g}")
        return limit / norm

    # --- testing

    def _tests_now(self) -> bool:
        p = self.param
        return bool(self.test_nets and self.iter % p.test_interval == 0 and (self.iter or p.test_initialization))

    def test_all(self) -> list[list[Output]]:
        """Run every test net for its test_iter batches; each one's mean outputs."""
        results: list[list[Output]] = []
        for index, (net, batches) in enumerate(zip(self.test_nets, self.param.test_iter)):
            sums: list[Output] = []
            loss = 0.0
            for done in range(batches):
                net.forward()
                outputs = _outputs(net)
                sums = [(n, s + v, w) for (n, s, w), (_, v, _) in zip(sums, outputs)] if sums else outputs
                loss += net.loss
                self._tell("on_test_batch", index, done + 1, batches)
                if self._stop:
                    return results
            means = [(name, value / batches, weight) for name, value, weight in sums]
            results.append(means)
            shown = loss / batches if self.param.test_compute_loss else None
            self._tell("on_test", self.iter, index, means, shown)
            if index == 0 and self.param.lr_policy == "plateau":
                self._watch_plateau(net, means, loss / batches)
        return results

    def _watch_plateau(self, net: Net, means: list[Output], loss: float) -> None:
        name = self.param.plateau_param.output
        if not name:
            name = next((layer.param.top[0] for layer in net.layers if layer.type == "Accuracy"), "")
        error = loss
        if name:
            found = {output: (value, weight) for output, value, weight in means}
            if name not in found:
                raise SolverError(f"plateau_param's output {name!r} is no output of the test net; its outputs are "
                                  f"{', '.join(found)}")
            value, weight = found[name]
            error = value if weight else -value      # a loss is to fall, anything else to rise
        if self.plateau.observe(self.param, error):
            self._tell("on_message", f"Plateau: no better {name or 'loss'} for {self.param.plateau_param.patience} "
                                     f"tests, lr = {self.lr:g}")

    # --- snapshots

    def snapshot(self) -> str:
        """Write weights, then solver state, each whole or not at all; returns the state's path."""
        h5 = ".h5" if self.param.snapshot_format == self.param.HDF5 else ""
        base = f"{self.param.snapshot_prefix}_iter_{self.iter}"
        folder = os.path.dirname(base)
        try:
            os.makedirs(folder or ".", exist_ok=True)
        except OSError as error:
            raise SolverError(f"cannot make the folder {folder} of snapshot_prefix: {error.strerror}") from error
        model, path = f"{base}.caffemodel{h5}", f"{base}.solverstate{h5}"
        self._tell("on_snapshot", model)
        self.net.save(model, self.param.snapshot_diff)
        to_host = self.net.context.backend.to_host
        history = [to_host(h).reshape(e.blob.shape) for h, e in zip(self.history, self.net.learnable)]
        resume = {"seed": self.seed, "plateau": self.plateau.state(), "net": self.net.state(),
                  "test_nets": [net.state() for net in self.test_nets]}
        snapshot.write(path, snapshot.State(self.iter, model, history,
                                            policies.current_step(self.param, self.iter), resume))
        self._tell("on_snapshot", path)
        self._last_snapshot = self.iter
        return path

    def restore(self, path: str) -> None:
        """Go on from a snapshot of ours or of Caffe's; raises SppError if it is damaged or of another net."""
        state = snapshot.read(path)
        shapes = [entry.blob.shape for entry in self.net.learnable]
        if len(state.history) != len(shapes):
            raise SolverError(f"{path}: holds {len(state.history)} history blobs, this net and solver need "
                              f"{len(shapes)}; is it the snapshot of another net or solver type?")
        for entry, values in zip(self.net.learnable, state.history):
            if values.size != entry.blob.count:
                raise SolverError(f"{path}: the history of {entry.name} has shape {values.shape}, the net's parameter "
                                  f"has {entry.blob.shape}; is it the snapshot of another net?")
        self.net.copy_from(state.learned_net)
        backend = self.net.context.backend
        for memory, values in zip(self.history, state.history):
            memory[...] = backend.from_host(values.reshape(-1))
        self.iter = self._last_snapshot = state.iteration
        if not state.resume:
            self._tell("on_message", f"{path} is Caffe's: it does not say where the data and random streams were; "
                                     "they start anew")
            return
        self.plateau = policies.Plateau(**state.resume["plateau"])
        for net, saved in zip([self.net, *self.test_nets], [state.resume["net"], *state.resume["test_nets"]]):
            net.restore(saved)

    def request_stop(self) -> None:
        """Stop after the iteration under way; `solve` then takes a snapshot."""
        self._stop = True

    def request_snapshot(self) -> None:
        """Take a snapshot after the iteration under way."""
        self._snapshot_wanted = True

    def _tell(self, event: str, *facts: Any) -> None:
        for listener in self.listeners:
            getattr(listener, event)(self, *facts)

    def close(self) -> None:
        """Stop the nets' data threads."""
        for net in [self.net, *self.test_nets]:
            net.close()

    def __enter__(self) -> "Solver":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def _outputs(net: Net) -> list[Output]:
    """Every element of every output as (name, value, loss weight)."""
    to_host = net.context.backend.to_host
    return [(name, float(value), net.loss_weights.get(name, 0.0))
            for name in net.outputs for value in np.ravel(to_host(net.blobs[name].data))]
