"""The wire format of protobuf messages: its fields are listed, renumbered and rewritten without parsing messages."""
from collections.abc import Callable, Iterator
from typing import NamedTuple

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_WIDTH = {FIXED64: 8, FIXED32: 4}


class WireField(NamedTuple):
    """One field on the wire: bytes `start` to `end` of the file; its value begins at `value`."""

    number: int
    wire: int
    start: int
    value: int
    end: int


Rewrite = Callable[[bytes, int, int], bytes | None]     # the new bytes of message data[start:end]; None: unchanged


class Damaged(Exception):
    """The bytes are not a protobuf message."""


def fields_of(data: bytes, start: int, end: int) -> Iterator[WireField]:
    """The fields of the message in data[start:end]; raises Damaged."""
    at = start
    while at < end:
        tag, value = varint(data, at, end)
        wire, stop = tag & 7, end + 1
        if wire == VARINT:
            stop = varint(data, value, end)[1]
        elif wire == LENGTH:
            size, value = varint(data, value, end)
            stop = value + size
        elif wire in _WIDTH:
            stop = value + _WIDTH[wire]
        if stop > end:
            raise Damaged
        yield WireField(tag >> 3, wire, at, value, stop)
        at = stop


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number at a position, and the position after it."""
    number = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
    raise Damaged


def encode(number: int) -> bytes:
    """A number as a varint."""
    head = []
    while number >= 128:
        head.append(number & 127 | 128)
        number >>= 7
    return bytes([*head, number])


def renumber(data: bytes, field: WireField, number: int) -> bytes:
    """The field with another number."""
    tag = encode(number << 3 | field.wire)
    if field.wire == LENGTH:
        tag += encode(field.end - field.value)
    return tag + data[field.value:field.end]


def rewrite_message(data: bytes, field: WireField, change: Rewrite) -> bytes | None:
    """The field with its message rewritten by `change(data, start, end)`; None if nothing changes."""
    content = change(data, field.value, field.end)
    if content is None:
        return None
    return encode(field.number << 3 | LENGTH) + encode(len(content)) + content


def rewrite_fields(data: bytes, start: int, end: int, change: Callable[[WireField], bytes | None],
                   fields: list[WireField] | None = None) -> bytes | None:
    """data[start:end] with each field replaced by `change(field)` unless that is None; None if nothing changes."""
    pieces, copied = [], start
    for field in fields_of(data, start, end) if fields is None else fields:
        new = change(field)
        if new is not None:
            pieces += [data[copied:field.start], new]
            copied = field.end
    return b"".join([*pieces, data[copied:end]]) if pieces else None
