"""Weight files of Caffe to files of torch's tensors, and back, for a net given by its prototxt."""
from typing import Any

import numpy as np

from spp import weights as weight_files
from spp.convert.torch import state_dict, tensor_files
from spp.errors import ConvertError
from spp.net import Net
from spp.proto import caffe_pb2

ENDINGS = (".caffemodel", ".h5")


def to_torch(model: str, weights: str, output: str, flip: bool = False,
             metadata: dict[str, Any] | None = None) -> list[str]:
    """Write the weights of a net, from a caffemodel (binary or HDF5), as a state_dict: .pt, .pth or .safetensors.

    flip: reverse the input channels of the convolutions that read the image. metadata: further entries for the file,
    such as means and scale. Returns the layers of the weights' file that the net does not have. Raises ConvertError
    if the file lacks a layer of the net.
    """
    net, left = load(model, weights)
    if flip:
        flip_channels(net)
    tensors, notes = state_dict.from_net(net)
    tensor_files.write(output, tensors, {**notes, **({"channels": "reversed"} if flip else {}), **(metadata or {})})
    return left


def to_caffe(model: str, weights: str, output: str, flip: bool = False) -> dict[str, Any]:
    """Write the weights of a state_dict's file as a caffemodel, or as HDF5 if the path ends in .h5.

    Returns the entries of the file's metadata that the user added. Raises ConvertError if tensors and net do not fit.
    """
    tensors, metadata = tensor_files.read(weights)
    double = any(array.dtype == np.float64 for array in tensors.values())
    net = Net(model, device="cpu", dtype=np.float64 if double else np.float32)
    state_dict.into_net(net, tensors, metadata, weights)
    if flip:
        flip_channels(net)
    net.save(output)
    return {key: value for key, value in metadata.items() if key not in ("batch_norm", "net")}


def load(model: str, weights: str) -> tuple[Net, list[str]]:
    """A Net on the host with all its weights from a file, in double precision if the file contains doubles.

    Also returns the layers that have weights in the file and are not in the net. Raises ConvertError if the file lacks
    a layer that has parameters, which would keep random values.
    """
    stored = {name: blobs for name, blobs in weight_files.read(weights) if blobs}
    double = any(_is_double(blob) for blobs in stored.values() for blob in blobs)
    net = Net(model, device="cpu", dtype=np.float64 if double else np.float32)
    missing = [name for name, blobs in net.params.items()
               if name not in stored and not all(blob.shared for blob in blobs)]
    if missing:
        raise ConvertError(f"{weights} has no weights for {', '.join(map(repr, missing))} of {model}; give the "
                           "prototxt that the weights were trained with")
    for name, blobs in stored.items():
        if name in net.params:
            weight_files.assign(net.params[name], blobs, f"{weights}: layer {name!r}")
    return net, [name for name in stored if name not in net.params]


def flip_channels(net: Net) -> None:
    """Reverse the input channels, BGR to RGB and back, of the convolutions that read the net's image.

    Raises ConvertError if there is none, or if another layer that depends on the channels reads the image too.
    """
    images = {name for name in net.inputs if len(net.blobs[name].shape) == 4 and net.blobs[name].shape[1] == 3}
    flipped: set[int] = set()
    for layer in net.layers:
        if not images.intersection(layer.param.bottom):
            continue
        if layer.type == "Split":
            images.update(layer.param.top)
        elif layer.type == "Convolution" and layer.param.convolution_param.group == 1:
            weight = layer.blobs[0]
            if id(weight.memory) not in flipped:
                weight.data[...] = np.array(weight.data[:, ::-1])
                flipped.add(id(weight.memory))
        elif layer.type not in ("Silence", "PriorBox"):
            raise ConvertError(f"channels not flipped: layer {layer.name!r} ({layer.type}) reads the image, and only "
                               "convolutions without groups can take it in another order")
    if not flipped:
        raise ConvertError(f"channels not flipped: no convolution of net {net.name!r} reads an input of 3 channels")


def _is_double(blob: Any) -> bool:
    """Whether a parameter, a BlobProto or an array or None, is in double precision."""
    if isinstance(blob, caffe_pb2.BlobProto):
        return len(blob.double_data) > 0 or blob.HasField("raw_data") and blob.raw_data_type == caffe_pb2.DOUBLE
    return blob is not None and blob.dtype == np.float64
