"""Classify photos."""
import argparse
import os
import sys
from typing import Any, Sequence

import numpy as np

from spp.data import images
from spp.errors import DataError, NetError
from spp.layers import TEST
from spp.net import Net
from spp.proto import arrays
from spp.proto.binary import read_blob_proto
from spp_tools.common import Parser, existing, guarded, names, positive

DESCRIPTION = """Classify photos and print the most probable classes of each.

  classify --model deploy.prototxt --weights net.caffemodel --labels synset.txt cat.jpg dog.png
      scales each photo to a shorter side of 256 pixels and classifies its central crop
  classify --model deploy.prototxt --weights net.caffemodel --oversample photos/*.jpg
      averages over ten crops: the four corners, the centre, and their mirror images

The net's prototxt has an input (1 x 3 x height x width) for blue, green and red minus the mean."""

TOP = 5         # classes to print
SHORT = 256     # pixels of the shorter side in the training of nets with inputs of 224 to 227 pixels


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = Parser("classify", DESCRIPTION)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="photos")
    parser.add_argument("--model", required=True, metavar="FILE", help="deploy prototxt of the net")
    parser.add_argument("--weights", required=True, type=names, metavar="FILE,...", help="its caffemodel(s)")
    parser.add_argument("--labels", metavar="FILE",
                        help="names of the classes, one per line, such as synset.txt (default: numbers)")
    parser.add_argument("--mean", default="104,117,123", metavar="B,G,R|FILE",
                        help="mean to subtract: values, or a .binaryproto whose channel means are used "
                             "(default: %(default)s, ImageNet's)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="F",
                        help="factor after subtracting the mean (default: 1; some nets need 0.017)")
    parser.add_argument("--resize", type=positive, metavar="N",
                        help=f"pixels of the shorter side (default: {SHORT}, or the net's input size if larger)")
    parser.add_argument("--oversample", action="store_true", help="average over ten crops: slower, but more accurate")
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, cuda or cuda:INDEX")
    parser.add_threads_option()
    args = parser.parse_args(argv)
    return guarded(lambda: classify(args))


def classify(args: argparse.Namespace) -> int:
    """Classify as the arguments say and print; returns the exit code."""
    labels = _labels(args.labels) if args.labels else []
    mean = _mean(args.mean)
    with Net(existing(args.model), TEST, weights=args.weights, device=args.device, reuse_memory=True) as net:
        if len(net.inputs) != 1 or len(net.outputs) != 1:
            raise NetError(f"{args.model}: classifying needs a net with one input and one output; this one has inputs "
                           f"{', '.join(net.inputs) or 'none'} and outputs {', '.join(net.outputs) or 'none'}; give "
                           "its deploy prototxt")
        shape = net.blobs[net.inputs[0]].shape
        if len(shape) != 4 or shape[1] not in (1, 3):
            raise NetError(f"{args.model}: input {net.inputs[0]!r} has shape {shape}; photos need N x 3 x height x "
                           "width, or N x 1 x height x width for gray")
        if len(mean) not in (1, shape[1]):
            raise DataError(f"--mean has {len(mean)} values, the net's input {shape[1]} channels; give one for each")
        for number, path in enumerate(args.images):
            crops = _crops(_read(path, shape[1] == 3), shape[2:], args.resize or max(SHORT, *shape[2:]),
                           args.oversample)
            batch = (crops.transpose(0, 3, 1, 2) - mean.reshape(-1, 1, 1)) * np.float32(args.scale)
            output = net.context.backend.to_host(net.forward(**{net.inputs[0]: batch})[net.outputs[0]])
            scores = output.reshape(len(batch), -1).mean(0)
            if labels and len(labels) != len(scores):
                raise DataError(f"{args.labels}: {len(labels)} names for the {len(scores)} classes of the net; "
                                "give the file that belongs to it")
            if number:
                print()
            _show(path, scores, labels)
    return 0


def _show(path: str, scores: np.ndarray, labels: list[str]) -> None:
    unit = "" if abs(scores.sum() - 1) < 1e-3 else " (scores, no probabilities: the net has no Softmax at its end)"
    print(f"{path}{unit}")
    for index in np.argsort(-scores, kind="stable")[:TOP]:
        print(f"  {scores[index]:.4f}  {labels[index] if labels else f'class {index}'}")


def _labels(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text of class names: {error}") from error
    return [line[1:-1] if line[:1] == line[-1:] == "'" else line for line in lines if line]


def _mean(argument: str) -> np.ndarray:
    """One value per channel, float32."""
    if os.path.exists(argument):
        image = arrays.from_proto(read_blob_proto(argument), argument)
        return image.reshape(image.shape[-3:]).mean((1, 2))
    try:
        return np.array([float(part) for part in names(argument)], np.float32)
    except ValueError:
        raise DataError(f"--mean {argument}: neither a file nor comma-separated numbers, such as 104,117,123"
                        ) from None


def _read(path: str, color: bool) -> np.ndarray:
    """A photo as H x W x C, uint8."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        return images.decode(data, color)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check the path") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _crops(image: np.ndarray, size: Any, short: int, oversample: bool) -> np.ndarray:
    """Crops of the net's input size, N x H x W x C float32: the central one, or ten."""
    height, width = size
    down, right = images.short_size(image.shape[0], image.shape[1], short)
    if down < height or right < width:
        raise DataError(f"--resize {short} makes the photo {down} x {right} pixels (height x width), and the net "
                        f"takes {height} x {width}; give a larger --resize")
    image = images.resize(image, down, right)
    down, right = down - height, right - width
    corners = [(down // 2, right // 2)]
    if oversample:
        corners += [(0, 0), (0, right), (down, 0), (down, right)]
    crops = [image[top:top + height, left:left + width] for top, left in corners]
    if oversample:
        crops += [images.flip(crop) for crop in crops]
    return np.stack(crops).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
