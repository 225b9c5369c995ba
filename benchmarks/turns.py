"""Interleaved timing of several contenders; every benchmark in this folder uses it.

Each contender is a process of its own that waits while the others work. In every round each contender runs the task
once, in turn, so that other load on the machine affects all of them alike: read the ratios, not the times. A short
task is run several times per turn.

A benchmark is a program that calls `main` with its tasks and contenders, and with a function `make(contender, task)`
that returns the function to time, or None if the contender does not support the task.
"""
import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterable

ROOT = Path(__file__).resolve().parent.parent
TURN = 0.3          # seconds that a turn takes at least


@dataclass
class Contender:
    """A program to time: its description, the modules that it needs, and its environment variables."""

    what: str
    needs: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class Task:
    """A task of `count` units (images, windows).

    If it is large, not all contenders have it in memory at once: ours is compared with one rival at a time.
    """

    count: int
    unit: str = "images"
    large: bool = False


Make = Callable[[str, str], Callable[[], Any] | None]


def _work(make: Make, contender: str) -> None:
    """The process of a contender: reads task names from standard input, writes the seconds of one run each to standard
    output.
    """
    sys.stdout.flush()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)           # what libraries print is not part of the answers
    tasks: dict[str, tuple[Callable[[], Any] | None, int]] = {}
    for line in sys.stdin:
        task = line.strip()
        if task not in tasks:
            tasks.clear()       # one at a time in memory
            run, times = make(contender, task), 1
            if run is not None:
                run()
                begin = time.perf_counter()
                run()
                times = max(1, round(TURN / (time.perf_counter() - begin)))
            tasks[task] = run, times
        run, times = tasks[task]
        if run is None:
            print("none 0", file=answers, flush=True)
            continue
        begin = time.perf_counter()
        for _ in range(times):
            run()
        seconds = (time.perf_counter() - begin) / times
        print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=answers, flush=True)


class _Worker:
    def __init__(self, script: str, name: str, contender: Contender) -> None:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        # a shell's setting for an older processor would slow down only the contenders that use OpenBLAS
        environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_CORETYPE"}
        self.process = subprocess.Popen([sys.executable, script, "--work", name], text=True,
                                        env={**environment, "PYTHONPATH": path, **contender.environment},
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def turn(self, task: str) -> tuple[float, float] | None:
        """Seconds of running the task once, and the peak memory of the process in MiB; None if it is unsupported."""
        assert self.process.stdin and self.process.stdout
        print(task, file=self.process.stdin, flush=True)
        seconds, kibibytes = (self.process.stdout.readline() or "none 0").split()
        return None if seconds == "none" else (float(seconds), float(kibibytes) / 1024)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def measure(script: str, name: str, task: Task, contenders: dict[str, Contender], rounds: int,
            ours: str) -> dict[str, Any]:
    """For each contender that supports the task, the seconds of all rounds, and its peak memory in MiB.

    `ours_is_times_as_fast`: the median over the rounds of its time divided by that of `ours` in the same round.
    """
    rivals = [rival for rival in contenders if rival != ours]
    groups = [[ours, rival] for rival in rivals] if task.large and ours in contenders else [list(contenders)]
    results: dict[str, Any] = {}
    for group in groups:
        times = _take_turns(script, name, {rival: contenders[rival] for rival in group}, rounds)
        for rival, result in times.items():
            if ours in times and rival != ours:
                result["ours_is_times_as_fast"] = statistics.median(
                    theirs / mine for mine, theirs in zip(times[ours]["seconds"], result["seconds"]))
            if rival in results:
                results[rival]["seconds"] += result["seconds"]
            else:
                results[rival] = result
    return results


def _take_turns(script: str, task: str, contenders: dict[str, Contender], rounds: int) -> dict[str, Any]:
    workers = {name: _Worker(script, name, contender) for name, contender in contenders.items()}
    results: dict[str, Any] = {}
    for count in range(rounds + 1):
        for name, worker in list(workers.items()):
            answer = worker.turn(task)
            if answer is None:
                workers.pop(name).close()
                continue
            result = results.setdefault(name, {"seconds": []})
            if count:           # the first round builds the nets while others do too
                result["seconds"].append(answer[0])
            result["peak_mib"] = answer[1]
    for worker in workers.values():
        worker.close()
    return results


def report(name: str, task: Task, results: dict[str, Any], ours: str) -> None:
    """Print a task's table."""
    print(f"\n{name:<28}{task.unit + '/s: median (least to most)':>42}{'peak MiB':>10}   {ours} is ... times as fast")
    for contender, result in results.items():
        rates = [task.count / seconds for seconds in result["seconds"]]
        spread = f"{statistics.median(rates):10.1f} ({min(rates):.1f} to {max(rates):.1f})"
        ratio = f"{result['ours_is_times_as_fast']:.2f}" if "ours_is_times_as_fast" in result else ""
        print(f"  {contender:<30}{spread:>38}{result['peak_mib']:10.0f}   {ratio:>6}", flush=True)


def present(contenders: dict[str, Contender]) -> dict[str, Contender]:
    """The contenders whose modules are installed; prints which are left out."""
    installed = {}
    for name, contender in contenders.items():
        missing = [module for module in contender.needs if importlib.util.find_spec(module) is None]
        if missing:
            print(f"{name}: left out, {' and '.join(missing)} not installed (pip install '.[bench]')")
        else:
            installed[name] = contender
    return installed


def machine() -> dict[str, Any]:
    """The machine that runs the benchmark."""
    return {"machine": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version()}


def main(script: str, description: str | None, tasks: dict[str, Task], contenders: dict[str, Contender], make: Make,
         ours: str = "spp", extra: Iterable[str] = ()) -> None:
    """The program: --rounds, --tasks, --contenders; prints tables and writes JSON beside the script after each task.

    `extra` are tasks that run only when named. Results of other tasks stay in the JSON file.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each task (default: 5)")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", choices=tasks, help=f"of: {', '.join(tasks)}",
                        default=[name for name in tasks if name not in set(extra)])
    parser.add_argument("--contenders", nargs="+", metavar="NAME", choices=contenders, default=list(contenders),
                        help="of: " + "; ".join(f"{name!r} {c.what}" for name, c in contenders.items()))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return _work(make, args.work)
    taking_part = present({name: contenders[name] for name in args.contenders})
    path = Path(script).with_suffix(".json")
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"contenders": {}, "tasks": {}}
    for name in args.tasks:
        before["tasks"][name] = measure(script, name, tasks[name], taking_part, args.rounds, ours)
        report(name, tasks[name], before["tasks"][name], ours)
        record = {**machine(), "rounds": args.rounds,
                  "contenders": before["contenders"] | {rival: taking_part[rival].what for rival in taking_part},
                  "tasks": {task: before["tasks"][task] for task in tasks if task in before["tasks"]}}
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
