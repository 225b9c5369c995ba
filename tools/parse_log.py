"""Convert the log of a training to tables."""
import csv
import os
import re
import sys
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Iterable, Sequence

from spp.atomic import replacing
from spp.errors import SppError
from spp_tools.common import Parser, guarded

DESCRIPTION = """Convert a log of `caffe train` or train_net to CSV tables of displayed values and test results.

  parse_log snapshots/zf5_spp/train.log tables/
      writes tables/train.log.train and tables/train.log.test; the table of a second test net is train.log.test1

Columns: NumIters, Seconds since the training began, LearningRate, then the net's outputs; the elements of an
output with several values have the columns name, name[1], name[2], ... Of an iteration that a resumed training
repeated, only the last row is written."""

NUMBER = r"([+-]?(?:[\d.]+(?:e[+-]?\d+)?|inf|nan))"
PREFIX = re.compile(r"[IWEF](?:\d{4})?(?P<month>\d\d)(?P<day>\d\d) (?P<time>\d\d:\d\d:\d\d(?:\.\d+)?) ")
ITERATION = re.compile(r"Iteration (\d+)")
TESTING = re.compile(r"Testing net \(#(\d+)\)")
RATE = re.compile(rf"lr = {NUMBER}", re.IGNORECASE)
OUTPUT = re.compile(rf"(Train|Test) net output #(\d+): (\S+) = {NUMBER}", re.IGNORECASE)


@dataclass
class Row:
    """The outputs of a net at an iteration."""

    iteration: int
    seconds: float
    rate: float | None = None
    outputs: dict[str, str] = field(default_factory=dict)


Tables = dict[str, dict[int, Row]]      # by the suffix of the file: train, test, test1, ...; rows by iteration


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = Parser("parse_log", DESCRIPTION)
    parser.add_argument("log", metavar="LOG", help="a log file")
    parser.add_argument("folder", metavar="OUTDIR", help="folder for the tables")
    parser.add_argument("--delimiter", default=",", metavar="C", help="separator of the columns (default: a comma)")
    args = parser.parse_args(argv)
    if len(args.delimiter) != 1:
        parser.error(f"--delimiter takes one character, found {args.delimiter!r}")
    return guarded(lambda: convert(args.log, args.folder, args.delimiter))


def convert(log: str, folder: str, delimiter: str) -> int:
    """Write the tables of a log into a folder; returns the exit code."""
    with open(log, encoding="utf-8", errors="replace") as file:
        tables = parse(file)
    if not any(tables.values()):
        raise SppError(f"{log}: has no line such as 'Iteration 100, ...' followed by 'Train net output #0: loss = "
                       "1.5'; give a log of a training whose solver has display or test_interval")
    os.makedirs(folder, exist_ok=True)
    for suffix, rows in tables.items():
        path = os.path.join(folder, f"{os.path.basename(log)}.{suffix}")
        _write(path, list(rows.values()), delimiter)
        print(f"{len(rows)} rows written to {path}")
    return 0


def parse(lines: Iterable[str]) -> Tables:
    """The tables of a log; always with `train` and `test`, which may be empty."""
    tables: Tables = {"train": {}, "test": {}}
    rates: dict[int, float] = {}
    clock, began, iteration, test_net = _Clock(), None, -1, ""
    for line in lines:
        now = clock.read(line)
        if began is None and "Solving" in line:
            began = now
        if match := ITERATION.search(line):
            iteration = int(match[1])
        if match := TESTING.search(line):
            test_net = match[1]
        if iteration >= 0 and (match := RATE.search(line)):
            rates[iteration] = float(match[1])
        if iteration < 0 or not (match := OUTPUT.search(line)):
            continue
        phase, index, name, value = match.groups()
        suffix = phase.lower() + (test_net if phase.lower() == "test" and test_net != "0" else "")
        rows = tables.setdefault(suffix, {})
        if index == "0":
            rows.pop(iteration, None)
        row = rows.setdefault(iteration, Row(iteration, (now - (began or now)).total_seconds()))
        column, element = name, 0
        while column in row.outputs:
            element += 1
            column = f"{name}[{element}]"
        row.outputs[column] = value
    for rows in tables.values():
        for row in rows.values():
            row.rate = _rate_at(rates, row.iteration)
    return tables


class _Clock:
    """Reads the times of glog's lines, which have no year."""

    def __init__(self) -> None:
        self.now = datetime(2000, 1, 1)     # any leap year

    def read(self, line: str) -> datetime:
        """The time of a line, or of the last line with a time."""
        match = PREFIX.match(line)
        if match:
            clock = datetime.strptime(match["time"], "%H:%M:%S.%f" if "." in match["time"] else "%H:%M:%S")
            try:
                now = clock.replace(year=self.now.year, month=int(match["month"]), day=int(match["day"]))
            except ValueError:      # 29 February after the end of the year, or no date
                return self.now
            if now < self.now - timedelta(days=180):
                now = now.replace(year=now.year + 1)
            self.now = now
        return self.now


def _rate_at(rates: dict[int, float], iteration: int) -> float | None:
    """The rate logged at an iteration, else the last rate before it, else the first rate."""
    before = [known for known in rates if known <= iteration]
    return rates[max(before)] if before else rates[min(rates)] if rates else None


def _write(path: str, rows: list[Row], delimiter: str) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row.outputs))
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(["NumIters", "Seconds", "LearningRate", *names])
        for row in rows:
            rate = "" if row.rate is None else f"{row.rate:g}"
            writer.writerow([row.iteration, f"{row.seconds:g}", rate, *(row.outputs.get(name, "") for name in names)])


if __name__ == "__main__":
    sys.exit(main())
