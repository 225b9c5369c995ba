"""Print a summary of a net."""
import argparse
import sys
from typing import Sequence

from spp.inspection import flops
from spp.layers import TEST, TRAIN
from spp.net import Net
from spp_tools.common import Parser, existing, guarded

DESCRIPTION = """Print a net as a table: layers, shapes, parameters, operations, memory.

  summarize_net deploy.prototxt
      the layers of the net in phase TEST
  summarize_net prototxt/zf5_spp_train_val.prototxt --phase TRAIN
      the layers of phase TRAIN; the net's data must exist, since the shapes depend on it

MFLOP counts one forward pass, a multiply-add as two operations; MB is the memory of the layer's tops and
parameters, without gradients. A layer with a top marked * works in-place."""

HEAD = ("layer", "type", "bottoms", "tops", "shape", "parameters", "MFLOP", "MB")
LEFT = 5        # columns of text, left-aligned; the others are right-aligned


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = Parser("summarize_net", DESCRIPTION)
    parser.add_argument("model", metavar="NET", help="the net's prototxt")
    parser.add_argument("--phase", choices=("TRAIN", "TEST"), default="TEST", help="default: %(default)s")
    parser.add_net_options()
    args = parser.parse_args(argv)
    return guarded(lambda: summarize(args))


def summarize(args: argparse.Namespace) -> int:
    """Print the table as the arguments say; returns the exit code."""
    phase = TRAIN if args.phase == "TRAIN" else TEST
    with Net(existing(args.model), phase, args.level or 0, args.stage, device=args.device) as net:
        costs = flops.costs(net)
        rows = [HEAD]
        whole: dict[str, str] = {}      # blob that Net itself splits, by the names of its copies
        for cost, layer in zip(costs, net.layers):
            bottoms = [whole.get(name, name) for name in layer.param.bottom]
            if layer.type == "Split" and layer.name.endswith("_split"):
                whole.update({name: bottoms[0] for name in layer.param.top})
                continue
            tops = [f"{name}*" if name in bottoms else name for name in layer.param.top]
            shapes = ", ".join("x".join(map(str, shape)) or "scalar" for shape in cost.shapes)
            rows.append((cost.name, cost.type, ", ".join(bottoms), ", ".join(tops), shapes,
                         f"{cost.parameters:,}" if cost.parameters else "",
                         f"{cost.flops / 1e6:,.3f}" if cost.flops else "", f"{cost.memory / 1e6:,.3f}"))
        inputs, outputs = ", ".join(net.inputs) or "none", ", ".join(net.outputs) or "none"
    rows.append((f"{len(rows) - 1} layers", "", "", "", "", f"{sum(c.parameters for c in costs):,}",
                 f"{sum(c.flops for c in costs) / 1e6:,.3f}", f"{sum(c.memory for c in costs) / 1e6:,.3f}"))
    print(f"{net.name or args.model}, phase {args.phase}; inputs: {inputs}; outputs: {outputs}")
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    for number, row in enumerate(rows):
        if number in (1, len(rows) - 1):
            print(rule)
        cells = [cell.ljust(width) if i < LEFT else cell.rjust(width)
                 for i, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
