"""Time a net, layer by layer."""
import argparse
import sys
import time
from typing import Any, Callable, Sequence

import numpy as np

from spp.inspection import flops
from spp.layers import TEST, TRAIN
from spp.net import Net
from spp.proto import text
from spp_tools.common import Parser, existing, guarded, names, positive

DESCRIPTION = """Time the forward and backward pass of a net, layer by layer, in the lines of `caffe time`.

  time_net --model prototxt/zf5_spp_train_val.prototxt --iterations 10
      times training, data layers included
  time_net --model deploy.prototxt --phase TEST --batch 32
      times only the forward pass on 32 images at once: a deploy net has no loss, and so no backward pass

GFLOP counts the operations of one forward pass (a multiply-add is two operations), GFLOP/s is their rate; MB is
the memory of a layer's tops and parameters, with their gradients."""

BATCHED = ("data_param", "image_data_param", "hdf5_data_param", "memory_data_param", "window_data_param")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = Parser("time_net", DESCRIPTION)
    parser.add_argument("--model", required=True, metavar="FILE", help="the net's prototxt")
    parser.add_argument("--weights", type=names, default=[], metavar="FILE,...",
                        help="caffemodels (default: the fillers' values)")
    parser.add_argument("--iterations", type=positive, default=50, metavar="N",
                        help="number of passes to average (default: %(default)s)")
    parser.add_argument("--phase", choices=("TRAIN", "TEST"), default="TRAIN", help="default: %(default)s")
    parser.add_argument("--batch", type=positive, metavar="N", help="batch size (default: the prototxt's)")
    parser.add_net_options()
    parser.add_precision()
    args = parser.parse_args(argv)
    return guarded(lambda: measure(args))


def measure(args: argparse.Namespace) -> int:
    """Time the net as the arguments say and print the table; returns the exit code."""
    model: Any = existing(args.model)
    if args.batch:
        model = text.read_net(model)
        set_batch(model, args.batch)
    phase = TRAIN if args.phase == "TRAIN" else TEST
    with Net(model, phase, args.level or 0, args.stage, args.weights, args.device,
             precision=args.precision) as net, np.errstate(all="ignore"):
        trains = any(net.loss_weights.values())
        print("Performing Forward")
        net.forward()
        print(f"Initial loss: {net.loss:g}")
        if trains:
            print("Performing Backward")
            net.backward()
        else:
            print("The net has no loss, so there is no backward pass to time.")
        print(f"*** Benchmark begins ***\nTesting for {args.iterations} iterations.", flush=True)
        forward, backward = np.zeros(len(net.layers)), np.zeros(len(net.layers))
        finish = net.context.backend.synchronize
        _add_timers(net.before_forward, net.after_forward, forward, finish)
        _add_timers(net.before_backward, net.after_backward, backward, finish)
        began = time.perf_counter()
        passes = [0.0, 0.0]
        for iteration in range(1, args.iterations + 1):
            start = time.perf_counter()
            net.forward()
            finish()
            middle = time.perf_counter()
            if trains:
                net.clear_param_diffs()
                net.backward()
                finish()
            end = time.perf_counter()
            passes[0] += middle - start
            passes[1] += end - middle
            print(f"Iteration: {iteration} forward-backward time: {1000 * (end - start):g} ms.", flush=True)
        total = time.perf_counter() - began
        _print_table(flops.costs(net), 1000 * forward / args.iterations, 1000 * backward / args.iterations, trains)
    each = [1000 * seconds / args.iterations for seconds in passes]
    print(f"Average Forward pass: {each[0]:g} ms.\nAverage Backward pass: {each[1]:g} ms.\n"
          f"Average Forward-Backward: {sum(each):g} ms.\nTotal Time: {1000 * total:g} ms.\n*** Benchmark ends ***")
    return 0


def set_batch(net: Any, batch: int) -> None:
    """Set the batch size of every data and input layer of a NetParameter."""
    for layer in net.layer:
        for shape in [*layer.input_param.shape, *layer.dummy_data_param.shape]:
            if shape.dim:
                shape.dim[0] = batch
        for i in range(len(layer.dummy_data_param.num)):
            layer.dummy_data_param.num[i] = batch
        for name in BATCHED:
            if layer.HasField(name):
                getattr(layer, name).batch_size = batch


def _add_timers(before: list[Callable[[int], Any]], after: list[Callable[[int], Any]], seconds: np.ndarray,
                finish: Callable[[], None]) -> None:
    """Add hooks that sum the time of each layer in `seconds`; `finish` waits for the device."""
    start = 0.0

    def begin(index: int) -> None:
        nonlocal start
        finish()
        start = time.perf_counter()

    def end(index: int) -> None:
        finish()
        seconds[index] += time.perf_counter() - start

    before.append(begin)
    after.append(end)


def _print_table(costs: list[flops.Cost], forward: np.ndarray, backward: np.ndarray, trains: bool) -> None:
    """Print one or two lines per layer, which begin as those of `caffe time`, and one for all layers."""
    print("Average time per layer: ")
    width = max([10, *(len(cost.name) for cost in costs)])
    for cost, ahead, back in zip(costs, forward, backward):
        _print_line(cost.name.rjust(width), ahead, cost.flops, cost.memory)
        if trains:
            print(f"{cost.name.rjust(width)}\tbackward: {back:.4g} ms.")
    print(f"All layers (with {sum(cost.parameters for cost in costs):,} parameters):")
    _print_line(" " * width, forward.sum(), sum(c.flops for c in costs), sum(c.memory for c in costs))


def _print_line(name: str, milliseconds: float, operations: int, memory: int) -> None:
    rate = operations / milliseconds / 1e6 if milliseconds and operations else 0.0
    print(f"{name}\tforward: {milliseconds:.4g} ms.\t{operations / 1e9:9.4f} GFLOP\t{rate:8.2f} GFLOP/s\t"
          f"{memory / 1e6:9.3f} MB")


if __name__ == "__main__":
    sys.exit(main())
