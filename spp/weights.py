"""Weight files: .caffemodel (binary protobuf) and .caffemodel.h5 (HDF5), read and written."""
from typing import Any, Iterator, Sequence

import h5py
import numpy as np

from spp.atomic import replacing
from spp.blob import Blob
from spp.errors import NetError, ProtoError, format_shape
from spp.proto import arrays, binary, caffe_pb2, files


def is_hdf5(path: str) -> bool:
    """Whether the file begins with HDF5's magic number."""
    with open(path, "rb") as file:
        return file.read(len(files.HDF5_MAGIC)) == files.HDF5_MAGIC


def read(model: Any) -> Iterator[tuple[str, list[Any]]]:
    """Layer names and their parameters, in file order, from a path or a NetParameter.

    The parameters are BlobProtos, or arrays from HDF5. A shared parameter that HDF5 stores only in its owner's layer
    is None. Raises ProtoError for a missing or damaged file.
    """
    if isinstance(model, str):
        try:
            hdf5 = is_hdf5(model)
        except OSError as error:
            raise ProtoError(f"cannot read weights {model}: {error.strerror}; check the path") from error
        if hdf5:
            yield from _read_hdf5(model)
            return
        model = binary.read_net_binary(model)
    for layer in model.layer:
        yield layer.name, list(layer.blobs)


def _read_hdf5(path: str) -> Iterator[tuple[str, list[np.ndarray | None]]]:
    """Every group data/<layer> with datasets 0, 1, ...; a layer's name may contain '/', and so be a sub-group."""
    layers: dict[str, dict[int, np.ndarray]] = {}

    def visit(name: str, item: Any) -> None:
        layer, _, index = name.rpartition("/")
        if isinstance(item, h5py.Dataset) and index.isdigit():
            layers.setdefault(layer, {})[int(index)] = item[...]

    try:
        with h5py.File(path, "r") as file:
            file["data"].visititems(visit)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise ProtoError(f"{path}: damaged, or no weights in Caffe's HDF5 layout (data/<layer>/<i>): {error}"
                         ) from error
    for name, params in layers.items():
        yield name, [params.get(i) for i in range(max(params) + 1)]


def assign(blobs: Sequence[Blob], sources: Sequence[Any], where: str) -> None:
    """Copy BlobProtos or arrays into parameters; raises NetError with both shapes if they do not fit.

    A source may be None or missing for a parameter that shares another's memory: Caffe's HDF5 files store a shared
    parameter once, in its owner's layer.
    """
    sources = [*sources, *[None for blob in blobs[len(sources):] if blob.shared]]
    if len(blobs) != len(sources):
        raise NetError(f"{where} has {len(sources)} parameter(s), the net's layer has {len(blobs)}; "
                       "rename the layer in the prototxt to learn it from scratch")
    for i, (blob, source) in enumerate(zip(blobs, sources)):
        if source is None:
            if not blob.shared:
                raise NetError(f"{where}: param {i} is missing in the file, and is shared with no other layer's; "
                               "rename the layer in the prototxt to learn it from scratch")
            continue
        try:
            if isinstance(source, np.ndarray):
                if source.shape != blob.shape:
                    raise NetError(f"param {i}: the file's shape is {format_shape(source.shape)}, the net's is "
                                   f"{format_shape(blob.shape)}")
                values = source
            else:
                values = arrays.from_proto_as(source, blob.shape, f"param {i}")
        except NetError as error:
            raise NetError(f"{where}: {error}; rename the layer in the prototxt to learn it from scratch") from error
        blob.set(blob.backend.from_host(values))


def write(net: Any, path: str, diff: bool = False) -> None:
    """Write a net's layers and weights, completely or not at all; as HDF5 if the path ends in .h5."""
    if path.endswith(".h5"):
        write_hdf5(net, path, diff)
        return
    result = caffe_pb2.NetParameter(name=net.name)
    for layer in net.layers:
        saved = result.layer.add()
        saved.CopyFrom(layer.param)
        saved.phase = net.phase
        del saved.blobs[:]
        saved.blobs.extend(to_proto(blob, diff) for blob in layer.blobs)
    binary.write_binary(result, path)


def to_proto(blob: Blob, diff: bool = False) -> caffe_pb2.BlobProto:
    """A blob's values, and its gradient if `diff`, as a BlobProto."""
    to_host = blob.backend.to_host
    return arrays.to_proto(to_host(blob.data), to_host(blob.diff) if diff else None)


def write_hdf5(net: Any, path: str, diff: bool = False) -> None:
    """Write a net's weights to an HDF5 file of any name, completely or not at all."""
    layers = [layer for layer in net.layers if layer.blobs]
    _check_hdf5_names(layers, path)
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        for which in ("data", "diff") if diff else ("data",):
            group = file.create_group(which)
            for layer in layers:
                target = group.require_group(layer.name)
                for i, blob in enumerate(layer.blobs):
                    target[str(i)] = blob.backend.to_host(getattr(blob, which))


def _check_hdf5_names(layers: Sequence[Any], path: str) -> None:
    """Raise NetError if a layer's name is not a valid HDF5 path, or is the path of another layer's parameter."""
    remedy = "rename the layer, or save as .caffemodel (snapshot_format: BINARYPROTO)"
    paths: set[str] = set()
    for layer in layers:
        parts = layer.name.split("/")
        if "\0" in layer.name or any(part in ("", ".", "..") for part in parts):
            raise NetError(f"{path}: not written: HDF5 cannot hold a layer named {layer.name!r}; {remedy}")
        paths.update("/".join(parts[:i + 1]) for i in range(len(parts)))
    for layer in layers:
        for param in (f"{layer.name}/{i}" for i in range(len(layer.blobs))):
            if param in paths:
                raise NetError(f"{path}: not written: HDF5 cannot hold layer {layer.name!r} beside another layer of "
                               f"that name, or one named {param!r}; {remedy}")
            paths.add(param)
