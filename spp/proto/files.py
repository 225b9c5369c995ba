"""Reading a file whole, and telling what kind of file it is."""
import os
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from spp.errors import ProtoError
from spp.proto import caffe_pb2


class Kind(NamedTuple):
    words: str
    marks: tuple[str, ...]      # every file of the kind has one of these fields
    remedy: str


KINDS: dict[Any, Kind] = {
    caffe_pb2.NetParameter: Kind("a caffemodel", ("layer", "layers"),
                                 "give the .caffemodel, the binary file of weights"),
    caffe_pb2.SolverState: Kind("a solverstate", ("iter",),
                                "give the binary .solverstate that a snapshot wrote"),
    caffe_pb2.BlobProto: Kind("a BlobProto (as of an image mean)", ("data", "double_data"),
                              "give a .binaryproto, such as compute_image_mean writes"),
}
UNKNOWN = "binary data of an unknown kind"


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file.

    Raises ProtoError if it is missing, a folder, or not readable.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            return file.read()
    except FileNotFoundError:
        looked = "" if os.path.isabs(name) else f" (looked from {os.getcwd()})"
        raise ProtoError(f"File not found: {name}{looked}; check the path") from None
    except IsADirectoryError:
        raise ProtoError(f"{name}: is a folder, not a file; give a file inside it") from None
    except OSError as problem:
        raise ProtoError(f"{name}: cannot be read: {problem.strerror or problem}") from problem


def kind(data: bytes) -> str:
    """What the content of a file looks like, as words for a message."""
    if not data:
        return "an empty file"
    if data.startswith(b"\x89HDF\r\n\x1a\n"):
        return "an HDF5 file"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "text in UTF-16"
    if is_text(data):
        return f"text (it begins {data[:40].decode('utf-8', 'replace').split(chr(10))[0].strip()!r})"
    return next((kind.words for message, kind in KINDS.items() if fill(message(), data)), UNKNOWN)


def fill(message: Any, data: bytes) -> bool:
    """Parse `data` into a message of one of KINDS; False, and an empty message, if it is of another."""
    try:
        message.ParseFromString(data)
    except DecodeError:
        message.Clear()
    if any(field.name in KINDS[type(message)].marks for field, _ in message.ListFields()):
        return True
    message.Clear()
    return False


def unset(message: Any) -> list[str]:
    """Paths of the required fields that are not set, such as layer[2].clip_param.min."""
    return message.FindInitializationErrors()


def is_text(data: bytes) -> bool:
    """Whether the content is mostly ASCII, without the control characters that every binary message has."""
    head = data[:4096]
    control = any(byte < 32 and byte not in b"\t\n\f\r" for byte in head)
    return not control and sum(byte < 128 for byte in head) >= len(head) / 2
