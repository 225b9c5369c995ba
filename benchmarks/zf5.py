"""ZF-5 with spatial pyramid pooling, 224 x 224: images a second of spp and, where torch can be imported, of torch.

Every contender is a process of its own that waits while the others work. In every round each does each task
once, in turn, so that what else the machine does meets all of them alike: read the ratios, not the times.
Prints the table and writes all times, in seconds, to zf5.json beside this file.

  make bench, or: python benchmarks/zf5.py [--rounds 7] [--tasks inference-1 ...] [--contenders spp ...]
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
from pathlib import Path
from typing import Any, Callable

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TASKS = {"inference-1": 1, "inference-32": 32, "training-32": 32}       # and their batch sizes
CONTENDERS = {
    "spp exact": "SPP_EXACT=1: no algorithmic shortcuts",
    "spp": "",
    "torch": "eager, N x C x H x W",
    "torch channels_last": "eager",
    "torch channels_last, no LRN": "eager, fused SGD; does not compute the same net",
}
LEARNING_RATE = 1e-4        # small: the input is noise


def batch(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(0, 60, (count, 3, 224, 224)).astype(np.float32), rng.integers(0, 1000, count)


def spp_task(task: str) -> Callable[[], Any]:
    from spp.net import Net
    from spp.proto import text
    from spp.solver import Solver

    images, labels = batch(TASKS[task])
    if task.startswith("inference"):
        net = Net(str(ROOT / "prototxt/zf5_spp_deploy.prototxt"), seed=0)
        for blobs in net.params.values():       # the deploy net has no fillers
            blobs[0].data[...] = np.random.default_rng(0).normal(0, 0.01, blobs[0].shape)
        net.blobs["data"].reshape(*images.shape)
        net.blobs["data"].data[...] = images
        return net.forward
    param = text.read_solver(str(ROOT / "prototxt/zf5_spp_solver.prototxt"))
    for field in ("net", "test_iter", "test_interval", "snapshot", "display", "plateau_param"):
        param.ClearField(field)
    param.base_lr, param.lr_policy = LEARNING_RATE, "fixed"
    net_param = text.read_net(str(ROOT / "prototxt/zf5_spp_train_val.prototxt"))
    layers = [layer for layer in net_param.layer if layer.type != "Data"]
    inputs = text.parse_net(f"""layer {{ name: "data" type: "Input" top: "data" top: "label" input_param {{
        shape {{ dim: {len(images)} dim: 3 dim: 224 dim: 224 }} shape {{ dim: {len(images)} }} }} }}""")
    param.net_param.layer.extend([*inputs.layer, *layers])
    solver = Solver(param)
    solver.net.blobs["data"].data[...], solver.net.blobs["label"].data[...] = images, labels
    return lambda: solver.step(1)


def torch_task(task: str, channels_last: bool, lrn: bool) -> Callable[[], Any]:
    import torch
    from torch import nn
    from torch.nn import functional

    class WithinChannels(nn.Module):
        def forward(self, x):
            return x * (1 + 5e-5 * functional.avg_pool2d(x * x, 3, 1, 1)) ** -0.75

    class Pyramid(nn.Module):
        def forward(self, x):
            return torch.cat([functional.adaptive_max_pool2d(x, bins).flatten(1) for bins in (6, 3, 2, 1)], 1)

    def block(inputs, outputs, kernel, stride, norm):
        return [nn.Conv2d(inputs, outputs, kernel, stride, 1), nn.ReLU(inplace=True),
                *([WithinChannels()] if norm and lrn else []),
                *([nn.MaxPool2d(3, 2, ceil_mode=True)] if norm else [])]

    model = nn.Sequential(
        *block(3, 96, 7, 2, True), *block(96, 256, 5, 2, True), *block(256, 384, 3, 1, False),
        *block(384, 384, 3, 1, False), *block(384, 256, 3, 1, False), Pyramid(),
        nn.Linear(12800, 4096), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True),
        nn.Dropout(), nn.Linear(4096, 1000))
    images, labels = (torch.from_numpy(array) for array in batch(TASKS[task]))
    if channels_last:
        model, images = (thing.to(memory_format=torch.channels_last) for thing in (model, images))
    if task.startswith("inference"):
        model.eval()

        def infer():
            with torch.inference_mode():
                functional.softmax(model(images), 1)
        return infer
    fused = None if lrn else True
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, 0.9, weight_decay=5e-4, fused=fused)

    def train():
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return train


def work(name: str) -> None:
    """A contender: for each task named on standard input, the seconds of doing it once on standard output."""
    tasks: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        task = line.strip()
        if task not in tasks:
            tasks.clear()       # one at a time in memory
            tasks[task] = (spp_task(task) if name.startswith("spp") else
                           torch_task(task, "channels_last" in name, "no LRN" not in name))
            for _ in range(2):
                tasks[task]()
        begin = time.perf_counter()
        tasks[task]()
        seconds = time.perf_counter() - begin
        print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)


class Worker:
    def __init__(self, name: str) -> None:
        environment = {**os.environ, "SPP_EXACT": str(int(name == "spp exact")),
                       "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        self.process = subprocess.Popen([sys.executable, __file__, "--work", name], text=True, env=environment,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def seconds(self, task: str) -> tuple[float, float]:
        """Of doing the task once; and the most memory, in MiB, that the process has had."""
        assert self.process.stdin and self.process.stdout
        print(task, file=self.process.stdin, flush=True)
        seconds, kibibytes = self.process.stdout.readline().split()
        return float(seconds), float(kibibytes) / 1024

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def measure(task: str, names: list[str], rounds: int) -> dict[str, Any]:
    """Of each contender the times of all rounds, in seconds, and its largest memory."""
    workers = {name: Worker(name) for name in names}
    found: dict[str, Any] = {name: {"seconds": []} for name in names}
    for count in range(rounds + 1):
        for name, worker in workers.items():
            seconds, memory = worker.seconds(task)
            if count:           # the first round builds the nets while others do too
                found[name]["seconds"].append(seconds)
            found[name]["peak_mib"] = memory
    for worker in workers.values():
        worker.close()
    return found


def report(task: str, found: dict[str, Any]) -> None:
    print(f"\n{task}{'images/s: median (least to most)':>62}{'peak MiB':>10}   times as fast as ...")
    rivals = [name for name in found if name != "spp"]
    for name, result in found.items():
        rates = [TASKS[task] / seconds for seconds in result["seconds"]]
        result["ratios"] = {rival: statistics.median(theirs / ours for ours, theirs in zip(
            result["seconds"], found[rival]["seconds"])) for rival in rivals if rival != name}
        ratios = ", ".join(f"{ratio:.2f} {rival}" for rival, ratio in result["ratios"].items())
        spread = f"{statistics.median(rates):8.1f} ({min(rates):.1f} to {max(rates):.1f})"
        print(f"  {name:<32}{spread:>36}{result['peak_mib']:10.0f}   {ratios if name == 'spp' else ''}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each contender and task")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args.work)
    names = args.contenders
    if importlib.util.find_spec("torch") is None:
        names = [name for name in names if not name.startswith("torch")]
        print("torch is not installed; measuring spp alone")
    results = {}
    for task in args.tasks:
        results[task] = measure(task, names, args.rounds)
        report(task, results[task])
    record = {"machine": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version(),
              "rounds": args.rounds, "contenders": {name: CONTENDERS[name] for name in names}, "tasks": results}
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
