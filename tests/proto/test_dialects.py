"""Prototxts and binary files of Caffe's forks, the latter written byte by byte with the forks' own numbers."""
import logging
import struct

import numpy as np
import pytest

from spp.training import policies
from spp.data import transform
from spp.errors import DataError, NetError, ProtoError, SolverError
from spp.net import Net
from spp.proto import arrays, caffe_pb2, dialects, parse_net, parse_solver, read_blob_proto, read_net_binary
from spp.proto import read_solver_state


def varint(number):
    out = []
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def number(field, value):
    return varint(field << 3) + varint(value)


def block(field, content):
    content = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(content)) + content


def real(field, value):
    return varint(field << 3 | 5) + struct.pack("<f", value)


VALUES = np.array([[1.5, -2, 0.25], [1024, 3, -0.125]])             # exact in 16 bits
SHAPE = block(7, block(1, bytes([2, 3])))
BLOB = SHAPE + block(5, VALUES.astype("<f4").tobytes())             # packed data, as BVLC writes it
RAW_HALF = SHAPE + number(10, 2) + block(12, VALUES.astype("<f2").tobytes())


def layer(name, kind, *fields):
    return block(100, block(1, name) + block(2, kind) + b"".join(fields))


def read(tmp_path, *content):
    path = tmp_path / "x.caffemodel"
    path.write_bytes(b"".join(content))
    return read_net_binary(path)


IP = layer("ip", "InnerProduct", block(7, BLOB), block(117, number(1, 2)))

# type, the forks' number, the message on the wire, where it must arrive, and what it must say
CASES = [
    ("Normalize", 206, number(1, 0) + number(3, 0), "norm_param", "across_spatial: false channel_shared: false"),
    ("Normalize", 149, number(1, 0), "norm_param", "across_spatial: false"),
    ("Normalize", 134, number(1, 0), "norm_param", "across_spatial: false"),
    ("Permute", 202, number(1, 0) + number(1, 2), "permute_param", "order: 0 order: 2"),
    ("Permute", 148, number(1, 0) + number(1, 2), "permute_param", "order: 0 order: 2"),
    ("PriorBox", 203, real(1, 30) + number(4, 0), "prior_box_param", "min_size: 30 flip: false"),
    ("PriorBox", 150, real(1, 30), "prior_box_param", "min_size: 30"),
    ("DetectionOutput", 204, number(1, 21) + block(4, real(1, 0.25)) + number(6, 2), "detection_output_param",
     "num_classes: 21 nms_param { nms_threshold: 0.25 } code_type: CENTER_SIZE"),
    ("DetectionOutput", 147, number(1, 21), "detection_output_param", "num_classes: 21"),
    ("MultiBoxLoss", 201, number(4, 21), "multibox_loss_param", "num_classes: 21"),
    ("ROIPooling", 8266711, number(1, 6) + number(2, 7) + real(3, 0.0625), "roi_pooling_param",
     "pooled_h: 6 pooled_w: 7 spatial_scale: 0.0625"),
    ("ROIPooling", 154, number(1, 6), "roi_pooling_param", "pooled_h: 6"),
    ("SmoothL1Loss", 8266712, real(1, 3), "smooth_l1_loss_param", "sigma: 3"),
    ("SmoothL1Loss", 148, real(1, 3), "smooth_l1_loss_param", "sigma: 3"),
    ("PSROIPooling", 153, number(2, 21) + number(3, 7), "psroi_pooling_param", "output_dim: 21 group_size: 7"),
    ("PSROIPooling", 10002, number(2, 21), "psroi_pooling_param", "output_dim: 21"),
    ("Interp", 143, number(1, 33) + number(2, 65), "interp_param", "height: 33 width: 65"),
    ("ShuffleChannel", 164, number(1, 3), "shuffle_channel_param", "group: 3"),
    ("Upsample", 149, number(1, 2), "upsample_param", "scale: 2"),
]


@pytest.mark.parametrize("kind, fork, content, field, words", CASES, ids=lambda value: str(value)[:20])
def test_a_forks_parameter_arrives_and_so_do_the_weights(tmp_path, kind, fork, content, field, words):
    net = read(tmp_path, layer("a", kind, block(fork, content), block(7, BLOB)), IP)
    expected = parse_net(f"layer {{ name: 'a' type: '{kind}' {field} {{ {words} }} }}").layer[0]
    assert getattr(net.layer[0], field) == getattr(expected, field)
    names = {f.name for f, _ in net.layer[0].ListFields()}
    assert names == {"name", "type", "blobs", field}            # the number's meaning in Caffe has not been read
    for upgraded in net.layer:
        np.testing.assert_array_equal(arrays.from_proto(upgraded.blobs[0]), VALUES)


def test_caffes_own_files_pass_as_they_are(caplog):
    caplog.set_level(logging.INFO)
    data = IP + layer("p", "Pooling", block(121, number(13, 1))) + layer("s", "Swish", block(147, real(1, 2)))
    assert dialects.to_current(data, caffe_pb2.NetParameter(), "x") is data
    state = number(1, 7) + block(3, BLOB)
    assert dialects.to_current(state, caffe_pb2.SolverState(), "x") is state
    assert dialects.to_current(BLOB, caffe_pb2.BlobProto(), "x") is BLOB
    for damaged in (data[:-1], b"\xff" * 30, b"\x0b\x0c"):
        assert dialects.to_current(damaged, caffe_pb2.NetParameter(), "x") is damaged
    assert not caplog.text


@pytest.mark.parametrize("kind, dtype", [(0, "<f8"), (1, "<f4"), (2, "<f2")])
def test_nvidias_raw_data(tmp_path, caplog, kind, dtype):
    caplog.set_level(logging.INFO)
    raw = SHAPE + number(10, kind) + number(11, kind) + block(12, VALUES.astype(dtype).tobytes()) + block(
        13, (VALUES + 1).astype(dtype).tobytes())
    net = read(tmp_path, layer("ip", "InnerProduct", block(7, raw), number(145, 2), number(148, 1)))
    blob = net.layer[0].blobs[0]
    for diff, expected in ((False, VALUES), (True, VALUES + 1)):
        values = arrays.from_proto(blob, diff=diff)
        np.testing.assert_array_equal(values, expected)
        assert values.dtype == (np.float64 if kind == 0 else np.float32)
    assert net.layer[0].forward_type == caffe_pb2.FLOAT16 and net.layer[0].backward_math == caffe_pb2.FLOAT
    assert "read as written by NVIDIA's fork of Caffe" in caplog.text


def test_weights_of_16_bits_reach_a_net(tmp_path):
    path = tmp_path / "half.caffemodel"
    path.write_bytes(layer("ip", "InnerProduct", block(7, RAW_HALF)))
    net = Net(parse_net("layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: 1 dim: 3 } } } "
                        "layer { name: 'ip' type: 'InnerProduct' bottom: 'x' top: 'y' "
                        "inner_product_param { num_output: 2 bias_term: false } }"), weights=str(path))
    np.testing.assert_array_equal(net.params["ip"][0].data, VALUES)


def test_raw_data_of_solver_states_and_means(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(number(1, 7) + block(2, "a.caffemodel") + block(3, RAW_HALF))
    np.testing.assert_array_equal(arrays.from_proto(read_solver_state(path).history[0]), VALUES)
    path.write_bytes(b"".join(number(i + 1, size) for i, size in enumerate((1, 1, 2, 3))) + RAW_HALF[len(SHAPE):])
    np.testing.assert_array_equal(arrays.from_proto(read_blob_proto(path)), VALUES[None, None])


@pytest.mark.parametrize("blob, message", [
    (SHAPE + number(10, 3) + block(12, bytes(24)),
     "b: raw_data of type INT holds no weights; expected FLOAT16, FLOAT or DOUBLE"),
    (SHAPE + number(10, 2) + block(12, bytes(11)),
     "b: 11 bytes of raw_data are no whole number of FLOAT16; the file is damaged, copy or download it again"),
    (SHAPE + number(10, 2) + block(12, bytes(10)),
     "b: 5 values do not fit the shape 2 x 3; the file is damaged or from a fork of Caffe that stores weights in "
     "another way"),
])
def test_raw_data_that_is_no_weights(tmp_path, blob, message):
    net = read(tmp_path, layer("ip", "InnerProduct", block(7, blob)))
    with pytest.raises(NetError) as error:
        arrays.from_proto(net.layer[0].blobs[0], "b")
    assert str(error.value) == message


def test_nvidias_batch_norm(tmp_path):
    net = read(tmp_path, layer("bn", "BatchNorm", block(7, RAW_HALF),
                               block(139, number(4, 2) + block(5, real(2, 1)) + block(6, real(2, 3)) + number(7, 1))
                               ),
               layer("rnn", "RNN", block(151, number(1, 9))))
    p = net.layer[0].batch_norm_param
    assert (p.engine, p.scale_filler.value, p.bias_filler.value, p.scale_bias) == (2, 1, 3, True)
    assert net.layer[1].recurrent_param.num_output == 9


def test_intels_file(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    net = read(tmp_path, block(9, "MKLDNN"), layer("c", "Pooling", block(149, "MKL2017"), block(121, number(13, 1))),
               layer("bn", "BatchNorm", block(7, BLOB), block(139, number(5, 1) + number(6, 0) + block(7, real(2, 2)))
                     ),
               layer("n", "Normalize", block(149, "MKLDNN"), block(206, number(3, 0))))
    pool, norm, normalize = net.layer
    assert pool.engine == "MKL2017" and not pool.pooling_param.HasField("round_mode")
    assert norm.batch_norm_param.use_weight_bias and not norm.batch_norm_param.bias_term
    assert norm.batch_norm_param.filler.value == 2
    assert normalize.engine == "MKLDNN" and not normalize.norm_param.channel_shared
    assert "read as written by Intel's fork of Caffe" in caplog.text


def test_fast_rcnns_dropout(tmp_path):
    net = read(tmp_path, layer("r", "ROIPooling", block(8266711, number(1, 6))),
               layer("d", "Dropout", block(108, real(1, 0.5) + number(2, 0))))
    assert net.layer[1].dropout_param.HasField("scale_train") and not net.layer[1].dropout_param.scale_train


def test_what_is_unclear_is_read_as_caffes_and_said(tmp_path, caplog):
    net = read(tmp_path, layer("p", "Pooling", block(121, number(13, 1))),
               layer("n", "Normalize", block(206, number(1, 0))))
    assert net.layer[0].pooling_param.round_mode == caffe_pb2.PoolingParameter.FLOOR
    assert ("x.caffemodel: pooling_param's round_mode means different things in Caffe and its forks; read as BVLC's"
            in caplog.text)
    caplog.clear()
    read(tmp_path, layer("r", "ROIPooling", block(8266711, number(1, 6))), layer("c", "Convolution", number(147, 1)))
    assert ("has signs of several forks of Caffe (Fast R-CNN, NVIDIA); fields that they disagree on are read as BVLC's"
            in caplog.text)


def test_large_numbers_of_loose_values_are_not_searched():
    """Files from before packed values have a field a value; there, no raw data is looked for."""
    loose = SHAPE + real(5, 1) * 100 + number(10, 2)
    assert dialects.to_current(loose, caffe_pb2.BlobProto(), "x") is loose


def test_shapes_may_differ_in_ones():
    """NVIDIA's BatchNorm has 1 x C x 1 x 1 where Caffe has C; SSD's Normalize has () where this one has 1."""
    proto = arrays.to_proto(VALUES.reshape(1, 6, 1, 1))
    np.testing.assert_array_equal(arrays.from_proto_as(proto, (6,), "b"), VALUES.ravel())
    assert arrays.from_proto_as(arrays.to_proto(np.array(3.0)), (1,), "b").tolist() == [3]
    with pytest.raises(NetError, match="^b: the file's shape is 1 x 6 x 1 x 1, the net's is 2 x 3$"):
        arrays.from_proto_as(proto, (2, 3), "b")


# --- text

NET = "layer { name: 'a' type: '%s' bottom: 'x' top: 'y' %s }"


@pytest.mark.parametrize("kind, text", [
    ("AnnotatedData", """transform_param { mirror: true mean_value: 104 mean_value: 117 mean_value: 123
        resize_param { prob: 1 resize_mode: WARP height: 300 width: 300 interp_mode: LINEAR interp_mode: AREA }
        emit_constraint { emit_type: CENTER } distort_param { brightness_prob: 0.5 brightness_delta: 32
        contrast_prob: 0.5 contrast_lower: 0.5 contrast_upper: 1.5 hue_prob: 0.5 hue_delta: 18 saturation_prob: 0.5
        saturation_lower: 0.5 saturation_upper: 1.5 random_order_prob: 0 }
        expand_param { prob: 0.5 max_expand_ratio: 4 } }
        data_param { source: 'x' batch_size: 8 backend: LMDB }
        annotated_data_param { batch_sampler { max_sample: 1 max_trials: 1 } batch_sampler { sampler { min_scale: 0.3
        max_scale: 1 min_aspect_ratio: 0.5 max_aspect_ratio: 2 } sample_constraint { min_jaccard_overlap: 0.1 }
        max_sample: 1 max_trials: 50 } label_map_file: 'map' }"""),
    ("MultiBoxLoss", """include { phase: TRAIN } propagate_down: true propagate_down: false loss_param { normalization:
        VALID } multibox_loss_param { loc_loss_type: SMOOTH_L1 conf_loss_type: SOFTMAX loc_weight: 1 num_classes: 21
        share_location: true match_type: PER_PREDICTION overlap_threshold: 0.5 use_prior_for_matching: true
        background_label_id: 0 use_difficult_gt: true neg_pos_ratio: 3 neg_overlap: 0.5 code_type: CENTER_SIZE
        ignore_cross_boundary_bbox: false mining_type: MAX_NEGATIVE }"""),
    ("DetectionOutput", """detection_output_param { num_classes: 21 share_location: true background_label_id: 0
        nms_param { nms_threshold: 0.45 top_k: 400 } save_output_param { output_directory: 'd' output_name_prefix: 'p'
        output_format: 'VOC' label_map_file: 'map' name_size_file: 'size' num_test_image: 4952 }
        code_type: CENTER_SIZE keep_top_k: 200 confidence_threshold: 0.01 }"""),
    ("DetectionEvaluate", "detection_evaluate_param { num_classes: 21 background_label_id: 0 }"),
    ("ROIPooling", "roi_pooling_param { pooled_w: 7 pooled_h: 7 spatial_scale: 0.0625 }"),
    ("SmoothL1Loss", "loss_weight: 1 smooth_l1_loss_param { sigma: 3.0 }"),
    ("Dropout", "dropout_param { dropout_ratio: 0.5 scale_train: false }"),
    ("PSROIPooling", "psroi_pooling_param { spatial_scale: 0.0625 output_dim: 21 group_size: 7 }"),
    ("BoxAnnotatorOHEM", "box_annotator_ohem_param { roi_per_img: 128 ignore_label: -1 }"),
    ("SmoothL1LossOHEM", "loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 128 }"),
    ("BatchNorm", "forward_type: FLOAT16 backward_type: FLOAT16 batch_norm_param { moving_average_fraction: 0.9 "
     "eps: 0.0001 scale_bias: true scale_filler { value: 1 } bias_filler { value: 0 } engine: CUDNN }"),
    ("Convolution", "engine: 'MKLDNN' convolution_param { num_output: 3 kernel_size: 3 engine: MKL2017 }"),
    ("Normalize", "norm_param { across_spatial: false scale_filler { type: 'constant' value: 20 } "
     "channel_shared: false }"),
    ("Interp", "interp_param { zoom_factor: 8 pad_beg: 0 pad_end: 0 }"),
    ("BN", "bn_param { slope_filler { value: 1 } bias_filler { value: 0 } frozen: true momentum: 0.95 }"),
    ("BN", "bn_param { scale_filler { value: 1 } shift_filler { value: 0 } bn_mode: INFERENCE }"),
    ("Reorg", "reorg_param { stride: 2 }"), ("Upsample", "upsample_param { scale: 2 upsample_w: 60 upsample_h: 45 }"),
    ("ReLU6", "relu6_param { negative_slope: 0 }"), ("ShuffleChannel", "shuffle_channel_param { group: 3 }"),
])
def test_text_of_forks_is_read_by_name(kind, text):
    net = parse_net(NET % (kind, text))
    assert parse_net(str(net)) == net


def test_text_of_whole_nets_and_solvers():
    net = parse_net("default_forward_type: FLOAT16 default_backward_type: FLOAT16 default_forward_math: FLOAT "
                    "default_backward_math: FLOAT global_grad_scale: 1000 reduce_buckets: 6 engine: 'MKLDNN'")
    assert net.default_forward_type == caffe_pb2.FLOAT16 and net.global_grad_scale == 1000
    solver = parse_solver("eval_type: 'detection' ap_version: '11point' show_per_class_result: true "
                          "plateau_winsize: 10000 plateau_winsize: 20000 store_blobs_in_old_format: true")
    assert solver.plateau_winsize == [10000, 20000] and solver.ap_version == "11point"


def test_what_would_be_passed_over_in_silence_is_an_error():
    solver = parse_solver("base_lr: 1 lr_policy: 'plateau' gamma: 0.1 plateau_winsize: 100")
    with pytest.raises(SolverError) as error:
        policies.check(solver)
    assert str(error.value) == ("plateau_winsize is SSD's plateau, which watches the training loss; here lr_policy "
                                "plateau watches a test output: replace it by plateau_param { patience: ... }")
    with pytest.raises(DataError) as problem:
        transform.check(caffe_pb2.TransformationParameter(crop_h=3, resize_param={"prob": 1}))
    assert str(problem.value) == ("transform_param: resize_param, crop_h belong to SSD's AnnotatedData, not to this "
                                  "layer; remove them (resize_short and crop_size are here)")


def test_ceil_mode_is_round_mode():
    pool = "pooling_param { kernel_size: 2 %s }"
    for words, mode in (("ceil_mode: false", "FLOOR"), ("ceil_mode: true", "CEIL"),
                        ("ceil_mode: false round_mode: FLOOR", "FLOOR"), ("avg_include_pad: true", "CEIL")):
        p = parse_net(NET % ("Pooling", pool % words)).layer[0].pooling_param
        assert p.RoundMode.Name(p.round_mode) == mode and not p.HasField("ceil_mode")
    with pytest.raises(ProtoError, match="^<text>: layer 'a': round_mode and ceil_mode disagree; keep round_mode$"):
        parse_net(NET % ("Pooling", pool % "ceil_mode: true round_mode: FLOOR"))
    with pytest.raises(ProtoError) as error:
        parse_net(NET % ("Pooling", pool % "avg_include_pad: false"))
    assert str(error.value) == ("<text>: layer 'a': avg_include_pad: false is Intel's; here, as in Caffe, an average "
                                "counts the padding; remove the field, or the padding")


@pytest.mark.parametrize("order", ["old DIGITS", "present"])
def test_batch_norm_with_scale_in_the_order_of_old_digits(tmp_path, order):
    values = {"scale": np.array([3, -0.5]), "bias": np.array([0.25, -7]), "mean": np.array([1.5, -0.5]),
              "variance": np.array([3.5, 0.75]), "count": np.ones(1)}
    names = ("scale bias mean variance count" if order == "old DIGITS" else "mean variance count scale bias").split()
    blobs = [block(7, block(7, block(1, bytes([len(values[name])]))) + block(5, values[name].astype("<f4").tobytes()))
             for name in names]
    layers = read(tmp_path, layer("bn", "BatchNorm", *blobs)).layer
    assert [arrays.from_proto(blob).tolist() for blob in layers[0].blobs] == [
        values[name].tolist() for name in ("mean", "variance", "count", "scale", "bias")]
