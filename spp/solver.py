"""Solver: train a net by a SolverParameter, test it, snapshot it, resume it (Caffe's Solver and its children)."""
import math
import secrets
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Callable, Iterable, Sequence

import numpy as np

from spp import backend, paths
from spp.backend.types import UpdateStep
from spp.blob import Memory
from spp.errors import SolverError, SppError
from spp.inspection import debug
from spp.layers import TEST, TRAIN
from spp.layers.base import on_device
from spp.net import Net
from spp.proto import text
from spp.training import policies, snapshot, update_rules
from spp.training.loss_scale import LossScale
from spp.training.reporting import Listener

Output = tuple[str, float, float]       # name, value, loss weight


class Solver(AbstractContextManager["Solver"]):
    """Optimises a train net and tests it on test nets.

    param: the path of a solver prototxt, or a SolverParameter. weights: caffemodels to start from, in addition to
    the solver's own `weights`. device: "auto" follows the solver's solver_mode CPU and its device_id; any other
    device overrides them. listeners: their methods are called at the events of a training (spp.training.reporting).
    precision: of all nets; with fp16 the loss is scaled. Raises SppError if the solver or a net is wrong.

    Public attributes: `net`, `test_nets`, `iter` (the number of updates done), `listeners` and `max_iter`. The last
    two may be changed.
    """

    def __init__(self, param: Any, device: str = "auto", listeners: Iterable[Listener] = (),
                 weights: Sequence[str] = (), level: int | None = None, stages: Sequence[str] = (),
                 precision: str = "fp32") -> None:
        self.source = param if isinstance(param, str) else None
        self.param = text.read_solver(param) if isinstance(param, str) else param
        self._check()
        self.listeners = list(listeners)
        self.iter = 0
        self.max_iter: int = self.param.max_iter
        self.seed: int = self.param.random_seed if self.param.random_seed >= 0 else secrets.randbits(32)
        self._device, self._precision = _device(self.param, device), precision
        state = type(self.param.train_state)()
        state.CopyFrom(self.param.train_state)
        if level is not None:
            state.level = level
        state.stage.extend(stages)
        self.net = self._make_net(self._train_net(), TRAIN, state)
        self.loss_scale = LossScale(self.net) if precision == "fp16" else None
        self.test_nets = [self._make_net(net, TEST, state) for net, state in self._test_nets()]
        for path in (p for names in (*self.param.weights, *weights) for p in names.split(",")):
            self._load(paths.find(path.strip(), self.source))
        for net in self.test_nets:
            net.share_with(self.net)
        self.context = self.net.context
        self.history = [Memory().at_least(entry.blob.count, entry.blob.dtype, entry.blob.backend)
                        for _ in range(self.rule.histories)             # all of the first kind, then of the second
                        for entry in self.net.learnable]
        self.plateau = policies.Plateau()
        self._stop = self._snapshot_requested = False
        self._last_snapshot = -1        # its iteration; -1 before the first one

    # --- reading the solver prototxt

    def _check(self) -> None:
        p = self.param
        self.rule = update_rules.rule(p)
        policies.check(p)
        if p.regularization_type not in ("L1", "L2"):
            raise SolverError(f"unknown regularization_type {p.regularization_type!r}; known: L1, L2")
        if p.iter_size < 1 or p.average_loss < 1:
            raise SolverError(f"iter_size and average_loss must be at least 1, found {p.iter_size}, {p.average_loss}")
        if p.snapshot and not p.snapshot_prefix:
            raise SolverError("the solver gives snapshot but no snapshot_prefix; add snapshot_prefix: \"folder/name\"")

    def _train_net(self) -> Any:
        p = self.param
        fields = [name for name in ("net", "net_param", "train_net", "train_net_param") if p.HasField(name)]
        if len(fields) != 1:
            raise SolverError("the solver must specify its train net by exactly one of net, net_param, train_net, "
                              f"train_net_param; found {', '.join(fields) or 'none'}")
        return getattr(p, fields[0])

    def _test_nets(self) -> list[tuple[Any, Any]]:
        """Test nets with their NetStates, in Caffe's order; further values of test_iter are for the generic net."""
        p = self.param
        nets = [*p.test_net_param, *p.test_net]
        generic = p.net_param if p.HasField("net_param") else p.net if p.HasField("net") else None
        count = len(p.test_iter)
        if len(nets) > count or (generic is None and len(nets) < count):
            raise SolverError(f"test_iter must be given once for each test net: found {count} test_iter "
                              f"and {len(nets)} test net(s)")
        nets += [generic] * (count - len(nets))
        if nets and p.test_interval <= 0:
            raise SolverError("test_interval must be positive where there is a test net (test_iter is given)")
        if len(p.test_state) not in (0, len(nets)):
            raise SolverError(f"test_state must be given not at all or once for each of the {len(nets)} test nets; "
                              f"found {len(p.test_state)}")
        default = type(p.train_state)()
        return [(net, p.test_state[i] if p.test_state else default) for i, net in enumerate(nets)]

    def _make_net(self, net: Any, phase: int, state: Any) -> Net:
        """A net; its NetState is the phase, overridden by the net's own state, overridden by the solver's."""
        if isinstance(net, str):
            net = paths.find(net, self.source)
        own: Any = (text.read_net(net) if isinstance(net, str) else net).state
        merged = type(own)(phase=phase)
        merged.MergeFrom(own)
        merged.MergeFrom(state)
        return Net(net, merged.phase, merged.level, state.stage, device=self._device, seed=self.seed,
                   precision=self._precision)

    def _load(self, path: str) -> None:
        self.net.copy_from(path)
        for net in self.test_nets:
            if set(net.params) - set(self.net.params):      # the train net shares all others
                net.copy_from(path)

    # --- training

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        if self.param.lr_policy == "plateau":
            return self.plateau.rate(self.param)
        return policies.POLICIES[self.param.lr_policy](self.param, self.iter)

    def solve(self) -> str:
        """Train up to `max_iter`, with the solver's tests and snapshots; returns "done" or "stopped"."""
        p = self.param
        if p.snapshot_prefix and (p.snapshot or p.snapshot_after_train):
            snapshot.make_folder(self.param.snapshot_prefix)
        self._notify("on_start")
        self.step(self.max_iter - self.iter)
        if p.snapshot_after_train and p.snapshot_prefix and self._last_snapshot != self.iter:
            self.snapshot()
        if not self._stop:
            if self._is_display_due():
                self.net.forward()
                self._notify("on_display", self.iter, self.net.loss, self.lr, _outputs(self.net))
            if self._is_test_due():
                self.test_all()
        reason = "stopped" if self._stop else "done"
        self._notify("on_end", reason)
        return reason

    def step(self, count: int) -> None:
        """Do `count` updates, or fewer if `request_stop` is called meanwhile."""
        p = self.param
        losses: deque[float] = deque(maxlen=p.average_loss)
        end = self.iter + count
        while self.iter < end and not self._stop:
            if self._is_test_due():
                self.test_all()
                if self._stop:
                    break
            self._notify("on_step_begin")
            pending, images = self._gradients()
            self._notify("on_gradients")
            rate, displays = self.lr, self._is_display_due()
            if displays:
                losses.append(self._mean_loss(pending))
                self._notify("on_display", self.iter, sum(losses) / len(losses), rate, _outputs(self.net))
            self.apply_update()
            if not displays:        # a GPU has all of this iteration's work queued before its losses are fetched
                losses.append(self._mean_loss(pending))
            smoothed = sum(losses) / len(losses)
            self.iter += 1
            self._notify("on_step", self.iter, smoothed, rate, images)
            if self._snapshot_requested or (p.snapshot and self.iter % p.snapshot == 0):
                self._snapshot_requested = False
                self.snapshot()

    def _gradients(self) -> tuple[list[Callable[[], float]], int]:
        """Forward and backward over iter_size batches; returns the losses to be fetched, and the image count."""
        self.net.clear_param_diffs()
        losses, images = [], 0
        debugging = self._is_display_due() and self._debug_info(self.net)
        for _ in range(self.param.iter_size):
            with debug.logging_values(self.net, self._message) if debugging else nullcontext():
                self.net.forward()
                losses.append(self.net.fetch_loss())
                if not self.context.backend.asynchronous:
                    self._check_loss(losses[-1]())
                self.net.backward()
            if debugging:
                debug.log_norms(self.net, self._message)
            images += self._batch_size()
        return losses, images

    def _mean_loss(self, pending: list[Callable[[], float]]) -> float:
        """Wait for an iteration's losses and return their mean; raises SolverError if the training has diverged."""
        losses = [fetch() for fetch in pending]
        for loss in losses:
            self._check_loss(loss)
        return sum(losses) / len(losses)

    def _check_loss(self, loss: float) -> None:
        if not math.isfinite(loss):
            last = f"; the last snapshot is of iteration {self._last_snapshot}" if self._last_snapshot >= 0 else ""
            raise SolverError(f"the loss is {loss} at iteration {self.iter}: training has diverged{last}; "
                              "lower base_lr, or set clip_gradients")

    def _is_display_due(self) -> bool:
        return bool(self.param.display and self.iter % self.param.display == 0)

    def _debug_info(self, net: Net) -> bool:
        return self.param.debug_info or net.param.debug_info

    def _batch_size(self) -> int:
        shape = self.net.tops[0][0].shape if self.net.tops and self.net.tops[0] else ()
        return shape[0] if shape else 1

    @on_device
    def apply_update(self) -> None:
        """Clip, scale and regularise the gradients, and update the parameters (Caffe's ApplyUpdate)."""
        p = self.param
        if self.loss_scale and not self.loss_scale.unscale():
            self._message(f"Gradients overflow fp16: no update in iteration {self.iter}, next loss scale "
                          f"{self.loss_scale.value:g}")
            return
        rate, scale, entries = self.lr, self._clip() / p.iter_size, self.net.learnable
        learning = [i for i, entry in enumerate(entries) if entry.lr_mult]
        if learning:
            self.rule.update([entries[i].blob.data for i in learning], [entries[i].blob.diff for i in learning],
                             [[self.history[first + i] for i in learning]
                              for first in range(0, len(self.history), len(entries))],
                             UpdateStep([rate * entries[i].lr_mult for i in learning],
                                        [p.weight_decay * entries[i].decay_mult for i in learning],
                                        p.regularization_type == "L1", scale, self.iter), p)

    def _clip(self) -> float:
        """The factor for all gradients that limits their common L2 norm to clip_gradients."""
        limit = self.param.clip_gradients
        if limit < 0:
            return 1.0
        device = self.context.backend
        squares = sum(device.number(device.xp.vdot(diff, diff))
                      for diff in (entry.blob.diff for entry in self.net.learnable))
        norm = math.sqrt(float(squares))
        if norm <= limit:
            return 1.0
        self._message(f"Gradient clipping: scaling down gradients (L2 norm {norm:g} > {limit:g}) by scale factor "
                      f"{limit / norm:g}")
        return limit / norm

    # --- testing

    def _is_test_due(self) -> bool:
        p = self.param
        return bool(self.test_nets and self.iter % p.test_interval == 0 and (self.iter or p.test_initialization))

    def test_all(self) -> list[list[Output]]:
        """Run every test net for its test_iter batches; returns the mean outputs of each."""
        results: list[list[Output]] = []
        for index, (net, batches) in enumerate(zip(self.test_nets, self.param.test_iter)):
            sums: list[Output] = []
            loss = 0.0
            for done in range(batches):
                with debug.logging_values(net, self._message) if self._debug_info(net) else nullcontext():
                    net.forward()
                outputs = _outputs(net)
                sums = [(n, s + v, w) for (n, s, w), (_, v, _) in zip(sums, outputs)] if sums else outputs
                loss += net.loss
                self._notify("on_test_batch", index, done + 1, batches)
                if self._stop:
                    return results
            means = [(name, value / batches, weight) for name, value, weight in sums]
            results.append(means)
            mean_loss = loss / batches if self.param.test_compute_loss else None
            self._notify("on_test", self.iter, index, means, mean_loss)
            if index == 0 and self.param.lr_policy == "plateau":
                self._watch_plateau(net, means, loss / batches)
        return results

    def _watch_plateau(self, net: Net, means: list[Output], loss: float) -> None:
        name = self.param.plateau_param.output
        if not name:
            name = next((layer.param.top[0] for layer in net.layers if layer.type == "Accuracy"), "")
        error = loss
        if name:
            outputs = {output: (value, weight) for output, value, weight in means}
            if name not in outputs:
                raise SolverError(f"plateau_param's output {name!r} is no output of the test net; its outputs are "
                                  f"{', '.join(outputs)}")
            value, weight = outputs[name]
            error = value if weight else -value      # a loss should fall, any other output rise
        if self.plateau.observe(self.param, error):
            self._message(f"Plateau: no better {name or 'loss'} for {self.param.plateau_param.patience} tests, "
                          f"lr = {self.lr:g}")

    # --- snapshots

    def snapshot(self) -> str:
        """Write the weights, then the solver state, each completely or not at all; returns the state's path."""
        snapshot.make_folder(self.param.snapshot_prefix)
        h5 = ".h5" if self.param.snapshot_format == self.param.HDF5 else ""
        base = f"{self.param.snapshot_prefix}_iter_{self.iter}"
        model, path = f"{base}.caffemodel{h5}", f"{base}.solverstate{h5}"
        self._notify("on_snapshot", model)
        self.net.save(model, self.param.snapshot_diff)
        to_host = self.net.context.backend.to_host
        history = [to_host(h).reshape(shape) for h, (_, shape) in zip(self.history, self._history_shapes())]
        resume = {"seed": self.seed, "plateau": self.plateau.state(), "net": self.net.state(),
                  "test_nets": [net.state() for net in self.test_nets]}
        if self.loss_scale:
            resume["loss_scale"] = self.loss_scale.state()
        snapshot.write(path, snapshot.State(self.iter, model, history,
                                            policies.current_step(self.param, self.iter), resume))
        self._notify("on_snapshot", path)
        self._last_snapshot = self.iter
        return path

    def _history_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """For each history array, the name and shape of its parameter."""
        return [(entry.name, entry.blob.shape) for entry in self.net.learnable] * self.rule.histories

    @on_device
    def restore(self, path: str) -> None:
        """Resume from a snapshot of spp or of Caffe; raises SppError if it is damaged or of another net."""
        state = snapshot.read(path)
        shapes = self._history_shapes()
        if len(state.history) != len(shapes):
            raise SolverError(f"{path}: holds {len(state.history)} history blobs, this net and solver need "
                              f"{len(shapes)}; is it the snapshot of another net or solver type?")
        for (name, shape), values in zip(shapes, state.history):
            if values.size != math.prod(shape):
                raise SolverError(f"{path}: the history of {name} has shape {values.shape}, the net's parameter "
                                  f"has {shape}; is it the snapshot of another net?")
        self.net.copy_from(state.learned_net)
        from_host = self.net.context.backend.from_host
        for memory, values in zip(self.history, state.history):
            memory[...] = from_host(values.reshape(-1))
        self.iter = self._last_snapshot = state.iteration
        if not state.resume:
            self._message(f"{path} is Caffe's: it does not say where the data and random streams were; they start "
                          "anew")
            return
        self.plateau = policies.Plateau(**state.resume["plateau"])
        if self.loss_scale and "loss_scale" in state.resume:
            self.loss_scale.restore(state.resume["loss_scale"])
        for net, saved in zip([self.net, *self.test_nets], [state.resume["net"], *state.resume["test_nets"]]):
            net.restore(saved)

    def request_stop(self) -> None:
        """Stop after the current iteration; `solve` then takes a snapshot."""
        self._stop = True

    def request_snapshot(self) -> None:
        """Take a snapshot after the current iteration."""
        self._snapshot_requested = True

    def _notify(self, event: str, *arguments: Any) -> None:
        for listener in self.listeners:
            getattr(listener, event)(self, *arguments)

    def _message(self, line: str) -> None:
        self._notify("on_message", line)

    def close(self) -> None:
        """Stop the nets' data threads."""
        for net in [self.net, *self.test_nets]:
            net.close()

    def __exit__(self, *exc: Any) -> None:
        self.close()


def _device(p: Any, device: str) -> str:
    """The requested device; for "auto" the one that the solver names, if it is available."""
    if device == "auto" and p.HasField("solver_mode") and p.solver_mode == p.CPU:
        return "cpu"
    if device == "auto" and p.HasField("device_id"):
        try:
            backend.select(f"cuda:{p.device_id}")
            return f"cuda:{p.device_id}"
        except SppError:        # most solver files name a GPU, and they run without one too
            return "auto"
    return device


def _outputs(net: Net) -> list[Output]:
    """Every element of every output as (name, value, loss weight)."""
    to_host = net.context.backend.to_host
    return [(name, float(value), net.loss_weights.get(name, 0.0))
            for name in net.outputs for value in np.ravel(to_host(net.blobs[name].data))]
