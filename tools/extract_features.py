"""Store blobs that a net computes from its data."""
import argparse
import sys
from contextlib import ExitStack
from typing import Any, Callable, Sequence

import h5py
import numpy as np
from tqdm import tqdm

from spp.atomic import replacing
from spp.data.database import DatabaseWriter
from spp.errors import DataError, NetError
from spp.layers import TEST
from spp.net import Net
from spp.proto.caffe_pb2 import Datum
from spp_tools.common import Parser, existing, guarded, names, positive

USAGE = "extract_features [options] WEIGHTS NET BLOB[,BLOB...] OUT[,OUT...] BATCHES [lmdb|hdf5] [CPU|GPU [INDEX]]"
DESCRIPTION = """Run a net over its data and store some of its blobs, one item per image, as LMDB or HDF5.

  extract_features net.caffemodel net.prototxt fc7 features_lmdb 100
      stores fc7 of 100 batches as Datum records with float_data, keys 0000000000, 0000000001, ...
  extract_features net.caffemodel net.prototxt fc6,fc7 fc6.h5,fc7.h5 100 hdf5
      stores the blobs as float32 datasets with the blobs' names, one file per blob

The net runs in phase TEST and reads the images of its data layer. The arguments after BATCHES are those of
Caffe's program; CPU and GPU are another form of --device."""

Put = Callable[[np.ndarray], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = Parser("extract_features", DESCRIPTION)
    parser.usage = USAGE
    parser.add_argument("weights", metavar="WEIGHTS", help="the caffemodel")
    parser.add_argument("model", metavar="NET", help="prototxt of the net with its data layer")
    parser.add_argument("blobs", type=names, metavar="BLOB,...", help="names of blobs")
    parser.add_argument("outputs", type=names, metavar="OUT,...", help="a new LMDB or HDF5 file for each blob")
    parser.add_argument("batches", type=positive, metavar="BATCHES", help="number of batches")
    parser.add_argument("format", nargs="?", choices=("lmdb", "hdf5"), default="lmdb", help="default: lmdb")
    parser.add_argument("mode", nargs="?", choices=("CPU", "GPU"), help=argparse.SUPPRESS)
    parser.add_argument("index", nargs="?", type=int, help=argparse.SUPPRESS)
    parser.add_net_options()
    parser.add_precision()
    args = parser.parse_intermixed_args(argv)
    if len(args.blobs) != len(args.outputs):
        parser.error(f"each blob needs an output: found {len(args.blobs)} blob(s) and {len(args.outputs)} output(s)")
    if args.mode and args.device != "auto":
        parser.error(f"--device {args.device} and {args.mode} both set the device; drop one")
    if args.mode:
        args.device = "cpu" if args.mode == "CPU" else f"cuda:{args.index or 0}"
    return guarded(lambda: extract(args))


def extract(args: argparse.Namespace) -> int:
    """Run the net and write the features as the arguments say; returns the exit code."""
    with Net(existing(args.model), TEST, args.level or 0, args.stage, args.weights, args.device,
             precision=args.precision, reuse_memory=True, keep=args.blobs) as net, \
            ExitStack() as files:
        blobs = [net.blob(name) for name in args.blobs]
        puts = [_lmdb(path, name, files) if args.format == "lmdb" else _hdf5(path, name, files)
                for path, name in zip(args.outputs, args.blobs)]
        counts = [0] * len(blobs)
        for _ in tqdm(range(args.batches), unit="batch", disable=not sys.stderr.isatty()):
            net.forward()
            for i, (blob, put) in enumerate(zip(blobs, puts)):
                if not blob.shape:
                    raise NetError(f"blob {args.blobs[i]!r} is one number for a whole batch; choose a blob with "
                                   "a value per image")
                counts[i] += blob.shape[0]
                put(np.ascontiguousarray(net.context.backend.to_host(blob.data), np.float32))
    for name, path, count in zip(args.blobs, args.outputs, counts):
        print(f"{count} items of {name} written to {path}")
    return 0


def _lmdb(path: str, blob: str, files: ExitStack) -> Put:
    """A function that writes a batch to a new LMDB, one record per item."""
    writer = files.enter_context(DatabaseWriter(path))
    count = 0

    def put(batch: np.ndarray) -> None:
        nonlocal count
        if batch.ndim > 4:
            raise DataError(f"blob {blob!r} has {batch.ndim} axes, and a Datum has 3 after the batch; write hdf5")
        channels, height, width = (*batch.shape[1:], 1, 1, 1)[:3]
        for item in batch:
            record = Datum(channels=channels, height=height, width=width, float_data=item.ravel().tolist())
            writer.put(b"%010d" % count, record.SerializeToString())
            count += 1

    return put


def _hdf5(path: str, blob: str, files: ExitStack) -> Put:
    """A function that appends a batch to the dataset of a new file."""
    temporary = files.enter_context(replacing(path, DataError))
    file = files.enter_context(h5py.File(temporary, "w"))
    dataset: Any = None

    def put(batch: np.ndarray) -> None:
        nonlocal dataset
        if dataset is None:
            dataset = file.create_dataset(blob, data=batch, maxshape=(None, *batch.shape[1:]))
            return
        if dataset.shape[1:] != batch.shape[1:]:
            raise DataError(f"{path}: blob {blob!r} changed its shape from {dataset.shape[1:]} to {batch.shape[1:]}, "
                            "and a dataset has one shape; give all images one size, or write lmdb")
        dataset.resize(len(dataset) + len(batch), 0)
        dataset[-len(batch):] = batch

    return put


if __name__ == "__main__":
    sys.exit(main())
