"""Plot a training."""
import argparse
import os
import sys
from typing import Any, Sequence

from spp.atomic import replacing
from spp.errors import SppError
from spp.training.reporting import read_history
from spp_tools.common import Parser, guarded

DESCRIPTION = """Plot loss, accuracy and learning rate of one training, or of several for comparison, as a PNG.

  plot_training snapshots/zf5_spp
      plots snapshots/zf5_spp/history.jsonl to training.png
  plot_training snapshots/zf5 snapshots/zf5_spp --output compared.png
      plots both trainings in one image"""

Rows = list[dict[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = Parser("plot_training", DESCRIPTION)
    parser.add_argument("logs", nargs="+", metavar="LOG", help="log folder of train_net, or a history.jsonl")
    parser.add_argument("--output", default="training.png", metavar="FILE",
                        help="the PNG (default: %(default)s)")
    args = parser.parse_args(argv)
    return guarded(lambda: plot(args))


def plot(args: argparse.Namespace) -> int:
    """Plot as the arguments say; returns the exit code."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SppError("drawing needs matplotlib: pip install 'spp[plot]'") from None
    histories = [_read(path) for path in args.logs]
    labels = _labels(args.logs)
    figure = Figure(figsize=(9, 10), layout="constrained")
    loss, accuracy, rate = figure.subplots(3, 1, sharex=True)
    for index, (rows, label) in enumerate(zip(histories, labels)):
        colour = f"C{index}"
        prefix = f"{label}: " if len(histories) > 1 else ""
        train = [row for row in rows if row["kind"] == "train"]
        tests = [row for row in rows if row["kind"] == "test"]
        _line(loss, train, "loss", f"{prefix}train", color=colour, alpha=0.7)
        _line(rate, train, "lr", label, color=colour, drawstyle="steps-post")
        for net in sorted({row["net"] for row in tests}):
            rows_of_net = [row for row in tests if row["net"] == net]
            number = f" net {net}" if net else ""
            _line(loss, rows_of_net, "loss", f"{prefix}test{number}", color=colour, linestyle="--", marker="o")
            for style, name in zip(("-", ":", "-.", "--"), _scores(rows_of_net)):
                values = [{"iteration": row["iteration"], name: row["outputs"].get(name)} for row in rows_of_net]
                _line(accuracy, values, name, f"{prefix}{name}{number}", color=colour, linestyle=style,
                      marker="o")
    for axes, title in ((loss, "loss"), (accuracy, "test accuracy"), (rate, "learning rate")):
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    rate.set_yscale("log")
    rate.set_xlabel("iteration")
    figure.suptitle("Training of " + ", ".join(labels))
    with replacing(args.output) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    print(args.output)
    return 0


def _read(path: str) -> Rows:
    if os.path.isdir(path):
        path = os.path.join(path, "history.jsonl")
    rows = read_history(path)
    if not rows:
        raise SppError(f"{path}: is still empty; train_net writes a line at every display and every test")
    return rows


def _labels(paths: Sequence[str]) -> list[str]:
    """Labels of the trainings: the names of their folders, or the paths if these are equal."""
    folders = [os.path.abspath(path if os.path.isdir(path) else os.path.dirname(path)) for path in paths]
    short = [os.path.basename(folder) for folder in folders]
    return short if len(set(short)) == len(short) else list(paths)


def _scores(tests: Rows) -> list[str]:
    """The outputs of a test net with one value that are not losses."""
    return [name for name, value in tests[-1]["outputs"].items()
            if "loss" not in name and not isinstance(value, list)]


def _line(axes: Any, rows: Rows, field: str, label: str, **style: Any) -> None:
    points = [(row["iteration"], row[field]) for row in rows if row[field] is not None]
    if points:
        axes.plot(*zip(*points), label=label, **style)


if __name__ == "__main__":
    sys.exit(main())
