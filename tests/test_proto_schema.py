"""The schema: every message of Caffe's, field for field, and nothing added but the extensions."""
import json
import operator
import pathlib
import pickle
import re

import pytest
from google.protobuf import descriptor_pb2

from spp.proto import caffe_pb2

HERE = pathlib.Path(__file__).parent
CAFFE = json.loads((HERE / "golden" / "caffe_proto.json").read_text())
PROTO = pathlib.Path(caffe_pb2.__file__).with_name("caffe.proto")
NUMBER = operator.itemgetter("number")
FIELD = descriptor_pb2.FieldDescriptorProto
NEW = {"PlateauParameter", "ColorParameter", "SizeParameter"}
EXTENSIONS = {
    "SPPParameter": ["10000 rep uint32 bins None", "10001 opt enum SPPParameter.BinRule bin_rule AUTO"],
    "TransformationParameter": [
        "10000 opt uint32 resize_short None",
        "10001 opt enum TransformationParameter.CropMode crop_mode CAFFE",
        "10002 opt msg ColorParameter color_param None", "10003 opt msg SizeParameter size_param None",
        "10004 opt enum TransformationParameter.MeanMode mean_mode INDEX"],
    "SolverParameter": ["10000 opt msg PlateauParameter plateau_param None"],
    "SolverState": ["10000 opt bytes resume None"],
    "ColorParameter": ["1 opt float std 0.1", "2 rep float eigenvalue None", "3 rep float eigenvector None"],
    "SizeParameter": ["1 rep uint32 size None", "2 opt enum SizeParameter.Schedule schedule ROUND_ROBIN"],
    "PlateauParameter": ["1 opt string output None", "2 opt uint32 patience 3", "3 opt float min_delta 0.001",
                         "4 opt uint32 max_drops 2"],
}
NEW_ENUMS = {
    "SPPParameter.BinRule": {"AUTO": 0, "SLIDING": 1, "APPENDIX_A": 2},
    "TransformationParameter.CropMode": {"CAFFE": 0, "CORNERS": 1},
    "TransformationParameter.MeanMode": {"INDEX": 0, "WARP": 1},
    "SizeParameter.Schedule": {"ROUND_ROBIN": 0, "UNIFORM": 1},
}


def schema() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    caffe_pb2.DESCRIPTOR.CopyToProto(file)
    return file


def described(field) -> dict:
    """A field of the descriptor in the form of caffe_proto.json."""
    kind = FIELD.Type.Name(field.type).removeprefix("TYPE_").lower()
    default = field.default_value if field.HasField("default_value") else None
    if default is not None and kind == "float":
        default = f"{float(default):.6g}"       # runtimes print float32 with different numbers of digits
    return {
        "number": field.number, "name": field.name,
        "label": {1: "opt", 2: "req", 3: "rep"}[field.label],
        "type": "msg" if kind == "message" else kind,
        "type_name": field.type_name.removeprefix(".") or None,
        "default": default,
        "packed": field.options.packed, "deprecated": field.options.deprecated,
    }


def enums() -> dict:
    nested = {f"{m.name}.{e.name}": e for m in schema().message_type for e in m.enum_type}
    return {name: {value.name: value.number for value in enum.value}
            for name, enum in {**nested, **{e.name: e for e in schema().enum_type}}.items()}


def test_package_is_proto2_caffe():
    assert schema().package == "caffe"
    assert schema().syntax in ("", "proto2")


def test_messages_are_caffes_and_ours():
    assert {message.name for message in schema().message_type} == set(CAFFE["messages"]) | NEW
    assert len(CAFFE["messages"]) == 63


@pytest.mark.parametrize("name", CAFFE["messages"])
def test_fields_are_caffes(name):
    message = next(m for m in schema().message_type if m.name == name)
    found = [described(field) for field in message.field if field.number < 10000]
    assert sorted(found, key=NUMBER) == sorted(CAFFE["messages"][name], key=NUMBER)


def test_extensions_are_the_listed_ones():
    found: dict[str, list[str]] = {}
    for message in schema().message_type:
        for field in map(described, message.field):
            if field["number"] >= 10000 or message.name in NEW:
                kind = " ".join([field["type"]] + [(field["type_name"] or "").removeprefix("caffe.")]).strip()
                found.setdefault(message.name, []).append(
                    f"{field['number']} {field['label']} {kind} {field['name']} {field['default']}")
    assert found == EXTENSIONS


def test_enums_are_caffes_and_ours():
    assert enums() == {**CAFFE["enums"], **NEW_ENUMS}


def test_generated_module_is_up_to_date():
    """caffe_pb2.py says what caffe.proto says (`make proto` makes it so)."""
    written, message = {}, ""
    for line in PROTO.read_text().splitlines():
        line = line.split("//")[0].strip()
        if match := re.match(r"message (\w+)", line):
            message = match[1]
        if match := re.match(r"(optional|required|repeated) ([\w.]+) (\w+) = (\d+)(?: \[(.*)\])?;", line):
            written[message, match[3]] = (match[1], match[2], int(match[4]), match[5] or "")
    generated = {}
    for m in schema().message_type:
        for field in map(described, m.field):
            kind = field["type_name"].split(".")[-1] if field["type_name"] else field["type"]
            default = f'"{field["default"]}"' if field["type"] == "string" else field["default"]
            options = [] if field["default"] is None else [f"default = {default}"]
            options += ["packed = true"] if field["packed"] else []
            label = {"opt": "optional", "req": "required", "rep": "repeated"}[field["label"]]
            generated[m.name, field["name"]] = (label, kind, field["number"], ", ".join(options))
    assert written == generated


def test_every_message_and_extension_has_a_comment():
    lines = PROTO.read_text().splitlines()
    for i, line in enumerate(lines):
        if re.match(r"message ", line) or re.search(r"= 1000\d\b", line):
            assert lines[i - 1].strip().startswith("//"), line


def test_defaults_as_seen_from_python():
    assert caffe_pb2.SolverParameter().delta == pytest.approx(1e-8)
    assert caffe_pb2.WindowDataParameter().crop_mode == "warp"
    assert caffe_pb2.SPPParameter().bin_rule == caffe_pb2.SPPParameter.AUTO
    assert not caffe_pb2.LayerParameter().HasField("phase")


def test_messages_pickle():
    """Data layers hand their parameters to other processes."""
    net = caffe_pb2.NetParameter(name="n", layer=[caffe_pb2.LayerParameter(name="a", top=["x"])])
    assert pickle.loads(pickle.dumps(net)) == net
