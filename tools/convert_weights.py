"""Convert weights between Caffe and torch."""
import argparse
import sys
from typing import Any, Sequence

from spp.convert import weights
from spp.convert.torch import tensor_files, torchvision_nets
from spp.errors import ConvertError
from spp_tools.common import Parser, existing, guarded

DESCRIPTION = """Convert the weights of a net between Caffe (.caffemodel, .h5) and torch (.pt, .pth, .safetensors).

  convert_weights --model deploy.prototxt --weights net.caffemodel --output net.safetensors
      a state_dict with the names of the module that convert_net --to torch writes
  convert_weights --model deploy.prototxt --weights net.safetensors --output net.caffemodel
      back, bit by bit
  convert_weights --map torchvision:resnet18 --weights resnet18-f37072fd.pth --output resnet18.caffemodel
      a checkpoint of torchvision, with resnet18.prototxt beside it; input: BGR, 0 to 255, less the printed means.
      Known: """ + ", ".join(torchvision_nets.NAMES) + """

Needs pip install 'spp[torch]'."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = Parser("convert_weights", DESCRIPTION)
    parser.add_argument("--model", metavar="PROTOTXT", help="the net; not with --map")
    parser.add_argument("--weights", metavar="FILE", required=True, help="the weights to convert")
    parser.add_argument("--output", metavar="FILE", required=True, help="the file to write; its extension sets the "
                        "format")
    parser.add_argument("--map", metavar="torchvision:NET", help="names of another library instead of the net's own")
    parser.add_argument("--flip-channels", action="store_true",
                        help="reverse the channels, BGR to RGB or back, that the first convolutions read")
    parser.add_argument("--mean", type=numbers, metavar="V,V,V", help="the means that are subtracted from the input, "
                        "per channel, recorded in the file; with --map: torch's mean, RGB of 0 to 1")
    parser.add_argument("--scale", type=float, metavar="S", help="the factor of the input after that, recorded in the "
                        "file")
    parser.add_argument("--std", type=numbers, metavar="V,V,V", help="with --map: torch's standard deviation, RGB of "
                        "0 to 1; default for both: those of torchvision's published weights")
    return guarded(lambda: convert(parser.parse_args(argv)))


def numbers(text: str) -> list[float]:
    """An argument that is a list of numbers with commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, as 104,117,123") from None


def convert(args: Any) -> int:
    """Convert as the arguments say."""
    to_torch = args.output.endswith(tensor_files.ENDINGS)
    if not to_torch and not args.output.endswith(weights.ENDINGS):
        known = ", ".join((*weights.ENDINGS, *tensor_files.ENDINGS))
        raise ConvertError(f"--output {args.output}: its extension must be one of {known}")
    if args.map:
        return convert_map(args, to_torch)
    if not args.model or args.std:
        raise ConvertError("--std goes with --map only" if args.model else "give the net: --model PROTOTXT, or --map")
    if to_torch == args.weights.endswith(tensor_files.ENDINGS):
        raise ConvertError(f"{args.weights} and {args.output} are both {'torch' if to_torch else 'Caffe'} files; one "
                           "of them must be the other's kind")
    model = existing(args.model)
    if to_torch:
        notes = {"mean": args.mean, "scale": args.scale}
        left = weights.to_torch(model, args.weights, args.output, args.flip_channels,
                                {key: value for key, value in notes.items() if value is not None})
        if left:
            print(f"Left out, as the net has no such layers: {', '.join(left)}")
    else:
        if args.mean or args.scale is not None:
            raise ConvertError("a caffemodel has no place for --mean and --scale; write them into transform_param")
        for key, value in weights.to_caffe(model, args.weights, args.output, args.flip_channels).items():
            print(f"{args.weights} says {key}: {value}")
    print(f"Wrote {args.output}")
    return 0


def convert_map(args: Any, to_torch: bool) -> int:
    """Convert a checkpoint of torchvision."""
    library, _, name = args.map.partition(":")
    if library != "torchvision" or name not in torchvision_nets.NAMES:
        known = ", ".join(f"torchvision:{name}" for name in torchvision_nets.NAMES)
        raise ConvertError(f"--map {args.map} is not known; give one of {known}")
    if to_torch or args.model or args.flip_channels or args.scale is not None:
        raise ConvertError("--map makes a caffemodel and its prototxt out of a checkpoint, for BGR images of 0 to "
                           "255: leave out --model, --flip-channels and --scale, and give --output an ending of "
                           f"{' or '.join(weights.ENDINGS)}")
    prototxt, means, left = torchvision_nets.convert(name, args.weights, args.output, args.mean, args.std)
    if left:
        print(f"Left out, as the net has no such layers: {', '.join(left)}")
    print(f"Input: BGR, 0 to 255, less the means {', '.join(f'{v:g}' for v in means)}")
    print(f"Wrote {prototxt} and {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
