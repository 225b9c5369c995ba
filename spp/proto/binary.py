"""Reading and writing messages in binary: weights, solver states, means."""
import os
from typing import TypeVar

from google.protobuf.message import EncodeError, Message

from spp.atomic import replacing
from spp.errors import ProtoError
from spp.proto import caffe_pb2, dialects, files
from spp.proto.upgrade import upgrade_net

LIMIT = 2 ** 31 - 1     # bytes; other protobuf libraries, and so Caffe, cannot read larger messages

_Message = TypeVar("_Message", bound=Message)
_Path = str | os.PathLike[str]


def read_net_binary(path: _Path) -> caffe_pb2.NetParameter:
    """The net with the blobs of its layers, from a caffemodel of any dialect, upgraded to `layer`s.

    Raises ProtoError if the file is missing, of another kind, truncated, or cannot be upgraded.
    """
    net = _read(path, caffe_pb2.NetParameter())
    upgrade_net(net, os.fspath(path))
    return net


def read_solver_state(path: _Path) -> caffe_pb2.SolverState:
    """The state of a solver from a .solverstate; raises ProtoError as read_net_binary does."""
    return _read(path, caffe_pb2.SolverState())


def read_blob_proto(path: _Path) -> caffe_pb2.BlobProto:
    """One array, such as an image mean, from a .binaryproto; raises ProtoError as read_net_binary does."""
    return _read(path, caffe_pb2.BlobProto())


def write_binary(message: Message, path: _Path) -> None:
    """Write a message to a file, completely or not at all.

    Raises ProtoError if a required field is not set, the message is over 2 GB, or the file cannot be written.
    """
    name = os.fspath(path)
    try:
        data = message.SerializeToString()
    except EncodeError:
        missing = ", ".join(files.unset(message))
        raise ProtoError(f"{name}: not written: required fields are not set: {missing}; set them") from None
    if len(data) > LIMIT:
        raise ProtoError(f"{name}: not written: {len(data)} bytes, but a binary protobuf file holds {LIMIT}; "
                         "save as HDF5 (snapshot_format: HDF5)")
    with replacing(name, ProtoError) as temporary, open(temporary, "wb") as file:
        file.write(data)


def _read(path: _Path, message: _Message) -> _Message:
    name = os.fspath(path)
    data = dialects.to_current(files.read_bytes(name), message, name)
    if files.fill(message, data):
        missing = ", ".join(files.unset(message))
        if missing:
            raise ProtoError(f"{name}: the file is damaged: required fields are not set: {missing}; "
                             "copy or download it again")
        return message
    expected = files.KINDS[type(message)]
    kind = files.kind(data)
    if kind == files.UNKNOWN:
        raise ProtoError(f"{name}: not {expected.words}, or truncated ({len(data)} bytes): "
                         f"copy or download it again, or {expected.remedy}")
    raise ProtoError(f"{name}: this is {kind}, not {expected.words}; {expected.remedy}")
