"""Train a net."""
import argparse
import os
import signal
import sys
import traceback
from contextlib import closing, contextmanager
from types import FrameType
from typing import Iterator, Sequence

import numpy as np

from spp.errors import DataError
from spp.solver import Solver
from spp.training import snapshot
from spp.training.reporting import History, LogLines, Progress, set_aside
from spp_tools.common import INTERRUPTED, Parser, existing, guarded, names, positive

DESCRIPTION = """Train a net by a Caffe solver file: read images, learn, test, take snapshots.

  train_net --solver prototxt/zf5_spp_solver.prototxt
      trains the SPP-net ZF-5 on ImageNet from LMDBs in data/, which convert_imageset writes
  train_net --solver S --resume
      resumes from the newest snapshot, as if the training had never stopped
  train_net --solver S --weights model.caffemodel
      starts from the file's weights for all layers of the same name

While it runs, Ctrl-C finishes the iteration, takes a snapshot and stops; a second Ctrl-C stops at once; the
signal HUP takes a snapshot. The log folder gets train.log (Caffe's log lines) and history.jsonl (for
plot_training)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    args = _arguments(argv)
    return guarded(lambda: train(args))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("train_net", DESCRIPTION)
    parser.add_argument("--solver", required=True, metavar="FILE", help="the solver prototxt")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--snapshot", metavar="FILE", help="resume from this .solverstate (or .solverstate.h5)")
    start.add_argument("--resume", action="store_true",
                       help="resume from the newest snapshot of the solver's snapshot_prefix, if there is one")
    parser.add_argument("--weights", type=names, default=[], metavar="FILE,...",
                        help="caffemodels to start from; excludes --snapshot")
    parser.add_argument("--iterations", type=positive, metavar="N",
                        help="train up to iteration N instead of the solver's max_iter")
    parser.add_argument("--log-dir", metavar="DIR",
                        help="folder for train.log and history.jsonl (default: that of snapshot_prefix)")
    parser.add_net_options()
    parser.add_precision()
    args = parser.parse_args(argv)
    if args.snapshot and args.weights:
        parser.error("give --snapshot to resume, or --weights to start from them, not both")
    return args


def train(args: argparse.Namespace) -> int:
    """Train as the arguments say; returns the exit code."""
    with _solver(args) as solver:
        prefix = solver.param.snapshot_prefix
        start = args.snapshot
        if args.resume:
            start = snapshot.latest(prefix)
            if start is None:
                print(f"no snapshot {prefix}_iter_N.solverstate: starting afresh", file=sys.stderr)
        if args.iterations is not None:
            solver.max_iter = args.iterations
        folder = args.log_dir or os.path.dirname(prefix) or "."
        os.makedirs(folder, exist_ok=True)
        log = os.path.join(folder, "train.log")
        if start is None and os.path.exists(log):
            set_aside(log)
        with open(log, "a", encoding="utf-8") as file, closing(Progress(sys.stderr)) as progress:
            solver.listeners.append(History(os.path.join(folder, "history.jsonl")))
            if sys.stderr.isatty():
                solver.listeners += [LogLines(file), progress]
            else:
                solver.listeners.append(LogLines(sys.stderr, file))
            if start is not None:
                for listener in solver.listeners:
                    listener.on_message(solver, f"Resuming from {start}")
                solver.restore(start)
            # the solver reports a loss of NaN, about which NumPy would warn
            with _signals(solver), np.errstate(all="ignore"):
                return 0 if solver.solve() == "done" else INTERRUPTED


def _solver(args: argparse.Namespace) -> Solver:
    try:
        return Solver(existing(args.solver), args.device, weights=args.weights, level=args.level,
                      stages=args.stage, precision=args.precision)
    except DataError as error:
        raise DataError(f"{error} (a training that needs no data of yours: make demo, or the command "
                        "spp-demo)") from error


@contextmanager
def _signals(solver: Solver) -> Iterator[None]:
    """INT and TERM stop the solver after its iteration, a second INT at once; HUP requests a snapshot."""
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping and number == signal.SIGINT:
            if _in_llvm(frame):
                os.write(2, b"\ninterrupted\n")
                os._exit(INTERRUPTED)
            raise KeyboardInterrupt
        stopping = True
        # not print: the signal may interrupt a print
        os.write(2, b"\nstopping after this iteration and a snapshot; Ctrl-C again stops at once\n")
        solver.request_stop()

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop}
    if hasattr(signal, "SIGHUP"):      # not on Windows
        handlers[signal.SIGHUP] = lambda number, frame: solver.request_snapshot()
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _in_llvm(frame: FrameType | None) -> bool:
    """Whether a kernel is being loaded: LLVM loses an exception in its callback, and the kernel's call crashes."""
    return any(f.f_globals.get("__name__", "").startswith("llvmlite.") for f, _ in traceback.walk_stack(frame))


if __name__ == "__main__":
    sys.exit(main())
