"""Turn a folder of images into the LMDB that a Data layer reads."""
import argparse
import functools
import glob
import os
import sys
import time
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from spp.data import batches, datum, images, listing
from spp.data.database import DatabaseWriter
from spp.errors import DataError, SppError

USAGE = "convert_imageset [options] ROOT_FOLDER [LISTFILE] DB_NAME"
HELP = """\
Turn a folder of images into the LMDB that a Data layer reads.

With LISTFILE, its lines are `path label`, and the paths begin at ROOT_FOLDER.
Without it, ROOT_FOLDER has a folder for each class; the folders' names, sorted, are
classes 0, 1, ..., and are written to DB_NAME/labels.txt.
The database appears under its name only when it is complete."""
EXAMPLES = """\
examples:
  convert_imageset --shuffle --encoded photos/train train_lmdb
      photos/train/cat/*.jpg, photos/train/dog/*.jpg: JPEGs as they are; small, and any size.
      Let the net's transform_param resize them: resize_short: 256 crop_size: 224
  convert_imageset --shuffle --resize-short 256 photos/train train_lmdb
      pixels, the shorter side 256: large, and fast to read
  convert_imageset --resize-height 256 --resize-width 256 photos/ val.txt val_lmdb
      as Caffe's examples do it"""


@dataclass(frozen=True)
class Record:
    """What one image became."""

    value: bytes
    shape: tuple[int, ...]


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit code: 0, 1 for an error, 130 after Ctrl-C."""
    args = parse(argv)
    try:
        convert(args)
    except SppError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: no database was written", file=sys.stderr)
        return 130
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; ends the program with code 2 and the usage if it is wrong."""
    parser = argparse.ArgumentParser("convert_imageset", USAGE, HELP, EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help=argparse.SUPPRESS)
    option = functools.partial(_option, parser)
    option("--gray", action="store_true", help="one channel instead of blue, green, red")
    option("--shuffle", action="store_true", help="in random order, which training wants")
    option("--seed", type=int, default=0, metavar="N", help="another order for --shuffle (default 0)")
    option("--resize-height", type=_pixels, metavar="H", help="with --resize-width: resize to this, aspect not kept")
    option("--resize-width", type=_pixels, metavar="W", help="see --resize-height")
    option("--resize-short", type=_pixels, metavar="N", help="resize so that the shorter side is N, aspect kept")
    option("--encoded", action="store_true",
           help="store image files, not pixels; JPEG and PNG files that need no change are kept as they are")
    option("--encode-type", choices=("jpg", "png"), help="the format of --encoded (default: the file's own)")
    option("--check-size", action="store_true", help="stop unless all images have the size of the first")
    option("--on-error", choices=("skip", "stop"), default="skip",
           help="a file that is no image: report and leave it out (default), or stop")
    args = parser.parse_intermixed_args(argv)
    if not 2 <= len(args.names) <= 3:
        parser.error(f"expected ROOT_FOLDER [LISTFILE] DB_NAME, found {len(args.names)} name(s)")
    if (args.resize_height is None) != (args.resize_width is None):
        parser.error("--resize-height and --resize-width go together; for one side use --resize-short")
    if args.resize_short and args.resize_height:
        parser.error("--resize-short does not go with --resize-height and --resize-width")
    if args.encode_type and not args.encoded:
        parser.error("--encode-type needs --encoded")
    return args


def _option(parser: argparse.ArgumentParser, name: str, **kwargs: object) -> None:
    """Add an option under its name and, where that has several words, Caffe's spelling with underscores."""
    caffe = "--" + name[2:].replace("-", "_")
    parser.add_argument(*dict.fromkeys((name, caffe)), **kwargs)   # type: ignore[arg-type]


def _pixels(text: str) -> int:
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of pixels, at least 1, found {text!r}")
    return number


def convert(args: argparse.Namespace) -> None:
    """Build the database and say what was done."""
    root, database = args.names[0], args.names[-1]
    if not os.path.isdir(root):
        raise DataError(f"root folder '{root}' not found (looked from {os.getcwd()}); give the folder of the images")
    if len(args.names) == 3:
        entries, classes = listing.read_list(args.names[1]), []
    else:
        entries, classes = listing.list_folders(root)
        if not args.shuffle:
            print("note: the records are in the order of their classes; add --shuffle for training", file=sys.stderr)
    if args.shuffle:
        entries = [entries[i] for i in np.random.default_rng(args.seed).permutation(len(entries))]
    for folder in glob.glob(f"{glob.escape(os.path.normpath(database))}.*.tmp"):
        print(f"note: '{folder}' is left from a run that was killed; remove it, if no other run is writing it now",
              file=sys.stderr)
    start = time.monotonic()
    with DatabaseWriter(database) as writer:
        skipped = fill(writer, entries, args)
        if classes:
            with open(os.path.join(writer.folder, "labels.txt"), "w", encoding="utf-8") as file:
                file.writelines(f"{name}\n" for name in classes)
    written = len(entries) - skipped
    seconds = time.monotonic() - start
    size = os.path.getsize(os.path.join(database, "data.mdb"))
    print(f"{written} images written to {database}, {skipped} skipped; {size / 1e6:.1f} MB in {seconds:.1f} s, "
          f"{written / seconds:.0f} img/s")


def fill(writer: DatabaseWriter, entries: list[listing.Entry], args: argparse.Namespace) -> int:
    """Put all images into the database; returns how many were skipped."""
    threads = batches.workers()
    records = batches.ahead(functools.partial(convert_one, args), entries, 4 * threads, threads)
    first: tuple[int, ...] | None = None
    skipped = 0
    quiet = not sys.stderr.isatty()
    for number, future in enumerate(tqdm(records, total=len(entries), unit=" images", disable=quiet)):
        path = entries[number][0]
        try:
            record = future.result()
        except DataError as error:
            if args.on_error == "stop":
                raise
            skipped += 1
            tqdm.write(f"skipped {error}", file=sys.stderr)
            continue
        first = first or record.shape
        if args.check_size and record.shape != first:
            raise DataError(f"{path}: the image has {_text(record.shape)} (height x width x channels), the first one "
                            f"{_text(first)}, and --check-size was given; resize them with --resize-height and "
                            "--resize-width")
        writer.put(b"%08d_%s" % (number, os.fsencode(path)), record.value)
    if skipped == len(entries):
        raise DataError(f"none of the {skipped} files could be read as an image; check ROOT_FOLDER and the list")
    return skipped


def convert_one(args: argparse.Namespace, entry: listing.Entry) -> Record:
    """Read one image and make its Datum; raises DataError that names the file."""
    name, label = entry
    path = os.path.join(args.names[0], "") + name
    try:
        with open(path, "rb") as file:
            data = file.read()
        image = images.decode(data, not args.gray)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    original = image
    if args.resize_height:
        image = images.resize(image, args.resize_height, args.resize_width)
    elif args.resize_short:
        image = images.resize_short(image, args.resize_short)
    if not args.encoded:
        return Record(datum.raw(image, label), image.shape)
    kind = "jpg" if data.startswith(images.JPEG) else "png" if data.startswith(images.PNG) else None
    wanted = args.encode_type or kind or "png"
    # a colour file must not get into a gray database, which is read with the channels that its files have
    if kind != wanted or image is not original or args.gray and images.decode(data).shape[2] != 1:
        data = images.encode(image, wanted)
    return Record(datum.encoded(data, label), image.shape)


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


if __name__ == "__main__":
    sys.exit(main())
