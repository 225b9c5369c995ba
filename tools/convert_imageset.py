"""Turn a folder of images into the LMDB that a Data layer reads."""
import argparse
import functools
import glob
import os
import sys
import time
from typing import Sequence

import numpy as np
from tqdm import tqdm

from spp.atomic import replacing
from spp.data import datum, images, listing
from spp.data.ahead import ahead, workers
from spp.data.database import DatabaseWriter
from spp.errors import DataError, format_shape
from spp_tools.common import Parser, guarded, positive

USAGE = "convert_imageset [options] ROOT_FOLDER [LISTFILE] DB_NAME"
DESCRIPTION = """Turn a folder of images into the LMDB that a Data layer reads.

The lines of LISTFILE are `path label`, with paths relative to ROOT_FOLDER. Without LISTFILE, ROOT_FOLDER has a
folder for each class; the sorted names of the folders are classes 0, 1, ..., and are stored in DB_NAME/labels.txt.

  convert_imageset --shuffle --encoded photos/train train_lmdb
      reads photos/train/cat/*.jpg, photos/train/dog/*.jpg and stores the files unchanged: a small database
      of images of any size; let the net resize them, with transform_param { resize_short: 256 crop_size: 224 }
  convert_imageset --shuffle --resize-short 256 photos/train train_lmdb
      stores pixels, with a shorter side of 256: large, but the fastest to read
  convert_imageset --resize-height 256 --resize-width 256 photos/ val.txt val_lmdb
      stores what Caffe's examples store; Caffe's spellings such as --resize_height work too

The database appears under its name only when it is complete."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    args = parse(argv)
    return guarded(lambda: convert(args))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; ends the program with one line if it is wrong."""
    parser = Parser("convert_imageset", DESCRIPTION)
    parser.usage = USAGE
    parser.add_argument("names", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--gray", action="store_true", help="one channel instead of blue, green, red")
    parser.add_argument("--shuffle", action="store_true", help="in random order, as training needs")
    parser.add_argument("--seed", type=int, default=0, metavar="N",
                        help="random seed of --shuffle (default: 0)")
    parser.add_argument("--resize-height", "--resize_height", type=positive, metavar="H",
                        help="resize to this height in pixels, regardless of the aspect ratio")
    parser.add_argument("--resize-width", "--resize_width", type=positive, metavar="W",
                        help="resize to this width in pixels")
    parser.add_argument("--resize-short", "--resize_short", type=positive, metavar="N",
                        help="resize to a shorter side of N pixels, keeping the aspect ratio")
    parser.add_argument("--encoded", action="store_true",
                        help="store files, not pixels; JPEG and PNG files that need no change are copied")
    parser.add_argument("--encode-type", "--encode_type", choices=("jpg", "png"),
                        help="format of --encoded (default: the file's own, else png)")
    parser.add_argument("--check-size", "--check_size", action="store_true",
                        help="stop unless all images have the size of the first")
    parser.add_argument("--on-error", "--on_error", choices=("skip", "stop"), default="skip",
                        help="if a file is not an image: report and skip it (default), or stop")
    args = parser.parse_intermixed_args(argv)
    if not 2 <= len(args.names) <= 3:
        parser.error(f"expected ROOT_FOLDER [LISTFILE] DB_NAME, found {len(args.names)} name(s)")
    if (args.resize_height is None) != (args.resize_width is None):
        parser.error("--resize-height and --resize-width go together; for one side there is --resize-short")
    if args.resize_short and args.resize_height:
        parser.error("--resize-short does not go with --resize-height and --resize-width; drop one")
    if args.encode_type and not args.encoded:
        parser.error("--encode-type needs --encoded")
    return args


def convert(args: argparse.Namespace) -> int:
    """Build the database and print a summary."""
    root, database = args.names[0], args.names[-1]
    classes: list[str] = []
    if not os.path.isdir(root):
        raise DataError(f"root folder '{root}' not found (looked from {os.getcwd()}); check the path")
    if len(args.names) == 3:
        entries = listing.read_list(args.names[1])
    else:
        entries, classes = listing.list_folders(root)
        if not args.shuffle:
            print("note: the records are in the order of their classes; training needs --shuffle",
                  file=sys.stderr)
    if args.shuffle:
        entries = [entries[i] for i in np.random.default_rng(args.seed).permutation(len(entries))]
    for folder in glob.glob(f"{glob.escape(os.path.normpath(database))}.*.tmp"):
        print(f"note: '{folder}' is left from a run that was killed; remove it unless a run is writing it now",
              file=sys.stderr)
    start = time.monotonic()
    with DatabaseWriter(database) as writer:
        skipped = fill(writer, entries, args)
        if classes:
            with replacing(os.path.join(writer.folder, "labels.txt")) as temporary, \
                    open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.writelines(f"{name}\n" for name in classes)
    written, seconds = len(entries) - skipped, time.monotonic() - start
    size = os.path.getsize(os.path.join(database, "data.mdb"))
    print(f"{written} images written to {database}, {skipped} skipped; {size / 1e6:.1f} MB in {seconds:.1f} "
          f"s, {written / seconds:.0f} img/s")
    return 0


def fill(writer: DatabaseWriter, entries: list[listing.Entry], args: argparse.Namespace) -> int:
    """Put the images into the database; returns how many were skipped."""
    threads = workers()
    futures = ahead(functools.partial(make_record, args), entries, 4 * threads, threads)
    first: tuple[int, ...] | None = None
    skipped = 0
    hidden = not sys.stderr.isatty()
    for number, future in enumerate(tqdm(futures, total=len(entries), unit="img", disable=hidden)):
        path = entries[number][0]
        try:
            record, shape = future.result()
        except DataError as error:
            if args.on_error == "stop":
                raise
            skipped += 1
            tqdm.write(f"skipped: {error}", file=sys.stderr)
            continue
        first = first or shape
        if args.check_size and shape != first:
            raise DataError(f"{path}: the image has {format_shape(shape)} (height x width x channels), the first "
                            f"one {format_shape(first)}, and --check-size was given; add --resize-height and "
                            "--resize-width")
        writer.put(b"%08d_%s" % (number, os.fsencode(path)), record)
    if skipped == len(entries):
        raise DataError(f"none of the {skipped} files could be read as an image; check ROOT_FOLDER and "
                        "LISTFILE")
    return skipped


def make_record(args: argparse.Namespace, entry: listing.Entry) -> tuple[bytes, tuple[int, ...]]:
    """The Datum of one image file, and the image's shape H x W x C; raises a DataError that names the file."""
    path, label = os.path.join(args.names[0], "") + entry[0], entry[1]
    try:
        with open(path, "rb") as file:
            data = file.read()
        image = original = images.decode(data, not args.gray)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if args.resize_height:
        image = images.resize(image, args.resize_height, args.resize_width)
    elif args.resize_short:
        image = images.resize_short(image, args.resize_short)
    if not args.encoded:
        return datum.raw(image, label), image.shape
    kind = "jpg" if data.startswith(images.JPEG) else "png" if data.startswith(images.PNG) else None
    encoding = args.encode_type or kind or "png"
    # with --gray, a file with colour would be read in colour
    if kind != encoding or image is not original or (args.gray and images.decode(data).shape[2] != 1):
        data = images.encode(image, encoding)
    return datum.encoded(data, label), image.shape


if __name__ == "__main__":
    sys.exit(main())
