"""Reading and writing nets and solvers as text (.prototxt)."""
import os
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from spp.atomic import replacing
from spp.errors import ProtoError
from spp.proto import caffe_pb2, files
from spp.proto.explain import bad_escape, explain, missing_fields
from spp.proto.scan import layer_name as _name_of
from spp.proto.scan import scan, tokens
from spp.proto.upgrade import upgrade_net, upgrade_solver

_Message = TypeVar("_Message", bound=Message)
_Path = str | os.PathLike[str]


def read_net(path: _Path) -> caffe_pb2.NetParameter:
    """The net of a prototxt of any dialect, upgraded to `layer`s.

    Raises ProtoError, with file, line, layer and remedy, if the file is missing, is not text, does not follow the
    schema, or cannot be upgraded.
    """
    return parse_net(_read_text(path, "a net's prototxt; weights are given separately"), os.fspath(path))


def read_solver(path: _Path) -> caffe_pb2.SolverParameter:
    """The solver of a prototxt; a missing snapshot_prefix is derived from the path. Raises as read_net does."""
    solver = _parse(_read_text(path, "a solver's prototxt"), os.fspath(path), caffe_pb2.SolverParameter())
    upgrade_solver(solver, os.fspath(path))
    return solver


def parse_net(text: str, source: str = "<text>") -> caffe_pb2.NetParameter:
    """The net of a text; `source` replaces the file name in messages. Raises as read_net does."""
    net = _parse(text, source, caffe_pb2.NetParameter())
    upgrade_net(net, source)
    return net


def parse_solver(text: str, source: str = "<text>") -> caffe_pb2.SolverParameter:
    """The solver of a text, with snapshot_prefix unchanged. Raises as read_net does."""
    solver = _parse(text, source, caffe_pb2.SolverParameter())
    upgrade_solver(solver, None)
    return solver


def to_text(message: Message) -> str:
    """A message as prototxt."""
    return text_format.MessageToString(message, as_utf8=True)


def write_text(message: Message, path: _Path) -> None:
    """Write a message as prototxt, completely or not at all; raises ProtoError."""
    with replacing(path, ProtoError) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(to_text(message))


def where(source_path: _Path, layer_name: str) -> str:
    """`FILE:LINE` of a layer's block in a prototxt, for messages; `FILE` if there is no such block."""
    name = os.fspath(source_path)
    try:
        text = files.read_bytes(name).decode("utf-8", "replace")
    except ProtoError:
        return name
    for layer in scan(text).layers():
        if _name_of(layer) == layer_name:
            return f"{name}:{layer.place[0]}"
    return name


def _parse(text: str, source: str, message: _Message) -> _Message:
    escape_error = bad_escape(text, source) if "\\" in text else None
    if escape_error:
        raise ProtoError(escape_error)
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise ProtoError(explain(error, text, source, message)) from None
    missing = files.unset(message)
    if missing:
        raise ProtoError(missing_fields(text, source, missing))
    return message


def _read_text(path: _Path, expected: str) -> str:
    """The text of a UTF-8 file; comments may be in any encoding, as in Caffe."""
    name = os.fspath(path)
    data = files.read_bytes(name)
    if not files.is_text(data):
        raise ProtoError(f"{name}: this is {files.kind(data)}, not text; give {expected}")
    text = data.decode("utf-8-sig", "replace")
    if "\ufffd" in text:
        for token in tokens(text):
            if "\ufffd" in token.text:
                raise ProtoError(f"{name}:{token.place[0]}: {token.text} is not UTF-8; save the file so")
    if next(tokens(text), None) is None:
        raise ProtoError(f"{name}: this is an empty file (or comments only); give {expected}")
    return text
