"""Draw a net."""
import argparse
import os
import sys
from typing import Sequence

from spp import graph
from spp.atomic import replacing
from spp.errors import SppError
from spp.inspection import drawing
from spp.layers import TEST, TRAIN
from spp.proto import text
from spp_tools.common import Parser, existing, guarded

DESCRIPTION = """Draw a net's layers and blobs: a picture, or text that graphviz draws.

  draw_net prototxt/zf5_spp_train_val.prototxt net.dot
      writes text for graphviz, which need not be installed; needs no data
  draw_net deploy.prototxt net.png --rankdir TB
      draws a picture from top to bottom (also .svg or .pdf); needs the program dot of graphviz
summarize_net prints a net as a table instead."""

PICTURES = (".png", ".svg", ".pdf")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = Parser("draw_net", DESCRIPTION)
    parser.add_argument("model", metavar="NET", help="the net's prototxt")
    parser.add_argument("output", metavar="OUT", help=f"what to write: .dot, .gv, {', '.join(PICTURES)}")
    parser.add_argument("--rankdir", choices=drawing.DIRECTIONS, default="LR",
                        help="direction of the edges: LR left to right (default), TB top to bottom, ...")
    parser.add_argument("--phase", choices=("TRAIN", "TEST", "ALL"), default="ALL",
                        help="draw only the layers of one phase (default: ALL, draw all layers)")
    args = parser.parse_args(argv)
    return guarded(lambda: draw(args))


def draw(args: argparse.Namespace) -> int:
    """Draw as the arguments say; returns the exit code."""
    net = text.read_net(existing(args.model))
    if args.phase != "ALL":
        net = graph.filter_net(net, TRAIN if args.phase == "TRAIN" else TEST)
    words = drawing.to_dot(net, args.rankdir)
    kind = os.path.splitext(args.output)[1].lower()
    if kind in PICTURES:
        try:
            picture = drawing.render(words, kind[1:])
        except SppError as error:
            raise SppError(f"{args.output}: {error}") from error
    elif kind in (".dot", ".gv"):
        picture = words.encode()
    else:
        raise SppError(f"{args.output}: cannot tell what to write; end its name in .dot, .gv, {', '.join(PICTURES)}")
    with replacing(args.output) as temporary, open(temporary, "wb") as file:
        file.write(picture)
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
