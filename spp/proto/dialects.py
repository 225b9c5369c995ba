"""Binary files of Caffe's forks: their field numbers, which clash with one another, become those of caffe.proto.

No file names its fork, so that it is inferred from the content. There are two rules:

- A layer of a type that only forks have stores its parameter under one of that type's numbers in _BY_TYPE; which
  fork wrote it does not matter.
- Numbers with another meaning in layers that BVLC has too (_BY_FORK) are read as the fork's if the file has a sign
  of exactly one fork (_NET_SIGNS, _LAYER_SIGNS). Without a sign, or with signs of several forks, such a field is
  read as BVLC's, and a line in the log says so.

Blobs with NVIDIA's `raw_data` are recognised everywhere. All this happens on the wire format, before parsing:
afterwards a field with a clashing number would be gone or wrong.
"""
import logging
from collections.abc import Iterator
from typing import Any

from spp.proto import caffe_pb2
from spp.proto.wire import LENGTH, VARINT, Damaged, WireField, fields_of, renumber, rewrite_fields, rewrite_message

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

# The fields of a fork's numbers in layers of any type; a dict has the numbers inside a message.
_BY_FORK: dict[str, dict[int, Any]] = {
    "NVIDIA": {145: "forward_type", 146: "backward_type", 147: "forward_math", 148: "backward_math",
               151: "recurrent_param", 108: {2: "engine"},
               139: {4: "engine", 5: "scale_filler", 6: "bias_filler", 7: "scale_bias"}},
    "Intel": {149: "engine", 121: {13: "avg_include_pad"},
              139: {4: "engine", 5: "use_weight_bias", 6: "bias_term", 7: "filler", 8: "bias_filler"}},
    "Fast R-CNN": {108: {2: "scale_train"}},
}
# Fields of BVLC's layers that forks read in another way: (parameter, number inside it).
_CLASHING = {(121, 13): "pooling_param's round_mode"}
# NVIDIA's fields of a BlobProto, by number and wire type.
_RAW = {(10, VARINT): "raw_data_type", (11, VARINT): "raw_diff_type", (12, LENGTH): "raw_data",
        (13, LENGTH): "raw_diff"}

# Fields of a net that only one fork writes: numbers, and whether they are strings or messages.
_NET_SIGNS = (("NVIDIA", range(12, 21), False),         # types and scales of the whole net
              ("Intel", (9, 10, 101), True))            # engine, compile_net_state, multinode
# Fields of a layer that only one fork writes: numbers, wire type (None: any), and whether the number must be one of
# those that _BY_TYPE has for the layer's type.
_LAYER_SIGNS = (("NVIDIA", range(145, 149), VARINT, False),
                ("Intel", (153, 154), None, True),
                ("Fast R-CNN", (8266711, 8266712), None, False),
                ("OpenCV", (147, 148, 149, 150, 10001, 10002), LENGTH, True),
                ("SSD", range(200, 208), LENGTH, False))
# Numbers of the fields on the way to a blob, and of Intel's `engine` of a layer.
_NET_LAYER, _LAYER_TYPE, _LAYER_BLOBS, _STATE_HISTORY, _LAYER_ENGINE = 100, 2, 7, 3, 149


def to_current(data: bytes, message: Any, source: str) -> bytes:
    """The bytes of a NetParameter, SolverState or BlobProto with forks' fields under the numbers of caffe.proto.

    message: an object of the message's class; source: the file's name for the log. Returns `data` itself if nothing
    changes, and for bytes that are not a message.
    """
    try:
        if isinstance(message, caffe_pb2.NetParameter):
            return _net(data, source)
        if isinstance(message, caffe_pb2.SolverState):
            return rewrite_fields(data, 0, len(data), lambda field: rewrite_message(data, field, _blob)
                                  if _is(field, _STATE_HISTORY) else None) or data
        return _blob(data, 0, len(data)) or data
    except Damaged:
        return data     # the parser reports it


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

    def layer(field: WireField) -> bytes | None:
        if field not in layers:
            return None
        return rewrite_message(data, field, lambda *_: _layer(data, layers[field], rules, signs, unclear))

    result = rewrite_fields(data, 0, len(data), layer, fields)
    for name in sorted(unclear):
        log.warning("%s: %s means different things in Caffe and its forks; read as BVLC's", source, name)
    return result or data


def _signs(data: bytes, net: list[WireField], layers: dict[WireField, list[WireField]]) -> list[str]:
    """The forks that the file has signs of, sorted."""
    forks = {fork for field in net for fork, numbers, is_bytes in _NET_SIGNS
             if field.number in numbers and (field.wire == LENGTH) == is_bytes}
    for fields in layers.values():
        forks |= _layer_signs(data, fields)
    if len(forks) > 1:
        forks.discard("SSD")        # NVIDIA and Intel took over SSD's numbers, and detectors are built on it
    if "Intel" in forks:
        forks.discard("OpenCV")     # Intel's SmoothL1Loss has the number of OpenCV's Permute
    return sorted(forks)


def _layer_signs(data: bytes, fields: list[WireField]) -> set[str]:
    own_numbers = _BY_TYPE.get(_type(data, fields), ("", ()))[1]
    forks = {fork for field in fields for fork, numbers, wire, only_own in _LAYER_SIGNS
             if field.number in numbers and wire in (None, field.wire)
             and (field.number in own_numbers or not only_own)}
    for field in fields:
        if _is(field, _LAYER_BLOBS) and any((f.number, f.wire) in _RAW
                                            for f in _blob_fields(data, field.value, field.end)):
            forks.add("NVIDIA")
        if _is(field, _LAYER_ENGINE) and _LAYER_ENGINE not in own_numbers and data[field.value:field.end].isascii():
            forks.add("Intel")
    return forks


def _layer(data: bytes, fields: list[WireField], rules: dict[int, Any], signs: list[str],
           unclear: set[str]) -> bytes | None:
    """The bytes of a LayerParameter with changed numbers; None if nothing changes."""
    name, numbers = _BY_TYPE.get(_type(data, fields), ("", ()))
    present = {field.number for field in fields if field.wire == LENGTH}
    own = next((number for number in numbers if number in present), None)
    for (outer, number), words in _CLASHING.items() if signs else ():
        for field in fields:
            if _is(field, outer) and outer not in rules and any(
                    f.number == number for f in fields_of(data, field.value, field.end)):
                unclear.add(words)

    def new_bytes(field: WireField) -> bytes | None:
        if field.number == own and field.wire == LENGTH:
            return renumber(data, field, _number(caffe_pb2.LayerParameter, name))
        if _is(field, _LAYER_BLOBS):
            return rewrite_message(data, field, _blob)
        rule = rules.get(field.number)
        if isinstance(rule, str):
            target = caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name[rule]
            fits = (field.wire == LENGTH) == (target.cpp_type in (target.CPPTYPE_MESSAGE, target.CPPTYPE_STRING))
            return renumber(data, field, target.number) if fits else None
        if rule and field.wire == LENGTH:
            message: Any = caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_number[field.number].message_type
            numbers = {old: message.fields_by_name[new].number for old, new in rule.items()}
            return rewrite_message(data, field, lambda _, start, end: rewrite_fields(
                data, start, end, lambda f: renumber(data, f, numbers[f.number]) if f.number in numbers else None))
        return None

    return rewrite_fields(data, fields[0].start, fields[-1].end, new_bytes, fields) if fields else None


def _blob(data: bytes, start: int, end: int) -> bytes | None:
    """The bytes of a BlobProto with changed numbers; None if nothing changes."""
    def new_bytes(field: WireField) -> bytes | None:
        name = _RAW.get((field.number, field.wire))
        return renumber(data, field, _number(caffe_pb2.BlobProto, name)) if name else None

    return rewrite_fields(data, start, end, new_bytes, list(_blob_fields(data, start, end)))


def _blob_fields(data: bytes, start: int, end: int) -> Iterator[WireField]:
    """The fields of a BlobProto up to the first unpacked value; old files have millions of those and no raw data."""
    for field in fields_of(data, start, end):
        if 5 <= field.number <= 9 and field.wire != LENGTH:
            return
        yield field


def _type(data: bytes, fields: list[WireField]) -> str:
    return next((data[f.value:f.end].decode("utf-8", "replace") for f in fields if _is(f, _LAYER_TYPE)), "")


def _is(field: WireField, number: int) -> bool:
    return field.number == number and field.wire == LENGTH


def _number(message: Any, name: str) -> int:
    return message.DESCRIPTOR.fields_by_name[name].number
