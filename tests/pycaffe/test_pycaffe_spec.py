"""spp.pycaffe: nets written in Python (NetSpec), coordinate maps and crops, drawing."""

import numpy as np
import pytest

import spp.pycaffe as caffe
from folders import ROOT
from spp.proto import text
from spp.pycaffe import layers as L
from spp.pycaffe import params as P
from spp.pycaffe.coord_map import AxisMismatchException, coord_map_from_to, crop


def lenet(batch_size):
    n = caffe.NetSpec()
    n.data, n.label = L.DummyData(shape=[dict(dim=[batch_size, 1, 28, 28]), dict(dim=[batch_size, 1, 1, 1])],
                                  transform_param=dict(scale=1. / 255), ntop=2)
    n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20, weight_filler=dict(type="xavier"))
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.conv2 = L.Convolution(n.pool1, kernel_size=5, num_output=50, weight_filler=dict(type="xavier"))
    n.pool2 = L.Pooling(n.conv2, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool2, num_output=500, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.relu1, num_output=10, weight_filler=dict(type="xavier"))
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    return n


def unnamed_lenet(batch_size):
    data, label = L.DummyData(shape=[dict(dim=[batch_size, 1, 28, 28]), dict(dim=[batch_size, 1, 1, 1])],
                              transform_param=dict(scale=1. / 255), ntop=2)
    conv1 = L.Convolution(data, kernel_size=5, num_output=20, weight_filler=dict(type="xavier"))
    pool1 = L.Pooling(conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    conv2 = L.Convolution(pool1, kernel_size=5, num_output=50, weight_filler=dict(type="xavier"))
    pool2 = L.Pooling(conv2, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    ip1 = L.InnerProduct(pool2, num_output=500, weight_filler=dict(type="xavier"))
    relu1 = L.ReLU(ip1, in_place=True)
    ip2 = L.InnerProduct(relu1, num_output=10, weight_filler=dict(type="xavier"))
    return caffe.to_proto(L.SoftmaxWithLoss(ip2, label))


def load(proto, tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(str(proto))
    return caffe.Net(str(path), caffe.TEST)


# --- NetSpec

def test_lenet(tmp_path):
    proto = lenet(50).to_proto()
    names = ["data", "conv1", "pool1", "conv2", "pool2", "ip1", "relu1", "ip2", "loss"]
    assert [layer.name for layer in proto.layer] == names
    assert list(proto.layer[6].bottom) == list(proto.layer[6].top) == ["ip1"]
    assert list(proto.layer[7].bottom) == ["ip1"] and list(proto.layer[8].bottom) == ["ip2", "label"]
    assert proto.layer[1].convolution_param.weight_filler.type == "xavier"
    assert list(proto.layer[1].convolution_param.kernel_size) == [5]
    assert proto.layer[2].pooling_param.kernel_size == 2 and proto.layer[2].pooling_param.HasField("pool")
    assert list(proto.layer[0].top) == ["data", "label"]
    assert proto.layer[0].transform_param.scale == pytest.approx(1 / 255)
    net = load(proto, tmp_path)
    assert len(net.layers) == 9 and net.blobs["data"].shape == (50, 1, 28, 28)


def test_unnamed_tops(tmp_path):
    proto = unnamed_lenet(50)
    assert [layer.name for layer in proto.layer] == [
        "DummyData1", "Convolution1", "Pooling1", "Convolution2", "Pooling2", "InnerProduct1", "ReLU1",
        "InnerProduct2", "SoftmaxWithLoss1"]
    assert list(proto.layer[0].top) == ["DummyData1", "DummyData2"]
    assert list(proto.layer[6].bottom) == list(proto.layer[6].top) == ["InnerProduct1"]
    assert len(load(proto, tmp_path).layers) == 9


def test_no_tops(tmp_path):
    n = caffe.NetSpec()
    n.data = L.DummyData(shape=dict(dim=3))
    n.silence = L.Silence(n.data, ntop=0)
    proto = n.to_proto()
    assert [(layer.name, list(layer.top)) for layer in proto.layer] == [("data", ["data"]), ("silence", [])]
    assert load(proto, tmp_path).forward() == {}
    assert [layer.name for layer in caffe.to_proto(n.silence).layer] == ["DummyData1", "Silence1"]


def test_a_bottom_must_be_a_top():
    data = L.DummyData(ntop=2, dummy_data_param=dict(shape=dict(dim=3)))
    with pytest.raises(TypeError, match=r"^Silence input 0 is not a Top \(type is <(type|class) 'tuple'>\)$"):
        L.Silence(data, ntop=0)


def test_where_parameters_go():
    n = caffe.NetSpec()
    n["in"] = L.Input(input_param=dict(shape=[dict(dim=[1, 3, 8, 8]), dict(dim=2)]), ntop=1)
    n.conv = L.Convolution(n["in"], name="first", param=[dict(lr_mult=1, decay_mult=0), dict(lr_mult=2)],
                           convolution_param=dict(num_output=4, kernel_size=[3, 2]), include=dict(phase=caffe.TRAIN),
                           loss_weight=0.5)
    n.python = L.Python(n.conv, module="m", layer="Class", param_str="{'a': 1}")
    n.pool = L.Pooling(n.python, pool=P.Pooling.AVE, global_pooling=True)
    first, conv, python, pool = n.to_proto().layer
    assert [list(shape.dim) for shape in first.input_param.shape] == [[1, 3, 8, 8], [2]]
    assert conv.name == "first" and list(conv.top) == ["conv"] and list(conv.loss_weight) == [0.5]
    assert [(spec.lr_mult, spec.HasField("decay_mult")) for spec in conv.param] == [(1, True), (2, False)]
    assert list(conv.convolution_param.kernel_size) == [3, 2] and conv.include[0].phase == caffe.TRAIN
    assert python.python_param.layer == "Class" and python.python_param.param_str == "{'a': 1}"
    assert pool.pooling_param.pool == pool.pooling_param.AVE and pool.pooling_param.global_pooling
    assert P.Data.LMDB == 1 and P.Eltwise.SUM == 1


def test_a_message_can_be_a_value():
    filler = caffe.proto.caffe_pb2.FillerParameter(type="gaussian", std=2)
    layer = L.InnerProduct(num_output=1, weight_filler=filler).to_proto().layer[0]
    assert layer.inner_product_param.weight_filler.std == 2


def test_tops_come_and_go():
    n = caffe.NetSpec()
    n.a, n.b = L.Input(ntop=2)
    assert n["a"] is n.a and list(n.tops) == ["a", "b"]
    del n.b
    del n["a"]
    assert list(n.tops) == []
    with pytest.raises(AttributeError, match="the NetSpec has no top 'a'; its tops are none"):
        n.a
    with pytest.raises(AttributeError, match="caffe_pb2 has no PolingParameter"):
        P.Poling


@pytest.mark.parametrize("make, message", [
    (lambda: L.Convolution(num_outptu=3), r"layer 'Convolution1' \(Convolution\): unknown parameter 'num_outptu'; did "
     "you mean 'num_output'"),
    (lambda: L.Foo(num_output=3), r"layer 'Foo1' \(Foo\): unknown parameter 'num_output'; LayerParameter has no such"),
    (lambda: L.Convolution(weight_filler=dict(tpye="xavier")), "FillerParameter has no field 'tpye'; did you mean "
     "'type'"),
    (lambda: L.Convolution(num_output="many"), "ConvolutionParameter's num_output cannot be 'many'")])
def test_wrong_parameters(make, message):
    with pytest.raises(RuntimeError, match=message):
        caffe.to_proto(make())


# --- coordinate maps

def spec(ks=3, stride=1, pad=0, pool=2, dstride=2, dpad=0):
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[2, 1, 100, 100]))
    n.aux = L.Input(shape=dict(dim=[2, 1, 20, 20]))
    n.conv = L.Convolution(n.data, num_output=10, kernel_size=ks, stride=stride, pad=pad)
    n.pool = L.Pooling(n.conv, pool=P.Pooling.MAX, kernel_size=pool, stride=pool, pad=0)
    size = [2 * s for s in dstride] if isinstance(dstride, list) else 2 * dstride      # bilinear interpolation's
    n.deconv = L.Deconvolution(n.pool, num_output=10, kernel_size=size, stride=dstride, pad=dpad)
    return n


@pytest.mark.parametrize("settings, scale, shift", [
    # by hand, from the input: convolution (x + pad - 1) / stride, pooling (x - (pool - 1) / 2) / pool, then
    # deconvolution dstride x + dstride - 1 / 2 - dpad; and that turned round
    ({}, 1, 0), (dict(pool=4, dstride=4), 1, -1), (dict(ks=1, pool=4, dstride=4), 1, -2), (dict(pad=1), 1, -1),
    (dict(dpad=1), 1, 1), (dict(stride=2), 2, -1), (dict(dstride=4), 0.5, -0.25)])
def test_conv_pool_deconv(settings, scale, shift):
    n = spec(**settings)
    assert coord_map_from_to(n.deconv, n.data) == (1, scale, shift)
    assert coord_map_from_to(n.data, n.deconv) == (1, 1 / scale, -shift / scale)


@pytest.mark.parametrize("settings", [{}, dict(ks=5, stride=2, pad=2), dict(pool=3, dstride=4, dpad=1)])
def test_maps_are_those_of_centres(settings):
    """The centre of a unit's window is where the map from a convolution or pooling to its bottom says."""
    n = spec(**settings)
    _, a, b = coord_map_from_to(n.conv, n.data)
    ks, stride, pad = settings.get("ks", 3), settings.get("stride", 1), settings.get("pad", 0)
    for unit in (0, 5):
        first = unit * stride - pad
        assert a * unit + b == first + (ks - 1) / 2


def test_layers_without_coordinates_pass_through():
    n = spec()
    ax, a, b = coord_map_from_to(n.deconv, n.data)
    n.relu = L.ReLU(n.deconv)
    n.sum = L.Eltwise(n.relu, n.relu)
    assert coord_map_from_to(n.sum, n.data) == (ax, a, b)
    n.aux_relu = L.ReLU(n.aux)
    assert coord_map_from_to(n.aux_relu, n.aux) == (None, 1, 0)


def test_padding_shifts():
    n = spec()
    ax, a, b = coord_map_from_to(n.deconv, n.data)
    padded = spec(pad=4)
    # an upsampled pixel is 4 pixels further up in what was padded
    assert coord_map_from_to(padded.deconv, padded.data) == (ax, a, b - 4)


def test_a_convolution_with_several_tops():
    n = spec()
    n.data2 = L.Input()
    one, two = L.Convolution(n.data, n.data2, kernel_size=3, stride=2, ntop=2)
    for top in (one, two):
        assert coord_map_from_to(top, n.data) == (1, 2, 1)


def test_sides_of_their_own():
    n = spec(ks=[3, 5], pad=[0, 2], pool=[2, 4], dstride=[2, 4])
    axis, a, b = coord_map_from_to(n.deconv, n.data)
    assert axis == 1 and (a == 1).all()
    for side, one in ((0, spec(ks=3, pad=0, pool=2, dstride=2)), (1, spec(ks=5, pad=2, pool=4, dstride=4))):
        assert b[side] == coord_map_from_to(one.deconv, one.data)[2]


def test_three_spatial_axes_and_another_axis():
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[2, 3, 9, 9, 9]))
    n.conv = L.Convolution(n.data, kernel_size=[3, 3, 3], stride=[1, 1, 1], pad=[0, 1, 2], num_output=1)
    n.later = L.Convolution(n.data, kernel_size=3, axis=2, num_output=1)
    axis, a, b = coord_map_from_to(n.conv, n.data)
    assert axis == 1 and (a == 1).all() and b.tolist() == [1, 0, -1]
    with pytest.raises(AxisMismatchException, match="axes 1 and 2"):
        coord_map_from_to(n.later, n.conv)


def test_crops():
    n = spec()
    n.crop = crop(n.deconv, n.data)
    assert n.crop.fn.params["crop_param"] == {"axis": 2, "offset": [0]}
    wide = spec(pad=3)
    wide.crop = crop(wide.deconv, wide.data)
    assert wide.crop.fn.type_name == "Crop" and wide.crop.fn.params["crop_param"]["offset"] == [3]
    # a crop of a crop: what is left to cut is nothing
    assert coord_map_from_to(wide.crop, wide.data) == (1, 1, 0)
    again = crop(wide.crop, wide.data)
    assert again.fn.params["crop_param"] == {"axis": 2, "offset": [0]}
    offset = L.Crop(wide.data, wide.aux, offset=[5, 7], axis=2)
    assert [np.atleast_1d(v).tolist() for v in coord_map_from_to(wide.data, offset)] == [[1], [1], [-5, -7]]


def test_what_cannot_be_mapped():
    n = spec()
    n.ip = L.InnerProduct(n.deconv, num_output=10)
    for top, bottom in ((n.ip, n.data), (n.aux, n.data)):
        with pytest.raises(RuntimeError, match="are they connected by spatial layers"):
            coord_map_from_to(top, bottom)


@pytest.mark.parametrize("settings, message", [
    (dict(dstride=4), r"scale mismatch on crop \(scale \[0.5\]\)"),
    (dict(ks=5), r"cannot crop at a negative offset \(\[-1.0\]\)"),
    (dict(ks=4, pad=4), "no whole number")])
def test_what_cannot_be_cropped(settings, message):
    n = spec(**settings)
    with pytest.raises(AssertionError, match=message):
        crop(n.deconv, n.data)


@pytest.mark.parametrize("params", [dict(kernel_h=3, kernel_w=2), dict(global_pooling=True)])
def test_fields_that_maps_do_not_take(params):
    n = spec()
    with pytest.raises(AssertionError, match="coordinate maps need kernel_size, stride and pad"):
        coord_map_from_to(L.Pooling(n.data, **params), n.data)


# --- drawing

NET = """
name: 'a "net"'
layer { name: 'data' type: 'Data' top: 'data' data_param { batch_size: 64 source: 'x' } include { phase: TRAIN } }
layer { name: 'data' type: 'Input' top: 'data' include { phase: TEST } }
layer { name: 'conv' type: 'Convolution' bottom: 'data' top: 'conv' param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 96 kernel_size: 11 stride: 4 } }
layer { name: 'relu' type: 'ReLU' bottom: 'conv' top: 'conv' }
layer { name: 'pool' type: 'Pooling' bottom: 'conv' top: 'pool'
  pooling_param { pool: AVE kernel_h: 3 kernel_w: 2 pad: 1 } }
layer { name: 'ip' type: 'InnerProduct' bottom: 'pool' top: 'ip' inner_product_param { num_output: 10 } }
"""


def test_graph():
    dot = caffe.draw.get_pydot_graph(text.parse_net(NET), "TB", phase=caffe.TRAIN, display_lrm=True).to_string()
    lines = dot.splitlines()
    assert lines[:2] == [r'digraph "a \"net\"" {', "  rankdir=TB;"] and lines[-1] == "}"
    assert ('  layer_1 [shape=box, fillcolor="#f4a582", label="conv\\nConvolution 96\\nkernel 11, stride 4\\n'
            'lr_mult 1, 2"];') in lines
    assert '  layer_3 [shape=box, fillcolor="#fddbc7", label="pool\\nPooling AVE\\nkernel 3x2, pad 1"];' in lines
    assert '  layer_0 -> "blob_data" [label="batch 64"];' in lines
    assert '  layer_1 -> layer_2 [label="96"];' in lines and '  layer_2 -> "blob_conv";' in lines
    assert '  layer_4 -> "blob_ip" [label="10"];' in lines
    assert '  "blob_data" [shape=ellipse, fillcolor="#f0f0f0", label="data"];' in lines
    assert dot.count("ellipse") == 4 and "Input" not in dot
    both = caffe.draw.get_pydot_graph(text.parse_net(NET), "LR", label_edges=False).to_string()
    assert "data\\nData" in both and "data\\nInput" in both and "batch 64" not in both and "lr_mult" not in both


@pytest.mark.parametrize("path", [path for folder in ("prototxt", "tests/golden/squeezenet")
                                  for path in sorted((ROOT / folder).glob("*.prototxt"))
                                  if "solver" not in path.name], ids=lambda path: path.stem)
def test_every_net_can_be_drawn(path):
    net = text.read_net(path)
    dot = caffe.draw.draw_net(net, "LR", "dot").decode()
    assert dot.count("shape=box") == len(net.layer)
    assert dot.count("shape=ellipse") == len({name for layer in net.layer for name in layer.top})


def test_draw_to_a_file(tmp_path):
    net = text.parse_net(NET)
    path = tmp_path / "net.dot"
    caffe.draw.draw_net_to_file(net, str(path), "BT", caffe.TEST)
    assert path.read_bytes() == caffe.draw.draw_net(net, "BT", "dot", caffe.TEST)
    assert path.read_text().startswith("digraph")


@pytest.mark.parametrize("call, message", [
    (lambda net: caffe.draw.draw_net(net, "UP"), "rankdir must be LR, TB, RL or BT, found 'UP'"),
    (lambda net: caffe.draw.draw_net_to_file(net, "picture"), "must end in the format"),
    (lambda net: caffe.draw.draw_net(net, "LR"), "needs Graphviz's program 'dot'")])
def test_what_cannot_be_drawn(call, message, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match=message):
        call(text.parse_net(NET))


def test_drawing_by_graphviz(tmp_path, monkeypatch):
    """A stand-in for the program prints its arguments, and fails for the format `bad`."""
    program = tmp_path / "dot"
    program.write_text('#!/bin/sh\n[ "$1" = -Tbad ] && { echo "no such format" >&2; exit 1; }\necho "$1"; /bin/cat\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    net = text.parse_net(NET)
    dot = caffe.draw.draw_net(net, "LR", "svg")
    assert dot == b"-Tsvg\n" + caffe.draw.draw_net(net, "LR", "dot")
    with pytest.raises(RuntimeError, match="dot -Tbad failed: no such format"):
        caffe.draw.draw_net(net, "LR", "bad")
