"""Reading whole files, and recognising their kind."""
import os
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from spp.errors import ProtoError
from spp.proto import caffe_pb2


class Kind(NamedTuple):
    """A kind of binary file: how messages name it, how it is recognised, and what to give instead of another kind."""

    words: str
    field_1: int                        # the tag of field 1: NUMBER or STRING
    marks: tuple[set[str], ...]         # every file of the kind has a field of each of these sets
    remedy: str


NUMBER, STRING = 0x08, 0x0a
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
KINDS: dict[Any, Kind] = {
    caffe_pb2.NetParameter: Kind("a caffemodel", STRING, ({"layer", "layers"},),
                                 "give the .caffemodel, the binary file of weights"),
    caffe_pb2.SolverState: Kind("a solverstate", NUMBER, ({"iter"}, {"learned_net", "history"}),
                                "give the binary .solverstate that a snapshot wrote"),
    caffe_pb2.BlobProto: Kind("a BlobProto (as of an image mean)", NUMBER, ({"data", "double_data", "raw_data"},),
                              "give a .binaryproto, such as compute_image_mean writes"),
}
UNKNOWN = "binary data of an unknown kind"


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file; raises ProtoError if it is missing, a folder, or not readable."""
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
    """What the content of a file is, as words for a message."""
    if not data:
        return "an empty file"
    if data.startswith(HDF5_MAGIC):
        return "an HDF5 file"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "text in UTF-16"
    if is_text(data):
        return f"text (it begins {data[:40].decode('utf-8', 'replace').split(chr(10))[0].strip()!r})"
    return next((known.words for message, known in KINDS.items() if fill(message(), data)), UNKNOWN)


def fill(message: Any, data: bytes) -> bool:
    """Parse `data` into a message of one of KINDS; returns False, with an empty message, if it is of another kind.

    Successful parsing is not enough: fields of another type count as unknown, and a path may parse as a layer.
    """
    expected = KINDS[type(message)]
    try:
        message.ParseFromString(data)
    except DecodeError:
        message.Clear()
    names = {field.name for field, _ in message.ListFields()}
    other_field_1 = data and data[0] in (NUMBER, STRING) and data[0] != expected.field_1
    if other_field_1 or not all(names & marks for marks in expected.marks):
        message.Clear()
        return False
    return True


def unset(message: Any) -> list[str]:
    """Paths of the required fields that are not set, such as layer[2].clip_param.min."""
    return message.FindInitializationErrors()


def is_text(data: bytes) -> bool:
    """Whether the content is ASCII but for comments; binary messages have control characters near the beginning."""
    head = data[:4096]
    control = any(byte < 32 and byte not in b"\t\n\f\r" for byte in head)
    return not control and sum(byte < 128 for byte in head) >= len(head) / 4
