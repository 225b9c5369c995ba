"""Whole nets to ONNX and back: onnxruntime and the net read from the file compute what the net computes."""
import subprocess
import sys

import numpy as np
import pytest

import golden
import opencv_nets
import public_nets
import squeezenet
from folders import ROOT
from onnx_files import assert_same
from programs import error_of, process, run
from spp.convert import onnx as spp_onnx
from spp.errors import ConvertError
from spp.layers import TRAIN
from spp.net import Net
from spp.proto.text import parse_net

onnx = pytest.importorskip("onnx", reason="needs pip install 'spp[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install 'spp[onnx]'")


def new_sequences(net):
    """Let recurrent layers begin with zeros again, as every run of an ONNX file does."""
    for layer in net.layers:
        for blob in getattr(layer, "carried", []):
            blob.data[...] = 0


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def assert_all_agree(net, path, all_inputs):
    """Export, run by onnxruntime, read back and run; returns the file's session and the net read back."""
    spp_onnx.export(net, None, str(path))
    run, back = session(path), Net(spp_onnx.read(str(path)), device="cpu")
    for inputs in all_inputs:
        new_sequences(net)
        new_sequences(back)
        expected = {name: values.copy() for name, values in net.forward(**inputs).items()}
        results = back.forward(**inputs)
        for name, output in zip(expected, run.run(list(expected), inputs)):
            assert np.ptp(expected[name]) > 0.01
            np.testing.assert_allclose(output, expected[name], rtol=0, atol=1e-4, err_msg=name)
            np.testing.assert_allclose(results[name], expected[name], rtol=0, atol=1e-4, err_msg=name)
    return run, back


@pytest.mark.parametrize("make, shapes", public_nets.CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_public_net_at_three_sizes(tmp_path, make, shapes):
    net = public_nets.build(make())
    _, back = assert_all_agree(net, tmp_path / "net.onnx", [public_nets.inputs(net, shape) for shape in shapes])
    kinds = [layer.type for layer in net.layers if layer.type != "Input"]
    assert [layer.type for layer in back.layers if layer.type != "Input"] == kinds      # not only what it computes


@pytest.mark.parametrize("name", opencv_nets.NETS)
def test_a_net_that_opencv_takes_too(tmp_path, name):
    text = opencv_nets.NETS[name]
    text = "\n".join(line for line in text.splitlines() if "DetectionOutput" not in line)
    net = opencv_nets.written(text, tmp_path)[0]
    run = onnxruntime.InferenceSession(spp_onnx.to_model(net).SerializeToString())
    n, c, h, w = net.blobs["x"].shape
    for shape in [(n, c, h, w), (n + 1, c, h, w), *([(3, c, h + 3, w + 8)] if name != "inception" else [])]:
        assert_same(net, run, {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)})


@squeezenet.needs_weights
def test_squeezenet_with_its_public_weights(tmp_path):
    net = Net(squeezenet.DEPLOY, weights=str(squeezenet.WEIGHTS), device="cpu")
    image = np.load(golden.path("squeezenet", "outputs.npz"))["image/1"].astype(np.float32) - [104, 117, 123]
    x = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)
    run, _ = assert_all_agree(net, tmp_path / "net.onnx", [
        {"data": x}, {"data": np.concatenate([x, -x])}, {"data": x[:, :, :161, :]}, {"data": x[:, :, 20:, :97]}])
    expected = np.load(golden.path("squeezenet", "outputs.npz"))["prob/1"]
    result, = run.run(["prob"], {"data": x})
    np.testing.assert_allclose(result.ravel(), expected, atol=1e-4)


def test_sizes_that_vary_and_notes(tmp_path):
    net, path = public_nets.build(public_nets.zf5_spp()), tmp_path / "net.onnx"
    spp_onnx.export(net, None, str(path), {"mean": "104 117 123", "scale": "0.017"})
    run = session(path)
    assert run.get_inputs()[0].shape == ["data_n", 3, "data_h", "data_w"]
    assert run.get_outputs()[0].shape == ["prob_0", 10]
    notes = run.get_modelmeta().custom_metadata_map
    assert {key: value for key, value in notes.items() if not key.startswith("spp.")} == {
        "mean": "104 117 123", "scale": "0.017", "input.data": "1x3x112x128"}
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", 17)} and not model.functions
    assert len(model.graph.node) < 150       # 2 n cuts a level, not n * n


def test_sizes_that_do_not_vary():
    """SLIDING is an error at some sizes, and so its map's size is fixed; a batch may still be any."""
    net = Net(parse_net("""
layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: 2 dim: 3 dim: 13 dim: 13 } } }
layer { name: 'y' type: 'SPP' bottom: 'x' top: 'y' spp_param { bins: 6 bins: 2 bin_rule: SLIDING } }"""), device="cpu")
    model = spp_onnx.to_model(net)
    assert [dim.dim_value or dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim] == [
        "x_n", 3, 13, 13]
    x = np.random.default_rng(1).normal(size=(3, 3, 13, 13)).astype(np.float32)
    result, = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    np.testing.assert_array_equal(result, net.forward(x=x)["y"])


def test_shared_weights_and_layers_in_place_are_written_once():
    net = Net(parse_net("""
layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: 2 dim: 3 dim: 8 dim: 9 } } }
layer { name: 'a' type: 'Convolution' bottom: 'x' top: 'a' param { name: 'w' } convolution_param { num_output: 3
        kernel_size: 3 pad: 1 bias_term: false weight_filler { type: 'gaussian' std: 0.5 } } }
layer { name: 'r' type: 'TanH' bottom: 'a' top: 'a' }
layer { name: 'b' type: 'Convolution' bottom: 'a' top: 'b' param { name: 'w' } convolution_param { num_output: 3
        kernel_size: 3 pad: 1 bias_term: false weight_filler { type: 'gaussian' std: 0.5 } } }
layer { name: 'd' type: 'Dropout' bottom: 'b' top: 'b' }
layer { name: 'sum' type: 'Eltwise' bottom: 'a' bottom: 'b' top: 'y' }
layer { name: 'end' type: 'ReLU' bottom: 'y' top: 'y' }"""), device="cpu")
    model = spp_onnx.to_model(net)
    assert sum(len(entry.dims) == 4 for entry in model.graph.initializer) == 1
    assert [node.name for node in model.graph.node] == ["a", "r", "b", "d", "sum", "end"]
    assert [output.name for output in model.graph.output] == ["y"]
    x = np.random.default_rng(1).normal(size=(2, 3, 8, 9)).astype(np.float32)
    result, = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    net.forward(x=x)
    np.testing.assert_allclose(result, net.blobs["y"].data, atol=1e-5)


def test_nothing_is_written_where_a_layer_is_in_the_way(tmp_path):
    (tmp_path / "net.prototxt").write_text("""
layer { name: 'x' type: 'Input' top: 'x' top: 'label' input_param { shape { dim: 4 dim: 3 } shape { dim: 4 } } }
layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'x' bottom: 'label' top: 'loss' }""")
    with pytest.raises(ConvertError, match=r"net.prototxt: layer 'loss' \(SoftmaxWithLoss\) cannot be expressed"):
        spp_onnx.export(str(tmp_path / "net.prototxt"), None, str(tmp_path / "net.onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["net.prototxt"]
    with pytest.raises(ConvertError, match="build the net in phase TEST"):
        spp_onnx.to_model(Net(str(tmp_path / "net.prototxt"), TRAIN, device="cpu"))


def test_a_data_layer_is_refused_before_it_asks_for_its_files(tmp_path):
    (tmp_path / "net.prototxt").write_text("""
layer { name: 'd' type: 'Data' top: 'x' data_param { source: 'none_lmdb' backend: LMDB batch_size: 2 } }""")
    with pytest.raises(ConvertError, match="a data layer reads files; export the deploy prototxt"):
        spp_onnx.export(str(tmp_path / "net.prototxt"), None, str(tmp_path / "net.onnx"))


@pytest.mark.parametrize("make, shapes", [case for case in public_nets.CASES
                                          if case[0] in (public_nets.zf5_spp, public_nets.lstm)],
                         ids=lambda value: getattr(value, "__name__", ""))
def test_the_program_there_and_back(tmp_path, make, shapes):
    net = public_nets.build(make())
    (tmp_path / "net.prototxt").write_text(make())
    net.save(str(tmp_path / "net.caffemodel"))
    done = process("convert_net", "--model", "net.prototxt", "--weights", "net.caffemodel", "--to", "onnx", "--output",
                   "net.onnx", "--mean", "104,117,123", "--scale", "0.5", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "Wrote net.onnx\n"), done.stderr
    done = process("convert_net", "--model", "net.onnx", "--from", "onnx", "--output", "back.prototxt", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "Wrote back.prototxt and back.caffemodel\n"), done.stderr
    run_onnx = session(tmp_path / "net.onnx")
    notes = run_onnx.get_modelmeta().custom_metadata_map
    assert (notes["mean"], notes["scale"]) == ("104,117,123", "0.5")
    back = Net(str(tmp_path / "back.prototxt"), weights=str(tmp_path / "back.caffemodel"), device="cpu")
    for shape in shapes:
        inputs = public_nets.inputs(net, shape)
        new_sequences(net)
        new_sequences(back)
        expected = net.forward(**inputs)["prob"].copy()
        result, = run_onnx.run(["prob"], inputs)
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(back.forward(**inputs)["prob"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("arguments, message", [
    ("--to torch --output net.py --mean 1", "--mean and --scale go with --to onnx; convert_weights records them in a "
     "torch file"),
    ("--from onnx --output net.prototxt --scale 1", "--mean and --scale go with --to onnx; a prototxt has "
     "transform_param for them"),
    ("--from onnx --output net.prototxt --params p", "--params goes with --from cuda-convnet"),
    ("--from onnx --output net.prototxt --shape 1,3", "--shape for an ONNX or cuda-convnet file needs the input's "
     "name: --shape data=1,3,224,224"),
    ("--from onnx --output net.prototxt", "no.onnx: cannot be read: No such file or directory")])
def test_mistakes_of_the_program(tmp_path, arguments, message):
    result = run("convert_net", "--model", "no.onnx", *arguments.split(), cwd=tmp_path)
    assert error_of(result) == f"error: {message}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["onnx.exporter.model", "onnx.importer.model"])
def test_without_the_package_one_line_names_the_extra(module):
    code = f"""import sys
sys.modules['onnx'] = None
from spp.errors import ConvertError
try:
    import spp.convert.{module}
except ConvertError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout == "this conversion needs onnx, which is not installed; pip install 'spp[onnx]'\n"
