"""Listeners of a training: log lines in Caffe's words, a history file, a progress bar."""
import json
import math
import os
import time
from datetime import datetime
from typing import Any, Sequence, TextIO

from tqdm import tqdm

from spp.atomic import replacing
from spp.errors import SppError

Outputs = Sequence[tuple[str, float, float]]    # (blob name, value, loss weight), one for every element


class Listener:
    """One method per event of a training, called by the solver; a subclass overrides the methods that it needs."""

    def on_start(self, solver: Any) -> None:
        """`solve` begins or resumes the training at `solver.iter`."""

    def on_step_begin(self, solver: Any) -> None:
        """An iteration begins, before its first forward pass."""

    def on_gradients(self, solver: Any) -> None:
        """The gradients of an iteration are complete and not yet applied; the listener may change them."""

    def on_step(self, solver: Any, iteration: int, loss: float, lr: float, images: int) -> None:
        """Update number `iteration` has been applied; its gradients are of `images` images."""

    def on_display(self, solver: Any, iteration: int, loss: float, lr: float, outputs: Outputs) -> None:
        """Every `display` iterations, before the update; `loss` is the mean of the last `average_loss` iterations."""

    def on_test_batch(self, solver: Any, index: int, done: int, batches: int) -> None:
        """Test net `index` has been run on `done` of its `batches` batches."""

    def on_test(self, solver: Any, iteration: int, index: int, outputs: Outputs, loss: float | None) -> None:
        """Test net `index` has been run; outputs and loss are means over its `test_iter` batches.

        The loss is None unless the solver has `test_compute_loss`.
        """

    def on_snapshot(self, solver: Any, path: str) -> None:
        """A snapshot has been written to `path`."""

    def on_message(self, solver: Any, text: str) -> None:
        """A further line for the log."""

    def on_end(self, solver: Any, reason: str) -> None:
        """The training has ended: `reason` is "done" or "stopped"."""


class PacedListener(Listener):
    """Measures training speed, without tests and snapshots; overriding methods call the ones here."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._iterations = self._images = 0
        self._seconds = 0.0
        self._last = time.perf_counter()

    def on_start(self, solver: Any) -> None:
        self._restart()

    def on_step(self, solver: Any, iteration: int, loss: float, lr: float, images: int) -> None:
        now = time.perf_counter()
        self._seconds += now - self._last
        self._iterations += 1
        self._images += images
        self._last = now

    def on_test(self, solver: Any, iteration: int, index: int, outputs: Outputs, loss: float | None) -> None:
        self._last = time.perf_counter()

    def on_snapshot(self, solver: Any, path: str) -> None:
        self._last = time.perf_counter()

    def take_pace(self) -> tuple[int, int, float]:
        """Iterations, images and seconds since the last call."""
        counts = self._iterations, self._images, self._seconds
        self._iterations = self._images = 0
        self._seconds = 0.0
        return counts


class LogLines(PacedListener):
    """Writes the lines that `caffe train` logs, with glog's prefix, so that scripts that parse them work."""

    def __init__(self, *streams: TextIO) -> None:
        super().__init__()
        self.streams = streams

    def write(self, text: str) -> None:
        """Write one line to every stream, after glog's prefix."""
        prefix = glog_prefix("I", datetime.now(), os.getpid(), "solver.py:1")
        for stream in self.streams:
            stream.write(prefix + text + "\n")
            stream.flush()

    def on_start(self, solver: Any) -> None:
        super().on_start(solver)
        self.write(f"Solving {solver.net.name}")
        self.write(f"Learning Rate Policy: {solver.param.lr_policy}")

    def on_display(self, solver: Any, iteration: int, loss: float, lr: float, outputs: Outputs) -> None:
        iterations, _, seconds = self.take_pace()
        rate = iterations / seconds if seconds else 0
        self.write(f"Iteration {iteration} ({rate:g} iter/s, {seconds:g}s/{solver.param.display} iters), "
                   f"loss = {loss:g}")
        self._write_outputs("Train", outputs)
        self.write(f"Iteration {iteration}, lr = {lr:g}")

    def on_test(self, solver: Any, iteration: int, index: int, outputs: Outputs, loss: float | None) -> None:
        self.write(f"Iteration {iteration}, Testing net (#{index})")
        if loss is not None:
            self.write(f"Test loss: {loss:g}")
        self._write_outputs("Test", outputs)
        super().on_test(solver, iteration, index, outputs, loss)

    def _write_outputs(self, phase: str, outputs: Outputs) -> None:
        for k, (name, value, weight) in enumerate(outputs):
            self.write(f"    {phase} net output #{k}: {output_text(name, value, weight)}")

    def on_snapshot(self, solver: Any, path: str) -> None:
        what = "Snapshotting solver state to" if ".solverstate" in path else "Snapshotting to"
        kind = "HDF5" if path.endswith(".h5") else "binary proto"
        self.write(f"{what} {kind} file {path}")
        super().on_snapshot(solver, path)

    def on_message(self, solver: Any, text: str) -> None:
        self.write(text)

    def on_end(self, solver: Any, reason: str) -> None:
        self.write("Optimization Done." if reason == "done" else "Optimization stopped early.")


def glog_prefix(severity: str, time: datetime, process: int, source: str) -> str:
    """What glog writes before the text of a line; severity: "I", "W", "E" or "F"; source: file and line."""
    return f"{severity}{time:%m%d %H:%M:%S.%f} {process:5d} {source}] "


def output_text(name: str, value: float, weight: float) -> str:
    """A net's output as Caffe prints it; with its contribution to the loss if it has a loss weight."""
    loss = f" (* {weight:g} = {weight * value:g} loss)" if weight else ""
    return f"{name} = {value:g}{loss}"


class History(PacedListener):
    """Writes the displayed values and the test results to a file of JSON lines, for plots and tables.

    Every line is an object with `kind` ("train" or "test"), `iteration`, `loss`, `seconds` (since the
    training began, over all runs) and `outputs` (name to value, or to a list of values for an output of several
    elements); "train" also has `lr` and `images_per_second`, "test" has `net`, the test net's number. NaN and
    infinity are written as null, and so are an unknown speed and the loss of a test net without losses.

    A resumed training appends to the file, without the lines after the snapshot; a new training renames an existing
    file to `history.previous.jsonl`.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._began = time.monotonic()

    def on_start(self, solver: Any) -> None:
        super().on_start(solver)
        self._began = time.monotonic()
        if not os.path.exists(self.path):
            return
        if solver.iter == 0:
            set_aside(self.path)
            return
        rows = [row for row in read_history(self.path) if row["iteration"] <= solver.iter]
        with replacing(self.path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        if rows:
            self._began -= rows[-1]["seconds"]

    def on_display(self, solver: Any, iteration: int, loss: float, lr: float, outputs: Outputs) -> None:
        _, images, seconds = self.take_pace()
        speed = images / seconds if seconds else math.nan
        self._append({"kind": "train", "iteration": iteration, "loss": _finite(loss), "lr": lr,
                      "images_per_second": _finite(round(speed, 2)), "outputs": _by_name(outputs)})

    def on_test(self, solver: Any, iteration: int, index: int, outputs: Outputs, loss: float | None) -> None:
        if loss is None and any(weight for _, _, weight in outputs):
            loss = sum(value * weight for _, value, weight in outputs)
        self._append({"kind": "test", "iteration": iteration, "net": index, "loss": _finite(loss),
                      "outputs": _by_name(outputs)})
        super().on_test(solver, iteration, index, outputs, loss)

    def _append(self, row: dict[str, Any]) -> None:
        row["seconds"] = round(time.monotonic() - self._began, 3)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _by_name(outputs: Outputs) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value, _ in outputs:
        values.setdefault(name, []).append(_finite(value))
    return {name: elements[0] if len(elements) == 1 else elements for name, elements in values.items()}


def set_aside(path: str) -> None:
    """Rename a file of an earlier training: `history.jsonl` to `history.previous.jsonl`."""
    stem, suffix = os.path.splitext(path)
    os.replace(path, f"{stem}.previous{suffix}")


def read_history(path: str) -> list[dict[str, Any]]:
    """The lines of a History file; of an iteration that was repeated after a resume, only the last line of its kind.

    An incomplete last line, as a killed process may leave it, is skipped. Raises SppError if the file cannot be
    read, or another line is not JSON.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise SppError(f"{path}: cannot be read as a training history: {problem}; "
                       "give a history.jsonl that train_net wrote") from problem
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            key = (row["kind"], row["iteration"], row.get("net"))
        except (ValueError, TypeError, KeyError, AttributeError):
            if number == len(lines):
                break
            raise SppError(f"{path}:{number}: not a line of a training history; "
                           "give a history.jsonl that train_net wrote") from None
        rows[key] = row
    return list(rows.values())


class Progress(PacedListener):
    """A progress bar with loss, learning rate, images per second and the time left; for terminals."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream
        self.speed = 0.0
        self.bar: Any = None
        self._shown = 0.0

    def on_start(self, solver: Any) -> None:
        super().on_start(solver)
        self.bar = tqdm(total=solver.max_iter, initial=solver.iter, unit="iter", file=self.stream, dynamic_ncols=True)

    def on_step(self, solver: Any, iteration: int, loss: float, lr: float, images: int) -> None:
        super().on_step(solver, iteration, loss, lr, images)
        _, images, seconds = self.take_pace()
        latest = images / seconds if seconds else 0.0
        self.speed = 0.9 * self.speed + 0.1 * latest if self.speed else latest
        self.bar.set_postfix_str(f"loss {loss:.4g}, lr {lr:.3g}, {self.speed:.0f} img/s", refresh=False)
        self.bar.update(1)

    def on_test_batch(self, solver: Any, index: int, done: int, batches: int) -> None:
        now = time.monotonic()
        if now - self._shown >= 0.5:
            self._shown = now
            self.bar.set_description_str(f"test net {index}, batch {done} of {batches}")

    def on_test(self, solver: Any, iteration: int, index: int, outputs: Outputs, loss: float | None) -> None:
        self.bar.set_description_str("", refresh=False)
        values = ", ".join(f"{name} {value:.4g}" for name, value, _ in outputs)
        self._write(f"iteration {iteration}: test net {index}: {values}")
        super().on_test(solver, iteration, index, outputs, loss)

    def on_snapshot(self, solver: Any, path: str) -> None:
        if ".solverstate" in path:      # the weights get no line
            self._write(f"iteration {solver.iter}: snapshot {path}")
        super().on_snapshot(solver, path)

    def on_message(self, solver: Any, text: str) -> None:
        self._write(text)

    def on_end(self, solver: Any, reason: str) -> None:
        self.close()

    def close(self) -> None:
        """Finish the bar and move to the next line. May be called twice."""
        if self.bar is not None:
            self.bar.close()

    def _write(self, text: str) -> None:
        """Write a line above the bar."""
        if self.bar is None:
            self.stream.write(text + "\n")
        else:
            self.bar.write(text, file=self.stream)
