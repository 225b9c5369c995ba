"""Binary files, and upgrades of old dialects."""
import errno
import logging
import os
import struct

import pytest
from google.protobuf import text_format

from folders import GOLDEN
from spp.errors import ProtoError
from spp.proto import (binary, caffe_pb2, parse_net, parse_solver, read_blob_proto, read_net, read_net_binary,
                       read_solver, read_solver_state, to_text, upgrade_net, write_binary)
from spp.proto.upgrade import V1_TYPES

GRAPHS = GOLDEN / "graphs"


def net_with_weights() -> caffe_pb2.NetParameter:
    net = parse_net("name: 'n' layer { name: 'ip' type: 'InnerProduct' bottom: 'data' top: 'ip' }")
    net.layer[0].blobs.add(data=[1.5, -2, 3e-8], shape=caffe_pb2.BlobShape(dim=[1, 3]))
    return net


# --- binary files ---

def test_net_goes_round(tmp_path):
    write_binary(net_with_weights(), tmp_path / "n.caffemodel")
    assert read_net_binary(tmp_path / "n.caffemodel") == net_with_weights()
    assert os.listdir(tmp_path) == ["n.caffemodel"]


def test_solver_state_and_blob_go_round(tmp_path):
    state = caffe_pb2.SolverState(iter=7, learned_net="n.caffemodel", current_step=2, resume=b'{"seed": 3}')
    state.history.add(double_data=[0.1])
    write_binary(state, tmp_path / "s")
    assert read_solver_state(tmp_path / "s") == state
    blob = caffe_pb2.BlobProto(num=1, channels=1, height=1, width=2, data=[128, 127.5])
    write_binary(blob, str(tmp_path / "b"))
    assert read_blob_proto(str(tmp_path / "b")) == blob


def test_golden_binaries_read():
    golden = GRAPHS.parent
    models = sorted(golden.glob("solvers/*/*.caffemodel"))
    states = sorted(golden.glob("solvers/*/*.solverstate"))
    assert len(models) > 20 and len(states) > 10
    for path in models:
        assert any(layer.blobs for layer in read_net_binary(path).layer), path
    for path in states:
        assert read_solver_state(path).iter == 6, path
    assert len(read_blob_proto(golden / "data" / "mean.binaryproto").data) == 3 * 24 * 30


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field of the wire format, for numbers under 16 and lengths under 128."""
    return bytes([number << 3 | 2, len(payload)]) + payload


def test_packed_and_unpacked_repeated_fields(tmp_path):
    """Old writers gave every value of data and dim its own tag, new ones one tag for all; both are read."""
    values = (1.5, -2.0, 0.25)
    packed = field(7, field(1, b"\x01\x03")) + field(5, struct.pack("<3f", *values))
    unpacked = field(7, b"\x08\x01\x08\x03") + b"".join(b"\x2d" + struct.pack("<f", v) for v in values)
    for data in (packed, unpacked):
        (tmp_path / "b").write_bytes(data)
        blob = read_blob_proto(tmp_path / "b")
        assert tuple(blob.data) == values
        assert tuple(blob.shape.dim) == (1, 3)
    # Datum.float_data is written with a tag a value; a packed writer is understood all the same.
    assert caffe_pb2.Datum(float_data=[1.5]).SerializeToString() == b"\x35" + struct.pack("<f", 1.5)
    assert caffe_pb2.Datum.FromString(field(6, struct.pack("<3f", *values))).float_data == list(values)


def test_unknown_fields_of_forks_are_passed_over(tmp_path):
    (tmp_path / "n").write_bytes(net_with_weights().SerializeToString() + field(15, b"fork"))
    assert read_net_binary(tmp_path / "n").layer == net_with_weights().layer


WEIGHTS = net_with_weights().SerializeToString()
STATE = caffe_pb2.SolverState(iter=3, history=[caffe_pb2.BlobProto(data=[1])]).SerializeToString()
MEAN = caffe_pb2.BlobProto(num=1, channels=1, height=1, width=1, data=[3]).SerializeToString()
READERS = {
    "a caffemodel": (read_net_binary, "give the .caffemodel, the binary file of weights"),
    "a solverstate": (read_solver_state, "give the binary .solverstate that a snapshot wrote"),
    "a BlobProto (as of an image mean)": (read_blob_proto,
                                          "give a .binaryproto, such as compute_image_mean writes"),
}
V1_WEIGHTS = caffe_pb2.NetParameter(layers=[caffe_pb2.V1LayerParameter(name="a")]).SerializeToString()
NEW_MEAN = caffe_pb2.BlobProto(shape=caffe_pb2.BlobShape(dim=[1]), double_data=[3]).SerializeToString()
FOREIGN = [
    (WEIGHTS, "a caffemodel"), (V1_WEIGHTS, "a caffemodel"), (STATE, "a solverstate"),
    (MEAN, "a BlobProto (as of an image mean)"), (NEW_MEAN, "a BlobProto (as of an image mean)"),
    # As a net this learned_net would be a layer with nothing but unknown fields.
    (caffe_pb2.SolverState(iter=1, learned_net="xx").SerializeToString(), "a solverstate"),
    (b"\x89HDF\r\n\x1a\n" + bytes(20), "an HDF5 file"),
    (b"name: 'n'\nlayer { }\n", "text (it begins \"name: 'n'\")"),
    (b"<!DOCTYPE html><html>", "text (it begins '<!DOCTYPE html><html>')"),
    (b"", "an empty file"),
]


@pytest.mark.parametrize("expected_kind", READERS)
@pytest.mark.parametrize("data, kind", FOREIGN, ids=[kind for _, kind in FOREIGN])
def test_foreign_file_is_named(tmp_path, expected_kind, data, kind):
    read, remedy = READERS[expected_kind]
    (tmp_path / "f").write_bytes(data)
    if kind == expected_kind:
        read(tmp_path / "f")
        return
    with pytest.raises(ProtoError) as caught:
        read(tmp_path / "f")
    assert str(caught.value) == f"{tmp_path / 'f'}: this is {kind}, not {expected_kind}; {remedy}"


@pytest.mark.parametrize("expected_kind", READERS)
@pytest.mark.parametrize("data", [WEIGHTS[:-1], WEIGHTS[:20], bytes(range(200)), b"\xff" * 9],
                         ids=["cut", "cut short", "noise", "ones"])
def test_truncated_or_unknown_file(tmp_path, expected_kind, data):
    read, remedy = READERS[expected_kind]
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(ProtoError) as caught:
        read(tmp_path / "f")
    assert str(caught.value) == (f"{tmp_path / 'f'}: not {expected_kind}, or truncated ({len(data)} bytes): "
                                 f"copy or download it again, or {remedy}")


@pytest.mark.parametrize("expected_kind", READERS)
def test_missing_file_and_folder(tmp_path, expected_kind):
    read, _ = READERS[expected_kind]
    with pytest.raises(ProtoError, match="^File not found: /no/such; check the path$"):
        read("/no/such")
    with pytest.raises(ProtoError) as caught:
        read(tmp_path)
    assert str(caught.value) == f"{tmp_path}: is a folder, not a file; give a file inside it"


def test_required_fields(tmp_path):
    net = net_with_weights()
    net.layer[0].clip_param.min = 1
    path = tmp_path / "n"
    with pytest.raises(ProtoError) as caught:
        write_binary(net, path)
    assert str(caught.value) == (f"{path}: not written: required fields are not set: "
                                 "layer[0].clip_param.max; set them")
    path.write_bytes(net.SerializePartialToString())
    with pytest.raises(ProtoError) as caught:
        read_net_binary(path)
    assert str(caught.value) == (f"{path}: the file is damaged: required fields are not set: "
                                 "layer[0].clip_param.max; copy or download it again")


def test_too_large_for_protobuf(tmp_path, monkeypatch):
    monkeypatch.setattr(binary, "LIMIT", 10)
    with pytest.raises(ProtoError) as caught:
        write_binary(net_with_weights(), tmp_path / "n")
    assert str(caught.value) == (f"{tmp_path / 'n'}: not written: {len(WEIGHTS)} bytes, "
                                 "but a binary protobuf file holds 10; save as HDF5 (snapshot_format: HDF5)")
    assert not os.listdir(tmp_path)


def test_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "n"
    path.write_bytes(b"old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ProtoError) as caught:
        write_binary(net_with_weights(), path)
    assert str(caught.value) == f"{path}: cannot be written: the disk is full; free some space and try again"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["n"]


# --- upgrades ---

def expected(name: str, message):
    return text_format.Parse((GRAPHS / f"{name}_upgraded.prototxt").read_text(), message)


@pytest.mark.parametrize("name", ["v0", "v1"])
def test_golden_net_upgrades(name, tmp_path):
    """From text, and from binary, the net is what the reference's own tool made of it."""
    assert read_net(GRAPHS / f"{name}.prototxt") == expected(name, caffe_pb2.NetParameter())
    old = text_format.Parse((GRAPHS / f"{name}.prototxt").read_text(), caffe_pb2.NetParameter())
    write_binary(old, tmp_path / "old.caffemodel")
    assert read_net_binary(tmp_path / "old.caffemodel") == expected(name, caffe_pb2.NetParameter())


def test_golden_solver_upgrade():
    assert read_solver(GRAPHS / "old_solver.prototxt") == expected("old_solver", caffe_pb2.SolverParameter())


@pytest.mark.parametrize("name", ["v0", "v1", "rules"])
def test_a_current_net_stays_as_it_is(name):
    net = read_net(GRAPHS / f"{name}.prototxt")
    again = caffe_pb2.NetParameter()
    again.CopyFrom(net)
    upgrade_net(again)
    assert again == net


def test_v1_has_a_type_for_every_enum_value():
    assert set(V1_TYPES) == set(caffe_pb2.V1LayerParameter.LayerType.keys())
    for old, new in V1_TYPES.items():
        assert parse_net(f"layers {{ type: {old} }}").layer[0].type == new
        assert new.lower().replace("withloss", "loss") == old.lower().replace("_", "").replace("none", "")


def test_v1_fields():
    same = """name: 'l' bottom: 'x' top: 'y' loss_weight: 0.5 loss_weight: 0
              blobs { data: 2 } blobs { data: 3 }
              include { stage: 's' } exclude { phase: TEST } convolution_param { num_output: 3 }
              loss_param { normalize: true }"""
    net = parse_net(f"""layers {{ type: CONVOLUTION {same}
        param: 'w' blob_share_mode: PERMISSIVE blobs_lr: 1 blobs_lr: 2 weight_decay: 0.5 }}""")
    assert net == parse_net(f"""layer {{ type: 'Convolution' {same}
        param {{ name: 'w' share_mode: PERMISSIVE lr_mult: 1 decay_mult: 0.5 }} param {{ lr_mult: 2 }} }}""")


@pytest.mark.parametrize("kind, name", [
    ("DATA", "data_param"), ("IMAGE_DATA", "image_data_param"), ("WINDOW_DATA", "window_data_param")])
def test_v1_data_layers_hand_their_transformation_over(kind, name):
    old = "scale: 0.5 mean_file: 'm' crop_size: 7 mirror: true"
    layer = parse_net(f"layers {{ type: {kind} {name} {{ source: 's' {old} }} }}").layer[0]
    assert to_text(getattr(layer, name)) == 'source: "s"\n'
    assert to_text(layer.transform_param) == 'scale: 0.5\nmirror: true\ncrop_size: 7\nmean_file: "m"\n'
    # The current dialect has the same fields, without effect: they stay where they are.
    layer = parse_net(f"layer {{ type: '{V1_TYPES[kind]}' {name} {{ {old} }} }}").layer[0]
    assert getattr(layer, name).scale == 0.5 and not layer.HasField("transform_param")


WEIGHT_FIELDS = "weight_filler { std: 2 } bias_filler { value: 1 }"
V0_FIELDS = [
    ("conv", f"num_output: 3 biasterm: false {WEIGHT_FIELDS} pad: 1 kernelsize: 5 stride: 2 group: 3",
     "Convolution", "convolution_param { num_output: 3 bias_term: false "
     f"{WEIGHT_FIELDS} pad: 1 kernel_size: 5 stride: 2 group: 3 }}"),
    ("innerproduct", f"num_output: 3 biasterm: false {WEIGHT_FIELDS}",
     "InnerProduct", f"inner_product_param {{ num_output: 3 bias_term: false {WEIGHT_FIELDS} }}"),
    ("pool", "pool: STOCHASTIC kernelsize: 3 stride: 2 pad: 1",
     "Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 3 stride: 2 pad: 1 }"),
    ("dropout", "dropout_ratio: 0.25", "Dropout", "dropout_param { dropout_ratio: 0.25 }"),
    ("lrn", "local_size: 3 alpha: 2 beta: 0.5 k: 3",
     "LRN", "lrn_param { local_size: 3 alpha: 2 beta: 0.5 k: 3 }"),
    ("concat", "concat_dim: 2", "Concat", "concat_param { concat_dim: 2 }"),
    ("data", "source: 's' batchsize: 4 rand_skip: 5 scale: 0.5 meanfile: 'm' cropsize: 7 mirror: true",
     "Data", "data_param { source: 's' batch_size: 4 rand_skip: 5 } "
     "transform_param { scale: 0.5 mean_file: 'm' crop_size: 7 mirror: true }"),
    ("hdf5_data", "source: 's' batchsize: 4", "HDF5Data", "hdf5_data_param { source: 's' batch_size: 4 }"),
    ("images", "source: 's' batchsize: 4 rand_skip: 5 shuffle_images: true new_height: 6 new_width: 7",
     "ImageData", "image_data_param { source: 's' batch_size: 4 rand_skip: 5 shuffle: true "
     "new_height: 6 new_width: 7 }"),
    ("window_data", "source: 's' batchsize: 4 det_fg_threshold: 0.7 det_bg_threshold: 0.2 "
     "det_fg_fraction: 0.1 det_context_pad: 3 det_crop_mode: 'square' cropsize: 9",
     "WindowData", "window_data_param { source: 's' batch_size: 4 fg_threshold: 0.7 bg_threshold: 0.2 "
     "fg_fraction: 0.1 context_pad: 3 crop_mode: 'square' } transform_param { crop_size: 9 }"),
    ("infogain_loss", "source: 's'", "InfogainLoss", "infogain_loss_param { source: 's' }"),
    ("hdf5_output", "hdf5_output_param { file_name: 'f' }",
     "HDF5Output", "hdf5_output_param { file_name: 'f' }"),
    ("tanh", "blobs { data: 2 } blobs_lr: 3 weight_decay: 4",
     "TanH", "blobs { data: 2 } param { lr_mult: 3 decay_mult: 4 }"),
]


@pytest.mark.parametrize("old_type, old, new_type, new", V0_FIELDS, ids=[row[0] for row in V0_FIELDS])
def test_v0_fields(old_type, old, new_type, new):
    net = parse_net(f"layers {{ layer {{ name: 'l' type: '{old_type}' {old} }} bottom: 'x' top: 'y' }}")
    assert net == parse_net(f"layer {{ name: 'l' type: '{new_type}' bottom: 'x' top: 'y' {new} }}")


def test_v0_keeps_the_rest_of_the_net():
    net = parse_net("name: 'n' input: 'x' input_dim: [1, 2, 3, 4] force_backward: true debug_info: true "
                    "layers { layer { name: 'a' type: 'relu' } bottom: 'x' top: 'x' }")
    assert net.name == "n" and net.force_backward and net.debug_info
    assert [layer.type for layer in net.layer] == ["Input", "ReLU"]


PADDING = "layers { layer { name: 'p' type: 'padding' pad: 2 } bottom: 'x' top: 'px' } "


def test_v0_padding_goes_into_every_reader():
    net = parse_net("input: 'x' " + PADDING +
                    "layers { layer { name: 'a' type: 'conv' pad: 1 } bottom: 'px' top: 'a' } "
                    "layers { layer { name: 'b' type: 'pool' } bottom: 'px' top: 'b' }")
    assert [layer.name for layer in net.layer] == ["a", "b"]
    assert [list(layer.bottom) for layer in net.layer] == [["x"], ["x"]]
    assert net.layer[0].convolution_param.pad == [3]
    assert net.layer[1].pooling_param.pad == 2


def test_v0_field_without_meaning_is_dropped_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        net = parse_net("layers { layer { name: 'r' type: 'relu' num_output: 3 } }", "F")
    assert to_text(net) == 'layer {\n  name: "r"\n  type: "ReLU"\n}\n'
    assert caplog.messages == [
        "F: layer 'r' (relu): field 'num_output' has no meaning for this type and is dropped"]


def test_input_fields_become_a_layer_put_first():
    net = parse_net("input: 'a' input: 'b' input_dim: [1, 2, 3, 4, 5, 6, 7, 8] layer { name: 'l' }")
    assert to_text(net) == to_text(parse_net(
        "layer { name: 'input' type: 'Input' top: 'a' top: 'b' "
        "input_param { shape { dim: [1, 2, 3, 4] } shape { dim: [5, 6, 7, 8] } } } layer { name: 'l' }"))
    net = parse_net("input: 'a' input_shape { dim: [3, 2] } layer { name: 'l' }")
    assert list(net.layer[0].input_param.shape[0].dim) == [3, 2]


def test_input_without_shapes_is_dropped_and_shapes_without_input_stay():
    assert parse_net("name: 'n' input: 'a' layer { name: 'l' }") == parse_net("name: 'n' layer { name: 'l' }")
    assert parse_net("input_dim: 3").input_dim == [3]


def test_batch_norm_statistics_are_not_trained():
    spec = "param { lr_mult: 1 } "
    net = parse_net("layer { type: 'BatchNorm' " + 3 * spec + "} layer { type: 'BatchNorm' " + spec + "} "
                    "layer { type: 'Scale' " + 3 * spec + "}")
    assert [[(p.lr_mult, p.decay_mult) for p in layer.param] for layer in net.layer] == [
        3 * [(0, 0)], [(1, 1)], 3 * [(1, 1)]]


@pytest.mark.parametrize("old, new", [("SGD", "SGD"), ("NESTEROV", "Nesterov"), ("ADAGRAD", "AdaGrad"),
                                      ("RMSPROP", "RMSProp"), ("ADADELTA", "AdaDelta"), ("ADAM", "Adam")])
def test_solver_types(old, new):
    assert to_text(parse_solver(f"solver_type: {old}")) == f'type: "{new}"\n'


def test_snapshot_prefix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("out")
    path = tmp_path / "my.solver.prototxt"
    for text, prefix in [("base_lr: 1", f"{tmp_path}/my.solver"), ("snapshot_prefix: 'out'", "out/my.solver"),
                         ("snapshot_prefix: 'out/x'", "out/x"), ("snapshot_prefix: ''", "")]:
        path.write_text(text)
        assert read_solver(path).snapshot_prefix == prefix
    assert not parse_solver("base_lr: 1").HasField("snapshot_prefix")


def test_nets_inside_a_solver_are_upgraded():
    old = "{ layers { name: 'r' type: RELU } }"
    solver = parse_solver(f"net_param {old} train_net_param {old} test_net_param {old} test_net_param {old}")
    for net in (solver.net_param, solver.train_net_param, *solver.test_net_param):
        assert [layer.type for layer in net.layer] == ["ReLU"] and not net.layers


V0_TYPES = ("accuracy, bnll, concat, conv, data, dropout, euclidean_loss, flatten, hdf5_data, hdf5_output, "
            "im2col, images, infogain_loss, innerproduct, lrn, multinomial_logistic_loss, pool, relu, "
            "sigmoid, softmax, softmax_loss, split, tanh, window_data")


@pytest.mark.parametrize("parse, text, message", [
    (parse_net, "layers { } layer { }",
     "F: has both 'layer' and 'layers' blocks; write all of them as 'layer'"),
    (parse_net, "input: 'a' input_dim: 3",
     "F: 1 'input' need one 'input_shape' or four 'input_dim' each; "
     "found 0 'input_shape', 1 'input_dim'"),
    (parse_net, "input: 'a' input: 'b' input_shape { dim: 3 }",
     "F: 2 'input' need one 'input_shape' or four 'input_dim' each; "
     "found 1 'input_shape', 0 'input_dim'"),
    (parse_net, "layers { layer { name: 'a' type: 'Conv' } }",
     f"F: layer 'a' (Conv): unknown type; V0 has {V0_TYPES}"),
    (parse_net, "input: 'x' " + PADDING + "layers { layer { name: 'a' type: 'relu' } bottom: 'px' }",
     "F: layer 'a' (relu): only conv and pool may read a padding layer; remove 'p'"),
    (parse_solver, "type: 'SGD' solver_type: SGD",
     "<solver>: has both 'type' and the old 'solver_type'; keep 'type'"),
])
def test_upgrade_refuses(parse, text, message):
    with pytest.raises(ProtoError) as caught:
        parse(text, "F")
    assert str(caught.value) == message
