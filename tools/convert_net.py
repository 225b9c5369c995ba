"""Convert a net with its weights to and from torch and ONNX."""
import argparse
import os
import sys
from typing import Any, Sequence

from spp.convert import caffe_files, cuda_convnet, onnx, torch, weights
from spp.errors import ConvertError
from spp.net import Net
from spp_tools.common import Parser, existing, guarded

DESCRIPTION = """Convert a net with its weights from Caffe to torch or ONNX, and back; and from cuda-convnet.

  convert_net --model deploy.prototxt --weights net.caffemodel --to torch --output net.py
      a Python file that needs torch only, and net.pt beside it
  convert_net --model deploy.prototxt --weights net.caffemodel --to onnx --output net.onnx
  convert_net --model torchvision.models:resnet18 --shape 1,3,224,224 --weights resnet18.pth --from torch \\
      --output resnet18.prototxt
      and resnet18.caffemodel beside it; --model may be a FILE.py:CLASS, or a .pt2 of torch.export.save, too
  convert_net --model net.onnx --from onnx --output net.prototxt
  convert_net --model layers.cfg --params layer-params.cfg --from cuda-convnet --shape data=128,3,224,224 \\
      --output net.prototxt
      and net_solver.prototxt beside it

Nothing is written if a layer or an operator cannot be converted; the message names it.
Needs pip install 'spp[torch]' or 'spp[onnx]'."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = Parser("convert_net", DESCRIPTION)
    parser.add_argument("--model", required=True, help="the net: a prototxt, an ONNX file, a torch module, or a "
                        "layer definition of cuda-convnet")
    parser.add_argument("--weights", metavar="FILE", help="a caffemodel, or for a torch module its state_dict")
    direction = parser.add_mutually_exclusive_group(required=True)
    direction.add_argument("--to", choices=["torch", "onnx"], help="convert a prototxt to that")
    direction.add_argument("--from", choices=["torch", "onnx", "cuda-convnet"], dest="source",
                           help="what to convert from")
    parser.add_argument("--output", required=True, metavar="FILE", help="the file to write: .py, .onnx or .prototxt")
    parser.add_argument("--shape", type=sizes, action="append", default=[], metavar="[NAME=]N,N,...",
                        help="sizes of an input: of a torch module in order, of the others by NAME")
    parser.add_argument("--params", metavar="FILE", help="cuda-convnet's layer parameters, for the solver")
    parser.add_argument("--mean", metavar="V,V,V", help="the means that are subtracted from the input, recorded in an "
                        "ONNX file")
    parser.add_argument("--scale", metavar="S", help="the factor of the input after that, recorded in an ONNX file")
    return guarded(lambda: convert(parser.parse_args(argv)))


def sizes(text: str) -> tuple[str, list[int]]:
    """An argument that is a shape, with or without a name."""
    name, _, numbers = text.rpartition("=")
    try:
        shape = [int(part) for part in numbers.split(",")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape, as 1,3,224,224 or data=1,3,224,224")
    return name, shape


def convert(args: Any) -> int:
    """Convert as the arguments say."""
    ending = {"torch": ".py", "onnx": ".onnx"}.get(args.to, ".prototxt")
    if not args.output.endswith(ending):
        raise ConvertError(f"--output {args.output}: the output is a {ending} file; name it so")
    if args.to:
        written = to_other(args)
    else:
        written = to_caffe(args)
    print(f"Wrote {' and '.join(written)}")
    return 0


def to_other(args: Any) -> list[str]:
    """Convert a prototxt; returns the paths of the written files."""
    notes = {key: value for key, value in (("mean", args.mean), ("scale", args.scale)) if value is not None}
    if notes and args.to != "onnx":
        raise ConvertError("--mean and --scale go with --to onnx; convert_weights records them in a torch file")
    if args.shape:
        raise ConvertError("--shape goes with --from; a prototxt has its own shapes")
    model = existing(args.model)
    if args.weights:
        net, left = weights.load(model, args.weights)
        if left:
            print(f"Left out, as the net has no such layers: {', '.join(left)}")
    else:
        net = Net(model, device="cpu")
        if net.params:
            raise ConvertError(f"{model} has parameters; give their values: --weights FILE.caffemodel")
    if args.to == "torch":
        return [args.output, torch.export(net, args.output)]
    onnx.export(net, None, args.output, notes)
    return [args.output]


def to_caffe(args: Any) -> list[str]:
    """Convert a torch module, an ONNX file or cuda-convnet's files; returns the paths of the written files."""
    if args.mean is not None or args.scale is not None:
        raise ConvertError("--mean and --scale go with --to onnx; a prototxt has transform_param for them")
    if args.params and args.source != "cuda-convnet":
        raise ConvertError("--params goes with --from cuda-convnet")
    caffemodel = os.path.splitext(args.output)[0] + ".caffemodel"
    if args.source == "torch":
        param = torch.read(args.model, args.weights, [shape for _, shape in args.shape])
        caffe_files.write(param, args.output, caffemodel)
        return [args.output, caffemodel]
    if any(not name for name, _ in args.shape):
        raise ConvertError("--shape for an ONNX or cuda-convnet file needs the input's name: --shape data=1,3,224,224")
    if args.source == "cuda-convnet":
        return from_cuda_convnet(args)
    if args.weights:
        raise ConvertError("an ONNX file has its own weights; leave out --weights")
    onnx.convert(args.model, args.output, caffemodel, dict(args.shape))
    return [args.output, caffemodel]


def from_cuda_convnet(args: Any) -> list[str]:
    """Convert a layer definition, and with --params its solver; returns the paths of the written files."""
    if args.weights:
        raise ConvertError("cuda-convnet's weights cannot be read; leave out --weights")
    solver = os.path.splitext(args.output)[0] + "_solver.prototxt" if args.params else None
    cuda_convnet.convert(args.model, args.params, args.output, solver, dict(args.shape))
    return [args.output, solver] if solver else [args.output]


if __name__ == "__main__":
    sys.exit(main())
