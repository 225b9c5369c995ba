"""Nets on a GPU: images per second of spp, torch and torch.compile at each precision, and the GPU's own limits.

Inference of 1, 32 and 128 images and training steps of 128. torch computes the same net with the same arithmetic:
fp32 without TF32, tf32 with it, bf16 under autocast; channels_last in the latter two. The limits are measured
first: FLOP/s of a large matrix product, and bytes per second of a copy inside the GPU. Prints tables, and writes all
times to gpu.json beside this file, or to --output.

  make bench-gpu, or: python benchmarks/gpu.py [--nets zf5_spp ...] [--tasks training-128] [--precisions bf16]
      [--small --device cpu]
"""
import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterable

import numpy as np

import nets
import turns
from spp import backend
from spp.backend.types import Epilogue
from spp.inspection import flops
from spp.errors import SppError
from spp.layers import TEST
from spp.net import Net
from spp.proto import text
from spp.solver import Solver

TASKS = {"inference-1": 1, "inference-32": 32, "inference-128": 128, "training-128": 128}
PRECISIONS = ("fp32", "tf32", "bf16")
CONTENDERS = {"spp": turns.Contender(""), "torch": turns.Contender("eager", ("torch",)),
              "torch.compile": turns.Contender("torch.compile", ("torch",))}
SOLVER = 'base_lr: 1e-4 lr_policy: "fixed" momentum: 0.9 weight_decay: 5e-4 random_seed: 1'
PRODUCT, COPIED = 8192, 1 << 30     # side of the matrices, bytes: large enough to reach the limits
SMALL = 72                          # side of --small images


def task_name(net: str, task: str, precision: str, device: str = "cuda", size: int | None = None) -> str:
    """The name of a task, which is all that the contenders' processes get."""
    return " ".join([net, task, precision, device, str(size or "")]).strip()


def make(contender: str, name: str) -> Callable[[], Any]:
    """The function to time: one forward pass, or one training step, until the device has finished."""
    net, task, precision, device, *size = name.split()
    side = int(size[0]) if size else None
    count = int(task.split("-")[1])
    training = task.startswith("training")
    param = (nets.training if training else nets.inference)(net, count, side)
    images = np.random.default_rng(0).normal(0, 60, (count, 3, *[side or nets.NETS[net][1]] * 2)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, nets.CLASSES, count)
    if contender == "spp":
        return _spp(param, training, precision, device, images, labels)
    return _torch(param, training, precision, device, images, labels, contender == "torch.compile")


def _spp(param: Any, training: bool, precision: str, device: str, images: np.ndarray,
         labels: np.ndarray) -> Callable[[], Any]:
    if training:
        solver_param = text.parse_solver(SOLVER)
        solver_param.net_param.CopyFrom(param)
        solver = Solver(solver_param, device, precision=precision)
        net = solver.net
    else:
        net = Net(param, TEST, device=device, precision=precision)
    used = net.context.backend
    with used.use():
        net.blobs["data"].data[...] = used.from_host(images)
        if training:
            net.blobs["label"].data[...] = used.from_host(labels.astype(np.float32))

    def run() -> None:
        with used.use():
            if training:
                solver.step(1)
            else:
                net.forward()
            if used.asynchronous:
                used.xp.cuda.get_current_stream().synchronize()
    return run


def _torch(param: Any, training: bool, precision: str, device: str, images: np.ndarray, labels: np.ndarray,
           compiled: bool) -> Callable[[], Any]:
    import torch

    import torch_nets
    on_gpu = device.startswith("cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"
    torch.backends.cudnn.benchmark = True       # torch's fastest setting
    order = torch.contiguous_format if precision == "fp32" else torch.channels_last
    x = torch.from_numpy(images).to(device, memory_format=order)
    target = torch.from_numpy(labels).to(device)
    net: Any = torch_nets.TorchNet(param).to(device)
    with torch.no_grad():
        net(*(x, target)[:len(net.inputs)])
    net = net.to(memory_format=order)
    module = torch.compile(net) if compiled else net

    def forward(*inputs: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda" if on_gpu else "cpu", torch.bfloat16, enabled=precision == "bf16"):
            return module(*inputs)

    if training:
        optimizer = torch.optim.SGD(net.parameters(), 1e-4, 0.9, weight_decay=5e-4, fused=on_gpu)

        def step() -> None:
            optimizer.zero_grad()
            loss = forward(x, target)
            loss.backward()
            optimizer.step()
            loss.item()         # as spp, which checks the loss of each step
    else:
        net.eval()

        def step() -> None:
            with torch.inference_mode():
                forward(x)

    def run() -> None:
        step()
        if on_gpu:
            torch.cuda.synchronize()
    return run


def limits(device: str, side: int, copied: int) -> dict[str, float]:
    """FLOP/s of a large matrix product by precision, and `bytes` per second read and written by a copy."""
    used = backend.select(device)
    rates = {}
    with used.use():
        one = used.from_host(np.random.default_rng(0).normal(size=(side, side)).astype(np.float32))
        out = used.xp.empty_like(one)
        for precision in [p for p in PRECISIONS if p in used.precisions]:
            seconds = _best(used, lambda: used.inner_product_forward(one, one, out, False, Epilogue(), precision))
            rates[precision] = 2 * side ** 3 / seconds
        here = used.xp.zeros(copied // 4, np.float32)
        there = used.xp.empty_like(here)
        rates["bytes"] = 2 * copied / _best(used, lambda: used.store(here, there))
    return rates


def _best(used: Any, run: Callable[[], Any]) -> float:
    """The minimum seconds of ten runs, after two warm-up runs."""
    times = []
    for _ in range(12):
        begin = time.perf_counter()
        run()
        if used.asynchronous:
            used.xp.cuda.get_current_stream().synchronize()
        times.append(time.perf_counter() - begin)
    return min(times[2:])


def work_of(net: str, size: int | None = None) -> tuple[float, float]:
    """FLOP of one image's forward, and the bytes of all bottoms, which layers read, and tops, which they write.

    Fused and in-place layers move fewer bytes than that.
    """
    with Net(nets.inference(net, 1, size), TEST, device="cpu") as built:
        operations = sum(cost.flops for cost in flops.costs(built))
        moved = sum(4 * blob.count for bottoms, tops in zip(built.bottoms, built.tops) for blob in (*bottoms, *tops))
    return float(operations), float(moved)


def achieved(seconds: float, count: int, training: bool, work: tuple[float, float], ceilings: dict[str, float],
             precision: str) -> str:
    """A line with FLOP/s and bytes per second beside the GPU's limits; a training step counts as three forwards."""
    times = count * (3 if training else 1) / seconds
    operations, moved = (part * times for part in work)
    return (f"    spp: {operations / 1e12:.1f} TFLOP/s of {ceilings.get(precision, 0) / 1e12:.1f}, at least "
            f"{moved / 1e9:.0f} GB/s of {ceilings['bytes'] / 1e9:.0f} (blobs; parameters not counted)")


def name_of(device: str) -> str:
    """The name of the GPU model, or "cpu". Raises SppError if the device is not available."""
    used = backend.select(device)
    if not used.asynchronous:
        return device
    with used.use():
        runtime = used.xp.cuda.runtime
        return runtime.getDeviceProperties(runtime.getDevice())["name"].decode()


def parser_for(script: str, description: str | None, tasks: Iterable[str],
               contenders: Iterable[str]) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks on a GPU have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, choices in (("--tasks", tasks), ("--precisions", PRECISIONS), ("--contenders", contenders)):
        parser.add_argument(option, nargs="+", choices=list(choices), default=list(choices))
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each task (default: 5)")
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--small", action="store_true", help="small inputs, to test that the benchmark runs")
    parser.add_argument("--output", default=str(Path(script).with_suffix(".json")), metavar="FILE")
    return parser


def main() -> int:
    if "--work" in sys.argv:        # a contender's process
        turns.main(__file__, None, {}, CONTENDERS, make)
        return 0
    parser = parser_for(__file__, __doc__, TASKS, CONTENDERS)
    parser.add_argument("--nets", nargs="+", choices=nets.NETS,
                        default=["zf5_spp", "overfeat7_spp", "alexnet", "vgg16", "squeezenet"])
    args = parser.parse_args()
    try:
        record: dict[str, Any] = {**turns.machine(), "gpu": name_of(args.device), "rounds": args.rounds, "tasks": {}}
    except SppError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    contenders = turns.present({name: CONTENDERS[name] for name in args.contenders})
    side = SMALL if args.small else None
    record["limits"] = ceilings = limits(args.device, *((256, 1 << 20) if args.small else (PRODUCT, COPIED)))
    print(f"{record['gpu']}: " + ", ".join(
        f"{name} {value / (1e9 if name == 'bytes' else 1e12):.1f} {'GB/s' if name == 'bytes' else 'TFLOP/s'}"
        for name, value in ceilings.items()))
    for net in args.nets:
        work = work_of(net, side)
        for precision in args.precisions:
            for task in args.tasks:
                name, what = task_name(net, task, precision, args.device, side), turns.Task(TASKS[task])
                results = record["tasks"][name] = turns.measure(__file__, name, what, contenders, args.rounds, "spp")
                turns.report(name, what, results, "spp")
                if "spp" in results:
                    seconds, training = statistics.median(results["spp"]["seconds"]), task.startswith("training")
                    print(achieved(seconds, TASKS[task], training, work, ceilings, precision), flush=True)
                Path(args.output).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
