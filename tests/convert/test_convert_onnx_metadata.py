"""The net in an ONNX file's metadata: it comes back exactly, with edited weights, and not if the graph was changed."""
import logging

import numpy as np
import pytest

import public_nets
from programs import process
from spp.convert import onnx as spp_onnx
from spp.errors import ConvertError
from spp.net import Net
from spp.proto.text import parse_net, read_net

onnx = pytest.importorskip("onnx", reason="needs pip install 'spp[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install 'spp[onnx]'")

SMALL = """
name: 'small'
layer { name: 'data' type: 'Input' top: 'x' input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }
layer { name: 'conv' type: 'Convolution' bottom: 'x' top: 'conv' convolution_param { num_output: 4 kernel_size: 3
        weight_filler { type: 'gaussian' std: 0.5 } } }
layer { name: 'relu' type: 'ReLU' bottom: 'conv' top: 'conv' relu_param { negative_slope: 0.25 } }
layer { name: 'bn' type: 'BatchNorm' bottom: 'conv' top: 'bn' }
layer { name: 'scale' type: 'Scale' bottom: 'bn' top: 'bn' scale_param { bias_term: true } }
layer { name: 'norm' type: 'LRN' bottom: 'bn' top: 'norm' lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL } }
layer { name: 'sum' type: 'Eltwise' bottom: 'norm' bottom: 'bn' top: 'sum' }
layer { name: 'fc' type: 'InnerProduct' bottom: 'sum' top: 'fc' inner_product_param { num_output: 5 axis: 3
        weight_filler { type: 'gaussian' std: 0.5 } } }
"""


def without_weights(param):
    for layer in param.layer:
        del layer.blobs[:]
    return param


def assert_same_bits(net, other):
    assert list(net.params) == list(other.params)
    for name, blobs in net.params.items():
        for blob, again in zip(blobs, other.params[name]):
            assert blob.shape == again.shape and blob.data.tobytes() == again.data.tobytes(), name


def small():
    net = Net(parse_net(SMALL), device="cpu", seed=1)
    for blob, value in zip(net.params["bn"], (3.3, 7.7, 11.1)):
        blob.data[...] = value
    return net


def edited(change, read=spp_onnx.read, path=None):
    """The net read after `change` has edited the model of the small net."""
    model = spp_onnx.to_model(small())
    change(model)
    onnx.save(model, path)
    return read(path)


def initializer(model, name):
    return next(entry for entry in model.graph.initializer if entry.name == name)


def set_values(entry, values):
    entry.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), entry.name))


@pytest.mark.parametrize("make", [case[0] for case in public_nets.CASES], ids=lambda make: make.__name__)
def test_a_public_net_comes_back_exactly(tmp_path, make):
    net = public_nets.build(make())
    spp_onnx.convert(export(net, tmp_path), str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel"))
    assert_same_bits(net, Net(str(tmp_path / "net.prototxt"), weights=str(tmp_path / "net.caffemodel"), device="cpu"))
    assert read_net(str(tmp_path / "net.prototxt")) == without_weights(parse_net(make()))


def export(net, folder):
    spp_onnx.export(net, None, str(folder / "net.onnx"))
    return str(folder / "net.onnx")


def test_layers_of_the_phase_with_their_rules_and_names(tmp_path):
    text = SMALL + """
layer { name: 'a' type: 'Sigmoid' bottom: 'fc' top: 'y' include { phase: TEST } }
layer { name: 'b' type: 'TanH' bottom: 'fc' top: 'z' include { stage: 'deploy' } }
layer { name: 'c' type: 'TanH' bottom: 'fc' top: 'z' include { phase: TRAIN } }"""
    param = spp_onnx.read(export(Net(parse_net(text), device="cpu"), tmp_path))
    assert [layer.name for layer in param.layer][-1] == "a" and param.layer[-1].include[0].phase == 1
    param = spp_onnx.read(export(Net(parse_net(text), stages=["deploy"], device="cpu"), tmp_path))
    assert Net(param, device="cpu").outputs == ["y", "z"] and not param.layer[-1].include


def test_edited_weights_count(tmp_path):
    def change(model):
        set_values(initializer(model, "conv.bias"), np.array([1, 2, 3, 4]))
        set_values(initializer(model, "fc.weight"), np.arange(30).reshape(6, 5))
        set_values(initializer(model, "bn.mean"), np.array([1, 2, 3, 4]))

    net = Net(edited(change, path=str(tmp_path / "net.onnx")), device="cpu")
    assert net.params["conv"][1].data.tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(net.params["fc"][0].data, np.arange(30).reshape(6, 5).T)
    np.testing.assert_array_equal(net.params["conv"][0].data, small().params["conv"][0].data)
    mean, variance, weight = (blob.data for blob in net.params["bn"])
    np.testing.assert_allclose(mean / weight, [1, 2, 3, 4])
    np.testing.assert_allclose(variance / weight, 7.7 / 11.1, rtol=1e-6)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    x = np.random.default_rng(1).normal(size=(2, 3, 9, 8)).astype(np.float32)
    np.testing.assert_allclose(net.forward(x=x)["fc"], session.run(None, {"x": x})[0], atol=1e-4)


def other_slope(model):
    next(node for node in model.graph.node if node.op_type == "LeakyRelu").attribute[0].f = 0.5


def other_constant(model):
    power = next(node for node in model.graph.node if node.op_type == "Pow")
    set_values(initializer(model, power.input[1]), np.array(0.5))


def one_node_less(model):
    relu = next(node for node in model.graph.node if node.op_type == "LeakyRelu")
    for node in model.graph.node:
        node.input[:] = [relu.input[0] if name == relu.output[0] else name for name in node.input]
    model.graph.node.remove(relu)


def other_prototxt(model):
    entry = next(entry for entry in model.metadata_props if entry.key == "spp.prototxt")
    entry.value = entry.value.replace("negative_slope: 0.25", "negative_slope: 0.75")


def no_prototxt(model):
    model.metadata_props.remove(next(entry for entry in model.metadata_props if entry.key == "spp.prototxt"))


def one_attribute_more(model):
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.attribute.append(onnx.helper.make_attribute("auto_pad", "NOTSET"))


@pytest.mark.parametrize("change", [other_slope, other_constant, one_node_less, other_prototxt, no_prototxt,
                                    one_attribute_more], ids=lambda change: change.__name__)
def test_a_changed_graph_is_read_from_its_operators(tmp_path, caplog, change):
    with caplog.at_level(logging.WARNING, "spp.convert"):
        net = Net(edited(change, path=str(tmp_path / "net.onnx")), device="cpu")
    assert "was changed after spp wrote the file" in caplog.text
    x = np.random.default_rng(1).normal(size=(2, 3, 9, 8)).astype(np.float32)
    expected, = onnxruntime.InferenceSession(str(tmp_path / "net.onnx")).run(None, {"x": x})
    np.testing.assert_allclose(net.forward(x=x)["fc"], expected, atol=1e-4)
    assert len(net.layers) > len(small().layers)       # LRN within a channel is several layers now


def test_a_file_that_onnxruntime_optimized(tmp_path, caplog):
    path, options = export(small(), tmp_path), onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = onnxruntime.InferenceSession(path, options)
    x = np.random.default_rng(1).normal(size=(2, 3, 9, 8)).astype(np.float32)
    net = Net(spp_onnx.read(str(tmp_path / "optimized.onnx"), {"x": (2, 3, 9, 8)}), device="cpu")
    np.testing.assert_allclose(net.forward(x=x)["fc"], session.run(None, {"x": x})[0], atol=1e-4)


def test_edited_weights_of_a_parameter_in_two_shapes(tmp_path):
    """The net has one parameter, and the edited file two: it is read from its operators."""
    text = """
layer { name: 'data' type: 'Input' top: 'x' input_param { shape { dim: 2 dim: 4 } } }
layer { name: 'a' type: 'InnerProduct' bottom: 'x' top: 'a' param { name: 'w' } inner_product_param { num_output: 3
        bias_term: false weight_filler { type: 'gaussian' std: 0.5 } } }
layer { name: 'b' type: 'InnerProduct' bottom: 'a' top: 'b' param { name: 'w' share_mode: PERMISSIVE }
        inner_product_param { num_output: 4 bias_term: false } }"""
    model = spp_onnx.to_model(Net(parse_net(text), device="cpu"))
    onnx.save(model, str(tmp_path / "net.onnx"))
    assert without_weights(spp_onnx.read(str(tmp_path / "net.onnx"))) == parse_net(text)
    set_values(initializer(model, "b.weight"), np.arange(12).reshape(4, 3))
    onnx.save(model, str(tmp_path / "net.onnx"))
    net = Net(spp_onnx.read(str(tmp_path / "net.onnx")), device="cpu")
    assert net.params["b"][0].data.ravel().tolist() == list(range(12)) and np.ptp(net.params["a"][0].data) < 5


@pytest.mark.parametrize("make, message", [
    (public_nets.zf5_spp, "node 'spp/Slice' \\(Slice\\): what it cuts off varies with the sizes of the input"),
    (public_nets.lstm, "node '.*' \\(Scan\\): operators that contain a graph cannot be converted")])
def test_a_changed_graph_whose_operators_are_no_layers_is_refused(tmp_path, make, message):
    model = spp_onnx.to_model(public_nets.build(make()))
    model.graph.node[-1].name = "other"
    onnx.save(model, str(tmp_path / "net.onnx"))
    with pytest.raises(ConvertError, match=message):
        spp_onnx.read(str(tmp_path / "net.onnx"))


def test_sizes_that_the_caller_gives(tmp_path):
    path = export(public_nets.build(public_nets.zf5_spp()), tmp_path)
    assert Net(spp_onnx.read(path, {"data": (2, 3, 99, 75)}), device="cpu").blobs["data"].shape == (2, 3, 99, 75)
    with pytest.raises(ConvertError, match="input 'data' is \\? x 3 x \\? x \\?; give its sizes"):
        spp_onnx.read(path, {"data": (2, 4, 99, 75)})
    with pytest.raises(ConvertError, match="no input 'z'; the inputs are data"):
        spp_onnx.read(path, {"z": (1,)})


def test_the_program_returns_the_prototxt_and_the_caffemodel(tmp_path):
    net = small()
    (tmp_path / "net.prototxt").write_text(SMALL)
    net.save(str(tmp_path / "net.caffemodel"))
    for arguments in ("--model net.prototxt --weights net.caffemodel --to onnx --output net.onnx",
                      "--model net.onnx --from onnx --output back.prototxt"):
        done = process("convert_net", *arguments.split(), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert read_net(str(tmp_path / "back.prototxt")) == parse_net(SMALL)
    back = Net(str(tmp_path / "back.prototxt"), weights=str(tmp_path / "back.caffemodel"), device="cpu")
    assert_same_bits(net, back)
