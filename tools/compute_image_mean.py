"""Compute the mean image of an LMDB, for the mean_file or mean_value of a transform_param."""
import argparse
import functools
import sys
from typing import Sequence

import numpy as np
from tqdm import tqdm

from spp.data import images
from spp.data.ahead import ahead, workers
from spp.data.datum import DatumImages
from spp.errors import DataError, format_shape
from spp.proto import arrays, binary
from spp_tools.common import Parser, guarded, positive

DESCRIPTION = """Compute the mean image of an LMDB, and the mean of each channel.

The mean image is for transform_param's mean_file; the printed values are for its mean_value.

  compute_image_mean train_lmdb mean.binaryproto
      all images must have one size
  compute_image_mean train_lmdb mean.binaryproto --resize-short 256 --crop-size 224
      the central 224 x 224 of images of any size: for a net whose transform_param has
      resize_short: 256 crop_size: 224 mean_mode: WARP"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = Parser("compute_image_mean", DESCRIPTION)
    parser.add_argument("database", metavar="DB", help="folder of the LMDB")
    parser.add_argument("output", metavar="OUTPUT", nargs="?", help="file for the mean image, a .binaryproto")
    parser.add_argument("--resize-short", type=positive, metavar="N",
                        help="resize the images to a shorter side of N pixels, keeping the aspect ratio")
    parser.add_argument("--crop-size", type=positive, metavar="N", help="then crop the central N x N pixels")
    args = parser.parse_intermixed_args(argv)
    return guarded(lambda: report(args))


def report(args: argparse.Namespace) -> int:
    """Compute the mean, write it if the arguments name a file, print the channels' means."""
    count, mean = mean_image(args.database, args.resize_short, args.crop_size)
    destination = ""
    if args.output:
        planes = mean.transpose(2, 0, 1).astype(np.float32)
        binary.write_binary(arrays.to_proto(planes, legacy=True), args.output)
        destination = f", written to {args.output}"
    print(f"mean of {count} images of {mean.shape[0]} x {mean.shape[1]} pixels (height x width){destination}")
    for channel, value in enumerate(mean.mean((0, 1))):
        print(f"mean_value channel [{channel}]: {value:.6g}")
    return 0


def mean_image(path: str, short: int | None, crop: int | None) -> tuple[int, np.ndarray]:
    """The number of images and their mean, H x W x C, float64. Raises DataError if they differ in size."""
    source = DatumImages(path)
    threads = workers()
    futures = ahead(functools.partial(read, source, short, crop), range(len(source)), 4 * threads, threads)
    total: np.ndarray | None = None
    hidden = not sys.stderr.isatty()
    for index, future in enumerate(tqdm(futures, total=len(source), unit="img", disable=hidden)):
        image = future.result()
        if total is None:
            total = np.zeros(image.shape)
        if image.shape != total.shape:
            raise DataError(f"{source.name(index)} has {format_shape(image.shape)} (height x width x channels), "
                            f"those before it {format_shape(total.shape)}, and a mean needs one size; give "
                            "--resize-short and --crop-size")
        total += image
    assert total is not None        # a Database is never empty
    return len(source), total / len(source)


def read(source: DatumImages, short: int | None, crop: int | None, index: int) -> np.ndarray:
    """One image, resized and cropped; raises a DataError that names its record."""
    try:
        image, _ = source.read(index)
    except DataError as error:
        raise DataError(f"{source.name(index)}: {error}") from error
    if short:
        image = images.resize_short(image, short)
    if not crop:
        return image
    height, width = image.shape[:2]
    if min(height, width) < crop:
        raise DataError(f"{source.name(index)} has {height} x {width} pixels (height x width), less than "
                        f"--crop-size {crop}; give --resize-short {crop} or more")
    top, left = (height - crop) // 2, (width - crop) // 2
    return image[top:top + crop, left:left + crop]


if __name__ == "__main__":
    sys.exit(main())
