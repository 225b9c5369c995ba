"""Every layer type as ONNX: onnxruntime computes at several sizes what the net computes."""
import re

import numpy as np
import pytest

from every_layer_rows import ROWS, Row
from onnx_files import assert_same
from spp.convert import onnx as spp_onnx
from spp.errors import ConvertError, SppError
from spp.layers import TEST
from spp.net import Net
from spp.proto.text import parse_net

onnx = pytest.importorskip("onnx", reason="needs pip install 'spp[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install 'spp[onnx]'")

from spp.convert.onnx.exporter.model import EXPORTERS     # noqa: E402 needs onnx

REGIONS = [[0, 1, 2, 30, 22], [1, 0, 0, 39, 27], [1, 9, 5, 14, 8], [0, 20, 3, 33, 19], [1, -7, 4, 60, 90],
           [0, 70, 2, 90, 9], [1, 2.5, 3.5, 4.5, 30]]
MAP = (2, 3, 7, 10)
GAUSS = 'weight_filler { type: "gaussian" std: 0.5 } bias_filler { type: "gaussian" std: 0.5 }'
MORE = [
    *(Row("Pooling", f"pooling_param {{ pool: {pool} {window} }}", [shape], other=[other], positive=True)
      for pool in ("MAX", "AVE", "STOCHASTIC")
      for window, shape, other in [
          ("kernel_size: 2 stride: 3", MAP, (1, 3, 8, 11)),
          ("kernel_size: 3 stride: 1", MAP, (3, 3, 4, 5)),
          ("kernel_size: 3 stride: 2 round_mode: FLOOR", MAP, (3, 3, 8, 12)),
          ("kernel_h: 3 kernel_w: 4 stride_h: 2 stride_w: 1", MAP, (1, 3, 10, 6)),
          ("global_pooling: true", MAP, (1, 3, 5, 4)),
          ("kernel_size: 3 stride: 2", (2, 3, 8), (1, 3, 11))]),
    *(Row("Pooling", f"pooling_param {{ pool: {pool} {window} }}", [MAP], other=[other])
      for pool in ("MAX", "AVE")
      for window in ("kernel_size: 2 stride: 2 pad: 1", "kernel_size: 3 stride: 3 pad: 2", "kernel_size: 3 pad: 1",
                     "kernel_size: 3 stride: 2 pad: 1", "kernel_h: 3 kernel_w: 2 stride_h: 4 stride_w: 2 pad_h: 2 "
                     "pad_w: 0", "kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR")
      for other in [(1, 3, 8, 11), (3, 3, 9, 7), (1, 3, 6, 13)]),
    Row("Pooling", "pooling_param { kernel_size: 2 stride: 2 pad: 1 }", [MAP], tops=2, other=[(1, 3, 6, 11)]),
    Row("Pooling", "pooling_param { global_pooling: true }", [MAP], tops=2, other=[(1, 3, 6, 11)]),
    *(Row("SPP", f"spp_param {{ {bins} }}", [MAP], other=[other])
      for bins in ("bins: 6 bins: 3 bins: 2 bins: 1", "bins: 4 bins: 1 pool: AVE", "bins: 3 bin_rule: APPENDIX_A")
      for other in [(1, 3, 13, 5), (3, 3, 18, 10), (1, 3, 2, 31)]),
    *(Row("SPP", f"spp_param {{ pyramid_height: {height} pool: {pool} }}", [(2, 3, 11, 13)], other=[other])
      for height in (1, 3) for pool in ("MAX", "AVE") for other in [(1, 3, 8, 14), (3, 3, 21, 17)]),
    Row("LRN", "lrn_param { local_size: 5 alpha: 2 beta: 0.6 k: 1.5 }", [(2, 7)], other=[(3, 7)]),
    Row("LRN", "lrn_param { local_size: 3 alpha: 2 beta: 0.6 }", [(2, 7, 3)], other=[(3, 7, 4)]),
    Row("BatchNorm", "batch_norm_param { use_global_stats: true } blobs { shape { dim: 1 } data: 3 } blobs { shape { "
        "dim: 1 } data: 5 } blobs { shape { dim: 1 } data: 2 }", [(9,)], other=[(5,)]),
    Row("BatchNorm", "batch_norm_param { use_global_stats: false }", [MAP], other=[(1, 3, 4, 6)]),
    Row("MVN", "", [(4, 5)], other=[(3, 5)]),
    Row("Interp", "interp_param { zoom_factor: 3 pad_beg: -1 pad_end: -2 }", [MAP], other=[(1, 3, 9, 6)]),
    Row("Interp", "interp_param { height: 1 width: 5 }", [MAP], other=[(1, 3, 9, 6)]),
    Row("Upsample", "upsample_param { scale_h: 2 scale_w: 3 }", [MAP], other=[(1, 3, 9, 6)]),
    Row("PriorBox", "prior_box_param { min_size: 30 max_size: 60 aspect_ratio: 2 aspect_ratio: 3 flip: true clip: "
        "true variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 }", [(1, 4, 5, 7), (1, 3, 90, 130)],
        other=[(2, 4, 8, 3), (2, 3, 70, 50)]),
    Row("PriorBox", "prior_box_param { min_size: 20 aspect_ratio: 2 flip: false step: 16 offset: 0.3 img_size: 90 }",
        [(1, 4, 5, 7), (1, 3, 90, 130)], other=[(2, 4, 8, 3), (2, 3, 70, 50)]),
    Row("Slice", "slice_param { axis: 2 slice_point: 2 slice_point: 3 }", [MAP], tops=3, other=[(1, 3, 6, 4)]),
    Row("Slice", "slice_param { axis: 3 }", [MAP], tops=2, other=[(1, 3, 6, 4)]),
    Row("Reshape", "reshape_param { axis: 1 num_axes: 2 shape { dim: -1 } }", [MAP], other=[(1, 3, 6, 4)]),
    Row("Flatten", "flatten_param { axis: 0 end_axis: 1 }", [MAP], other=[(1, 3, 6, 4)]),
    Row("ArgMax", "argmax_param { top_k: 2 }", [(2, 3, 4)], labels={0: 3}, other=[(3, 3, 4)]),
    Row("Convolution", f"convolution_param {{ num_output: 2 axis: 2 kernel_size: 3 pad: 1 {GAUSS} }}", [MAP],
        other=[(3, 3, 7, 9)]),
    Row("Convolution", f"convolution_param {{ num_output: 2 axis: 0 kernel_size: 3 {GAUSS} }}", [(2, 6, 7)],
        other=[(2, 7, 4)]),
    Row("InnerProduct", f"inner_product_param {{ num_output: 4 axis: 0 {GAUSS} }}", [(2, 3)]),
]
# Not converted from their operators alone, without metadata: several operators compute them, or unknown ones, or the
# sizes vary in ways that the importer cannot determine.
ONE_WAY = {"ArgMax", "BatchReindex", "Crop", "Embed", "Filter", "Interp", "LSTM", "PSROIPooling", "PriorBox", "RNN",
           "ROIPooling", "Reorg", "SPP", "ShuffleChannel", "Threshold"}
ONE_WAY_HERE = ("STOCHASTIC", "pyramid_height: 3", "scale: 0", "axis: 2 kernel_size", "axis: 2 }", "axis: 0",
                "end_axis", "num_axes: 2", "scale_h: 5")


def exported(net):
    """An onnxruntime session of the net."""
    return onnxruntime.InferenceSession(spp_onnx.to_model(net).SerializeToString(),
                                        providers=["CPUExecutionProvider"])


def sizes(row):
    """The row's shapes, its other ones or two more rows, and one more image of both."""
    other = row.other or [(shape[0], *shape[1:2], *(size + 2 if i == 0 else size for i, size in enumerate(shape[2:])))
                          for shape in row.shapes]
    yield row.shapes
    yield other
    if row.by_image:
        yield from ([(shape[0] + 1, *shape[1:]) for shape in shapes] for shapes in (row.shapes, other))


def accepts(session, shapes):
    """Whether the file's inputs allow these sizes."""
    entries = {entry.name: entry.shape for entry in session.get_inputs()}
    return all(isinstance(dim, str) or dim == size for i, shape in enumerate(shapes)
               for dim, size in zip(entries.get(f"x{i}", shape), shape))


def case(row):
    return f"{row.id}-{row.other}".replace(" ", "")[:110]


def net_of(row):
    return Net(parse_net(row.text()), TEST, seed=3, device="cpu")


def assert_refused_by_name(row):
    """A type without an exporter, or a layer without a top, is refused with its name; others would fail here."""
    with pytest.raises(ConvertError) as caught:
        spp_onnx.to_model(net_of(row))
    if row.tops:
        assert row.type not in EXPORTERS
        assert str(caught.value).startswith(f"layer 'l' ({row.type}) cannot be expressed in ONNX: ")


def test_every_exporter_is_tested():
    assert len(EXPORTERS) >= 58, "an exporter was lost"
    assert set(EXPORTERS) <= {row.type for row in ROWS + MORE} | {"DummyData", "Parameter"}


@pytest.mark.parametrize("row", ROWS + MORE, ids=case)
def test_a_layer(row):
    def net():
        return net_of(row)

    if row.type not in EXPORTERS or not row.tops:
        assert_refused_by_name(row)
        return
    session, tried = exported(net()), 0
    for shapes in sizes(row):
        if accepts(session, shapes):
            assert_same(net(), session, {f"x{i}": row.values(i, shape).astype(np.float32)
                                         for i, shape in enumerate(shapes)})
            tried += 1
        else:
            assert shapes is not row.shapes
    if row.other and row in MORE:
        assert tried >= 2, "no other size was tried"


@pytest.mark.parametrize("row", [row for row in ROWS + MORE if row.type in EXPORTERS and row.tops], ids=case)
def test_a_layer_and_back(row, tmp_path):
    """The file's metadata returns the net exactly, and the bits of its weights."""
    net, path = net_of(row), str(tmp_path / "net.onnx")
    for blobs in net.params.values():
        for blob in blobs:
            blob.data[...] = np.random.default_rng(blob.count).uniform(0.5, 2, blob.shape)
    spp_onnx.export(net, None, path)
    param = spp_onnx.read(path)
    back = Net(param, device="cpu")
    for name, blobs in net.params.items():
        for blob, again in zip(blobs, back.params[name]):
            np.testing.assert_array_equal(again.data, blob.data)
    for layer in param.layer:
        del layer.blobs[:]
    expected = parse_net(row.text())
    for layer in expected.layer:
        del layer.blobs[:]
        if "Depthwise" in layer.type:
            layer.convolution_param.ClearField("group")     # always the number of channels
    assert param == expected


@pytest.mark.parametrize("row", [
    row for row in ROWS + MORE if row.type in EXPORTERS and row.type not in ONE_WAY and row.tops == 1
    and not any(part in row.params for part in ONE_WAY_HERE)], ids=case)
def test_a_layer_and_back_from_its_operators(row, tmp_path):
    """The importer compares what it reads with onnxruntime, at two sizes; here with the net too."""
    net = net_of(row)
    model = spp_onnx.to_model(net)
    model.metadata_props.pop()
    assert [entry.key for entry in model.metadata_props][-2:] == ["spp.prototxt", "spp.parameters"]    # no digest
    onnx.save(model, tmp_path / "net.onnx")
    back = Net(spp_onnx.read(str(tmp_path / "net.onnx")), device="cpu")
    inputs = {f"x{i}": row.values(i, shape).astype(np.float32) for i, shape in enumerate(row.shapes)}
    net.forward(**inputs)
    back.forward(**{name: x for name, x in inputs.items() if name in back.inputs})
    np.testing.assert_allclose(back.blobs["y0"].data, net.blobs["y0"].data, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("body, channels", [
    ("type: 'ROIPooling' roi_pooling_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.25 }", 3),
    ("type: 'PSROIPooling' psroi_pooling_param { output_dim: 3 group_size: 2 spatial_scale: 0.25 }", 12)])
def test_regions(body, channels):
    net = Net(parse_net(f"""
layer {{ name: 'in' type: 'Input' top: 'map' top: 'rois' input_param {{
  shape {{ dim: 2 dim: {channels} dim: 7 dim: 10 }} shape {{ dim: 4 dim: 5 }} }} }}
layer {{ name: 'pool' bottom: 'map' bottom: 'rois' top: 'bins' {body} }}"""), TEST, device="cpu")
    session, rng = exported(net), np.random.default_rng(1)
    for size, count in (((2, channels, 7, 10), 4), ((3, channels, 8, 6), 7), ((2, channels, 21, 30), 7)):
        assert_same(net, session, {"map": rng.normal(size=size).astype(np.float32),
                                   "rois": np.array(REGIONS[:count], np.float32)})


def test_a_filter_lets_another_number_through():
    net = Net(parse_net("""
layer { name: 'in' type: 'Input' top: 'x' top: 's' input_param { shape { dim: 4 dim: 3 } shape { dim: 4 } } }
layer { name: 'f' type: 'Filter' bottom: 'x' bottom: 's' top: 'some' }
layer { name: 'fc' type: 'InnerProduct' bottom: 'some' top: 'y' inner_product_param { num_output: 2 weight_filler {
type: 'xavier' } } }"""), TEST, device="cpu")
    session, x = exported(net), np.arange(12, dtype=np.float32).reshape(4, 3)
    for selector in ([1, 0, 2, 0], [0, 0, 0, 1], [1, 1, 1, 1]):
        net.forward(x=x, s=np.array(selector, np.float32))      # a Filter takes the number of rows one run late
        assert_same(net, session, {"x": x, "s": np.array(selector, np.float32)})


@pytest.mark.parametrize("row, reason", [
    (Row("SoftmaxWithLoss", "", [(4, 5), (4,)]), "layer 'l' (SoftmaxWithLoss) cannot be expressed in ONNX: a loss "
     "belongs to training; export the deploy prototxt"),
    (Row("Accuracy", "", [(6, 5), (6,)]), "a loss belongs to training"),
    (Row("DetectionOutput", "detection_output_param { num_classes: 2 }", [(2, 12), (2, 6), (1, 2, 12)]),
     "no standard operator has its rule of suppression"),
    (Row("Convolution", "convolution_param { num_output: 2 kernel_size: 4 stride: 2 }", [(1, 2, 3, 3)]),
     "its kernel is larger than the padded map of 3"),
    (Row("Silence", "", [(2, 3)], tops=0), "no layer makes an output of the net"),
    (Row("DummyData", "dummy_data_param { shape { dim: 2 } data_filler { type: 'gaussian' } }", []), "is random")],
    ids=lambda value: getattr(value, "type", ""))
def test_a_layer_without_a_standard_expression(row, reason, tmp_path):
    body = row.text() if row.shapes else f"layer {{ name: 'l' type: '{row.type}' top: 'y0' {row.params} }}"
    with pytest.raises(SppError, match=re.escape(reason)):
        spp_onnx.export(Net(parse_net(body), TEST, device="cpu"), None, str(tmp_path / "net.onnx"))
    assert not list(tmp_path.iterdir())
