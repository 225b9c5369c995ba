"""Binary files of Caffe's forks: their field numbers, which clash with one another, turned into those of caffe.proto.

A fork is told by what is in the file, since no file names its own. Two rules:

- A layer of a type that only forks have carries its parameter under one of that type's numbers in _BY_TYPE;
  which fork wrote it does not matter.
- Numbers that mean something else in a layer that BVLC has too (_BY_FORK) are read as the fork's if the file
  shows that fork by a sign of its own (`_signs`). Without a sign, or with the signs of several forks, such a
  field is read as BVLC's, and a line in the log says so.

Blobs with NVIDIA's `raw_data` are recognised wherever they stand. All this is done on the wire format, before
parsing: afterwards a field with a clashing number would be gone or wrong.
"""
import logging
from collections.abc import Iterator
from typing import Any

from spp.proto import caffe_pb2
from spp.proto.wire import LENGTH, VARINT, Damaged, Field, fields_of, inside, rebuilt, renumbered

log = logging.getLogger(__name__)

# Parameter and numbers by layer type, the likeliest first: SSD, NVIDIA, Intel; OpenCV; R-FCN; single projects.
_BY_TYPE: dict[str, tuple[str, tuple[int, ...]]] = {
    "AnnotatedData": ("annotated_data_param", (200,)),
    "BN": ("bn_param", (137, 1137)),
    "BoxAnnotatorOHEM": ("box_annotator_ohem_param", (152, 150)),
    "DetectionEvaluate": ("detection_evaluate_param", (205,)),
    "DetectionOutput": ("detection_output_param", (204, 147, 881)),
    "Interp": ("interp_param", (143, 2143)),
    "MultiBoxLoss": ("multibox_loss_param", (201,)),
    "Normalize": ("norm_param", (206, 149, 134, 882)),
    "PSROIPooling": ("psroi_pooling_param", (153, 10002, 10001, 149)),
    "Permute": ("permute_param", (202, 148)),
    "PriorBox": ("prior_box_param", (203, 150, 883)),
    "ROIPooling": ("roi_pooling_param", (8266711, 154, 150)),
    "ReLU6": ("relu6_param", (100000, 2060)),
    "Reorg": ("reorg_param", (159, 155, 148)),
    "ShuffleChannel": ("shuffle_channel_param", (164, 159)),
    "SmoothL1Loss": ("smooth_l1_loss_param", (8266712, 148, 5148)),
    "Upsample": ("upsample_param", (149, 150, 160)),
    "VideoData": ("video_data_param", (207,)),
}

# What a fork's numbers mean in layers of any type; a dict holds the numbers inside a message.
_BY_FORK: dict[str, dict[int, Any]] = {
    "NVIDIA": {145: "forward_type", 146: "backward_type", 147: "forward_math", 148: "backward_math",
               151: "recurrent_param", 108: {2: "engine"},
               139: {4: "engine", 5: "scale_filler", 6: "bias_filler", 7: "scale_bias"}},
    "Intel": {149: "engine", 121: {13: "avg_include_pad"},
              139: {4: "engine", 5: "use_weight_bias", 6: "bias_term", 7: "filler", 8: "bias_filler"}},
    "Fast R-CNN": {108: {2: "scale_train"}},
}
# Fields of layers that BVLC has, which forks read in another way: (parameter, number inside it).
_CLASHING = {(121, 13): "pooling_param's round_mode"}
_RAW = {10: "raw_data_type", 11: "raw_diff_type", 12: "raw_data", 13: "raw_diff"}
_RAW_WIRE = {10: VARINT, 11: VARINT, 12: LENGTH, 13: LENGTH}

# Numbers of the fields on the way to a blob.
_NET_LAYER, _LAYER_TYPE, _LAYER_BLOBS, _STATE_HISTORY = 100, 2, 7, 3


def current(data: bytes, message: Any, source: str) -> bytes:
    """The bytes of a NetParameter, SolverState or BlobProto with forks' fields under the numbers of caffe.proto.

    `message` tells the kind, `source` names the file in the log. Returns `data` itself where nothing changes,
    and for bytes that are no message at all.
    """
    try:
        if isinstance(message, caffe_pb2.NetParameter):
            return _net(data, source)
        if isinstance(message, caffe_pb2.SolverState):
            return rebuilt(data, 0, len(data), lambda field: _history(data, field)) or data
        return _blob(data, 0, len(data)) or data
    except Damaged:
        return data     # the parser says so


def _history(data: bytes, field: Field) -> bytes | None:
    return inside(data, field, _blob) if _is(field, _STATE_HISTORY) else None


def _net(data: bytes, source: str) -> bytes:
    fields = list(fields_of(data, 0, len(data)))
    layers = {field: list(fields_of(data, field.value, field.end)) for field in fields if _is(field, _NET_LAYER)}
    signs = _signs(data, fields, layers)
    fork = signs[0] if len(signs) == 1 else None
    if len(signs) > 1:
        log.warning("%s: has signs of several forks of Caffe (%s); fields that they disagree on are read as BVLC's",
                    source, ", ".join(signs))
    elif fork:
        log.info("%s: read as written by %s's fork of Caffe", source, fork)
    rules = _BY_FORK.get(fork or "", {})
    unclear: set[str] = set()

    def layer(field: Field) -> bytes | None:
        if field not in layers:
            return None
        return inside(data, field, lambda *_: _layer(data, layers[field], rules, signs, unclear))

    result = rebuilt(data, 0, len(data), layer, fields)
    for name in sorted(unclear):
        log.warning("%s: %s means different things in Caffe and its forks; read as BVLC's", source, name)
    return result or data


def _signs(data: bytes, net: list[Field], layers: dict[Field, list[Field]]) -> list[str]:
    """The forks that the file shows a sign of."""
    found = set()
    for field in net:
        if field.number in range(12, 21) and field.wire != LENGTH:      # types and scales of the whole net
            found.add("NVIDIA")
        if field.number in (9, 10, 101) and field.wire == LENGTH:       # engine, compile_net_state, multinode
            found.add("Intel")
    for fields in layers.values():
        kind = _type(data, fields)
        own = _BY_TYPE.get(kind, ("", ()))[1]
        for field in fields:
            if field.number in range(145, 149) and field.wire == VARINT:
                found.add("NVIDIA")
            elif _is(field, _LAYER_BLOBS) and any(
                    _RAW_WIRE.get(f.number) == f.wire for f in _blob_fields(data, field.value, field.end)):
                found.add("NVIDIA")
            elif _is(field, 149) and 149 not in own and data[field.value:field.end].isascii():
                found.add("Intel")
            elif field.number in (153, 154) and field.number in own:
                found.add("Intel")
            elif field.number in (8266711, 8266712):
                found.add("Fast R-CNN")
            elif field.number in (147, 148, 149, 150, 10001, 10002) and field.number in own and field.wire == LENGTH:
                found.add("OpenCV")
            elif 200 <= field.number <= 207 and field.wire == LENGTH:
                found.add("SSD")
    if len(found) > 1:
        found.discard("SSD")        # NVIDIA and Intel took SSD's numbers over, and detectors are built on it
    if "Intel" in found:
        found.discard("OpenCV")     # Intel's SmoothL1Loss has a number that is OpenCV's for Permute
    return sorted(found)


def _layer(data: bytes, fields: list[Field], rules: dict[int, Any], signs: list[str],
           unclear: set[str]) -> bytes | None:
    """A LayerParameter rewritten; None where nothing changes."""
    name, numbers = _BY_TYPE.get(_type(data, fields), ("", ()))
    present = {field.number for field in fields if field.wire == LENGTH}
    own = next((number for number in numbers if number in present), None)
    for (outer, number), words in _CLASHING.items() if signs else ():
        for field in fields:
            if _is(field, outer) and outer not in rules and any(
                    f.number == number for f in fields_of(data, field.value, field.end)):
                unclear.add(words)

    def rewritten(field: Field) -> bytes | None:
        if field.number == own and field.wire == LENGTH:
            return renumbered(data, field, _number(caffe_pb2.LayerParameter, name))
        if _is(field, _LAYER_BLOBS):
            return inside(data, field, _blob)
        rule = rules.get(field.number)
        if isinstance(rule, str):
            target = caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name[rule]
            fits = (field.wire == LENGTH) == (target.cpp_type in (target.CPPTYPE_MESSAGE, target.CPPTYPE_STRING))
            return renumbered(data, field, target.number) if fits else None
        if rule and field.wire == LENGTH:
            message: Any = caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_number[field.number].message_type
            numbers = {old: message.fields_by_name[new].number for old, new in rule.items()}
            return inside(data, field, lambda _, start, end: rebuilt(
                data, start, end, lambda f: renumbered(data, f, numbers[f.number]) if f.number in numbers else None))
        return None

    return rebuilt(data, fields[0].start, fields[-1].end, rewritten, fields) if fields else None


def _blob(data: bytes, start: int, end: int) -> bytes | None:
    """A BlobProto rewritten; None where nothing changes."""
    fields = list(_blob_fields(data, start, end))
    if not any(_RAW_WIRE.get(field.number) == field.wire for field in fields):
        return None

    def rewritten(field: Field) -> bytes | None:
        if _RAW_WIRE.get(field.number) != field.wire:
            return None
        return renumbered(data, field, _number(caffe_pb2.BlobProto, _RAW[field.number]))

    return rebuilt(data, start, end, rewritten, fields)


def _blob_fields(data: bytes, start: int, end: int) -> Iterator[Field]:
    """A BlobProto's fields, up to a value that is not packed: such old files hold millions, and no raw data."""
    for field in fields_of(data, start, end):
        if 5 <= field.number <= 9 and field.wire != LENGTH:
            return
        yield field


def _type(data: bytes, fields: list[Field]) -> str:
    return next((data[f.value:f.end].decode("utf-8", "replace") for f in fields if _is(f, _LAYER_TYPE)), "")


def _is(field: Field, number: int) -> bool:
    return field.number == number and field.wire == LENGTH


def _number(message: Any, name: str) -> int:
    return message.DESCRIPTOR.fields_by_name[name].number
