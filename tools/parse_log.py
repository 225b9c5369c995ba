"""Turn a training's log into tables."""
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

DESCRIPTION = """Turn a log of `caffe train` or train_net into CSV tables of what was displayed and tested.

  parse_log snapshots/zf5_spp/train.log tables/
      writes tables/train.log.train and tables/train.log.test; a second test net goes into train.log.test1

Columns: NumIters, Seconds since the training began, LearningRate, then the net's outputs; a further value of
an output with several elements has the column name[1], name[2], ... Of an iteration that a resumed training
did again, the last row stays.
Exit codes: 0 done, 1 an error (one line on stderr says which)."""

NUMBER = r"([+-]?(?:[\d.]+(?:e[+-]?\d+)?|inf|nan))"
PREFIX = re.compile(r"[IWEF](?:\d{4})?(?P<month>\d\d)(?P<day>\d\d) (?P<time>\d\d:\d\d:\d\d(?:\.\d+)?) ")
ITERATION = re.compile(r"Iteration (\d+)")
TESTING = re.compile(r"Testing net \(#(\d+)\)")
RATE = re.compile(rf"lr = {NUMBER}", re.IGNORECASE)
OUTPUT = re.compile(rf"(Train|Test) net output #(\d+): (\S+) = {NUMBER}", re.IGNORECASE)


@dataclass
class Row:
    """What a net's outputs were at an iteration."""

    iteration: int
    seconds: float
    rate: float | None = None
    outputs: dict[str, str] = field(default_factory=dict)


Tables = dict[str, dict[int, Row]]      # by the suffix of the file: train, test, test1, ...; rows by iteration


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = Parser("parse_log", DESCRIPTION)
    parser.add_argument("log", metavar="LOG", help="a log file")
    parser.add_argument("folder", metavar="OUTDIR", help="where the tables go")
    parser.add_argument("--delimiter", default=",", metavar="C", help="between columns (default: a comma)")
    args = parser.parse_args(argv)
    if len(args.delimiter) != 1:
        parser.error(f"--delimiter takes one character, found {args.delimiter!r}")
    return guarded(lambda: convert(args.log, args.folder, args.delimiter))


def convert(log: str, folder: str, delimiter: str) -> int:
    """Write the tables of a log into a folder; returns the exit code."""
    with open(log, encoding="utf-8", errors="replace") as file:
        tables = parse(file)
    if not any(tables.values()):
        raise SppError(f"{log}: holds no line such as 'Iteration 100, ...' followed by 'Train net output #0: loss = "
                       "1.5'; give a log of a training whose solver has display or test_interval")
    os.makedirs(folder, exist_ok=True)
    for suffix, rows in tables.items():
        path = os.path.join(folder, f"{os.path.basename(log)}.{suffix}")
        _write(path, list(rows.values()), delimiter)
        print(f"{len(rows)} rows written to {path}")
    return 0


def parse(lines: Iterable[str]) -> Tables:
    """The tables of a log; `train` and `test` are there even if empty."""
    tables: Tables = {"train": {}, "test": {}}
    rates: dict[int, float] = {}
    clock, began, iteration, test_net = _Clock(), None, -1, ""
    for line in lines:
        now = clock.read(line)
        if began is None and "Solving" in line:
            began = now
        if found := ITERATION.search(line):
            iteration = int(found[1])
        if found := TESTING.search(line):
            test_net = found[1]
        if iteration >= 0 and (found := RATE.search(line)):
            rates[iteration] = float(found[1])
        if iteration < 0 or not (found := OUTPUT.search(line)):
            continue
        phase, index, name, value = found.groups()
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
    """Reads the times in front of the lines of glog, which have no year."""

    def __init__(self) -> None:
        self.now = datetime(2000, 1, 1)     # any leap year

    def read(self, line: str) -> datetime:
        """The time of a line, or of the last one that had a time."""
        found = PREFIX.match(line)
        if found:
            clock = datetime.strptime(found["time"], "%H:%M:%S.%f" if "." in found["time"] else "%H:%M:%S")
            try:
                now = clock.replace(year=self.now.year, month=int(found["month"]), day=int(found["day"]))
            except ValueError:      # a 29 February after the turn of the year, or no date at all
                return self.now
            if now < self.now - timedelta(days=180):
                now = now.replace(year=now.year + 1)
            self.now = now
        return self.now


def _rate_at(rates: dict[int, float], iteration: int) -> float | None:
    """The rate logged at an iteration, else the last one before it, else the first one."""
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
