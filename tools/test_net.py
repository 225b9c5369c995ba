"""Test a net."""
import argparse
import sys
import time
from typing import Sequence

import numpy as np
from tqdm import tqdm

from spp.layers import TEST
from spp.layers.data import Data
from spp.net import Net
from spp.training.reporting import output_text
from spp_tools.common import Parser, existing, guarded, names, positive

DESCRIPTION = """Run a net with trained weights over its test data and print the mean of every output.

  test_net --model prototxt/zf5_spp_train_val.prototxt --weights zf5_spp_iter_10010.caffemodel
      prints accuracies and loss on the validation images, in one pass over the database"""

UNSIZED = 50      # iterations for a net without a database, as in `caffe test`


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = Parser("test_net", DESCRIPTION)
    parser.add_argument("--model", required=True, metavar="FILE", help="prototxt of net and test data")
    parser.add_argument("--weights", required=True, type=names, metavar="FILE,...", help="its caffemodel(s)")
    parser.add_argument("--iterations", type=positive, metavar="N",
                        help="number of batches (default: one pass over the database; "
                             f"{UNSIZED} if the net does not read one)")
    parser.add_net_options()
    parser.add_precision()
    args = parser.parse_args(argv)
    return guarded(lambda: test(args))


def test(args: argparse.Namespace) -> int:
    """Test as the arguments say; returns the exit code."""
    with Net(existing(args.model), TEST, args.level or 0, args.stage, args.weights, args.device,
             precision=args.precision, reuse_memory=True) as net:
        records, batch = _data(net)
        iterations = args.iterations or (-(-records // batch) if records else UNSIZED)
        print(f"Running for {iterations} iterations.", flush=True)
        sums: dict[str, np.ndarray] = {}
        loss, images = 0.0, 0
        began = time.monotonic()
        for _ in tqdm(range(iterations), unit="batch", disable=not sys.stderr.isatty()):
            for name, values in net.forward().items():
                sums[name] = sums.get(name, 0) + net.context.backend.to_host(values).astype(np.float64)
            loss += net.loss
            images += batch
        seconds = time.monotonic() - began
    print(f"Loss: {loss / iterations:g}")
    for name, values in sums.items():
        for value in np.ravel(values) / iterations:
            print(output_text(name, float(value), net.loss_weights.get(name, 0.0)))
    twice = images - records
    again = f"; {twice} of them twice, to fill the last batch" if 0 < twice < batch else ""
    print(f"{images} images in {seconds:.1f} s, {images / seconds:.1f} images/s{again}")
    return 0


def _data(net: Net) -> tuple[int, int]:
    """The number of records in the net's database, 0 for a net without one, and the batch size."""
    for layer in net.layers:
        if isinstance(layer, Data):
            return len(layer.batches), layer.param.data_param.batch_size
    shape = net.tops[0][0].shape if net.layers and net.tops[0] else ()
    return 0, shape[0] if shape else 1


if __name__ == "__main__":
    sys.exit(main())
