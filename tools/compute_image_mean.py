"""Compute the mean image of an LMDB, for the mean_file or mean_value of a transform_param."""
import argparse
import functools
import sys

import numpy as np
from tqdm import tqdm

from spp.data import batches, images
from spp.data.datum import DatumImages
from spp.errors import DataError, SppError
from spp.proto import arrays, binary

HELP = """\
Compute the mean image of an LMDB, and the mean of each channel.

The mean image goes into transform_param as mean_file, or the printed values as mean_value.
All images must have one size: where they have not, give --resize-short and --crop-size."""
EXAMPLES = """\
examples:
  compute_image_mean train_lmdb mean.binaryproto
  compute_image_mean train_lmdb mean.binaryproto --resize-short 256 --crop-size 224
      the mean of the central 224 x 224 of images of any size: what a net trained with
      resize_short: 256 crop_size: 224 mean_mode: WARP wants"""


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit code: 0, 1 for an error, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser("compute_image_mean", description=HELP, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", metavar="DB", help="folder of the LMDB")
    parser.add_argument("output", metavar="OUTPUT", nargs="?", help="file for the mean image, a .binaryproto")
    parser.add_argument("--resize-short", type=int, default=0, metavar="N",
                        help="resize the images so that the shorter side is N, aspect kept")
    parser.add_argument("--crop-size", type=int, default=0, metavar="N", help="then take the central N x N pixels")
    args = parser.parse_intermixed_args(argv)
    if args.resize_short < 0 or args.crop_size < 0:
        parser.error("--resize-short and --crop-size are numbers of pixels, at least 1")
    try:
        count, mean = compute(args.database, args.resize_short, args.crop_size)
        if args.output:
            binary.write_binary(arrays.to_proto(mean.transpose(2, 0, 1).astype(np.float32), legacy=True), args.output)
    except SppError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: no mean was written", file=sys.stderr)
        return 130
    place = f", written to {args.output}" if args.output else ""
    print(f"mean of {count} images of {mean.shape[0]} x {mean.shape[1]} pixels (height x width){place}")
    for channel, value in enumerate(mean.mean((0, 1))):
        print(f"mean_value channel [{channel}]: {value:.6g}")
    return 0


def compute(path: str, short: int, crop: int) -> tuple[int, np.ndarray]:
    """The number of images and their mean, H x W x C, summed in float64. Raises DataError if they differ in size."""
    source = DatumImages(path)
    threads = batches.workers()
    read = functools.partial(read_one, source, short, crop)
    total: np.ndarray | None = None
    futures = batches.ahead(read, range(len(source)), 4 * threads, threads)
    for index, future in enumerate(tqdm(futures, total=len(source), unit=" images", disable=not sys.stderr.isatty())):
        image = future.result()
        if total is None:
            total = np.zeros(image.shape)
        if image.shape != total.shape:
            raise DataError(f"{source.name(index)} has {_text(image.shape)} (height x width x channels), those before "
                            f"it {_text(total.shape)}, and a mean needs one size; give --resize-short and --crop-size")
        total += image
    source.close()
    assert total is not None        # a Database is never empty
    return len(source), total / len(source)


def read_one(source: DatumImages, short: int, crop: int, index: int) -> np.ndarray:
    """One image, resized and cropped; raises DataError that names its record."""
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
        raise DataError(f"{source.name(index)} has {height} x {width} pixels (height x width), less than --crop-size "
                        f"{crop}; add --resize-short {crop} or more")
    top, left = (height - crop) // 2, (width - crop) // 2
    return image[top:top + crop, left:left + crop]


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


if __name__ == "__main__":
    sys.exit(main())
