"""ONNX graphs read: the net computes what onnxruntime computes, or the node that is in the way is named."""
import re

import numpy as np
import pytest

from spp.convert import onnx as spp_onnx
from spp.errors import ConvertError
from spp.net import Net

onnx = pytest.importorskip("onnx", reason="needs pip install 'spp[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install 'spp[onnx]'")

MAP = (2, 3, 7, 10)


def model(body, opset=17, **tensors):
    """A model of nodes in ONNX's text form, with output y; tuples are inputs, lists weights' shapes, arrays values."""
    rng = np.random.default_rng(3)
    inputs = ", ".join(f"float[{', '.join(map(str, shape))}] {name}" for name, shape in tensors.items()
                       if isinstance(shape, tuple))
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => (y) '
                                    f"{{ {body} }}")
    for name, value in tensors.items():
        if not isinstance(value, tuple):
            array = rng.uniform(0.3, 1.7, value).astype(np.float32) if isinstance(value, list) else value
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return onnx.shape_inference.infer_shapes(proto)


def assert_agree(proto, path, shapes=(None,), input_shapes=None):
    """Compare the imported net with onnxruntime, at several sizes of the first input; returns the net."""
    onnx.save(proto, path)
    net = Net(spp_onnx.read(path, input_shapes), device="cpu")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(5)
    for shape in shapes:
        inputs = {name: rng.normal(0, 1.5, net.blobs[name].shape).astype(np.float32) for name in net.inputs}
        if shape is not None:
            inputs[net.inputs[0]] = rng.normal(0, 1.5, shape).astype(np.float32)
        results = net.forward(**inputs)
        assert sorted(results) == sorted(output.name for output in session.get_outputs())
        for name, expected in zip(results, session.run(list(results), inputs)):
            assert results[name].shape == expected.shape
            assert np.isfinite(expected).all()
            np.testing.assert_allclose(results[name], expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))
    return net


def types(net):
    return [layer.type for layer in net.layers if layer.type not in ("Input", "Split")]


ONES = np.ones(3, np.float32)
PADDED = "p = Pad (x, pads)\n"
AROUND = np.array([0, 0, 1, 2, 0, 0, 1, 2], np.int64)
INT = np.array
CASES = [
    ("y = Conv <pads=[1,2,1,2], strides=[2,1]> (x, w, b)", dict(x=MAP, w=[4, 3, 3, 2], b=[4]), "Convolution"),
    ("y = Conv <group=3, dilations=[2,2]> (x, w)", dict(x=MAP, w=[6, 1, 3, 3]), "Convolution"),
    ("y = Conv <auto_pad=\"SAME_UPPER\"> (x, w)", dict(x=MAP, w=[4, 3, 3, 3]), "Convolution"),
    ("y = Conv <pads=[1,1,0,0], strides=[2,2]> (x, w)", dict(x=MAP, w=[4, 3, 4, 3]), "Convolution"),
    (PADDED + "y = Conv <pads=[1,0,1,0]> (p, w)", dict(x=MAP, w=[4, 3, 3, 3], pads=AROUND), "Convolution"),
    ("y = Conv <pads=[1,1]> (x, w)", dict(x=(2, 3, 9), w=[4, 3, 3]), "Convolution"),
    ("y = ConvTranspose <strides=[2,2], pads=[1,1,1,1], group=3> (x, w, b)", dict(x=MAP, w=[3, 2, 4, 4], b=[6]),
     "Deconvolution"),
    ("y = Gemm <transB=1, alpha=0.5, beta=2.0> (x, w, b)", dict(x=(2, 5), w=[4, 5], b=[4]), "InnerProduct"),
    ("f = Flatten (x)\ny = Gemm (f, w)", dict(x=MAP, w=[210, 4]), "InnerProduct"),
    ("m = MatMul (x, w)\ny = Add (m, b)", dict(x=(2, 3, 5), w=[5, 4], b=[4]), "InnerProduct"),
    ("y = MatMul (x, w)", dict(x=(2, 5), w=[5, 4]), "InnerProduct"),
    ("y = Relu (x)", dict(x=MAP), "ReLU"), ("y = LeakyRelu <alpha=0.3> (x)", dict(x=MAP), "ReLU"),
    ("y = PRelu (x, s)", dict(x=MAP, s=[3, 1, 1]), "PReLU"), ("y = PRelu (x, s)", dict(x=MAP, s=[1]), "PReLU"),
    ("y = Clip (x, a, b)", dict(x=MAP, a=INT(-.5, np.float32), b=INT(6, np.float32)), "Clip"),
    ("y = Clip (x, a)", dict(x=MAP, a=INT(0, np.float32)), "ReLU"),
    ("y = Sigmoid (x)", dict(x=MAP), "Sigmoid"), ("y = Tanh (x)", dict(x=MAP), "TanH"),
    ("y = Abs (x)", dict(x=MAP), "AbsVal"), ("y = Softplus (x)", dict(x=MAP), "BNLL"),
    ("y = Elu <alpha=0.7> (x)", dict(x=MAP), "ELU"), ("y = Exp (x)", dict(x=MAP), "Exp"),
    ("a = Abs (x)\nb = Add (a, c)\nd = Log (b)\ne = Sqrt (d)\nf = Neg (e)\ny = Identity (f)", dict(
        x=MAP, c=INT(1.5, np.float32)), "AbsVal Power Log Power Power"),
    ("y = Dropout (x)", dict(x=MAP), "Dropout"),
    ("y = Softmax <axis=2> (x)", dict(x=MAP), "Softmax"), ("y = Softmax (x)", dict(x=(2, 5)), "Softmax"),
    ("y = MaxPool <kernel_shape=[3,2], strides=[2,2]> (x)", dict(x=MAP), "Pooling"),
    ("y = MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1> (x)", dict(x=MAP), "Pooling"),
    ("y = MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[0,0,1,1]> (x)", dict(x=(2, 3, 8, 10)), "Pooling"),
    ("r = Relu (x)\np = Pad (r, pads)\ny = MaxPool <kernel_shape=[3,3]> (p)", dict(x=MAP, pads=AROUND),
     "ReLU Pooling"),
    ("y = AveragePool <kernel_shape=[3,3], strides=[2,2], ceil_mode=1> (x)", dict(x=(2, 3, 8, 10)), "Pooling"),
    ("y = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1> (x)", dict(x=MAP), "Pooling"),
    (PADDED + "y = AveragePool <kernel_shape=[3,3]> (p)", dict(x=MAP, pads=AROUND), "Pooling"),
    ("y = GlobalAveragePool (x)", dict(x=MAP), "Pooling"), ("y = GlobalMaxPool (x)", dict(x=MAP), "Pooling"),
    ("y = ReduceMean <axes=[2,3]> (x)", dict(x=MAP), "Pooling"),
    ("y = ReduceMean <axes=[2,3], keepdims=0> (x)", dict(x=MAP), "Pooling Flatten"),
    ("y = ReduceMean <axes=[1]> (x)", dict(x=MAP), "Permute Reduction Reshape"),
    ("y = ReduceL1 <axes=[2,3], keepdims=0> (x)", dict(x=MAP), "Reduction"),
    ("y = LRN <size=3, alpha=2.0, beta=0.6, bias=1.5> (x)", dict(x=(2, 7, 3, 4)), "LRN"),
    ("y = BatchNormalization <epsilon=0.1> (x, a, b, m, v)", dict(x=MAP, a=[3], b=[3], m=[3], v=[3]),
     "BatchNorm Scale"),
    ("y = BatchNormalization (x, a, b, m, v)", dict(x=MAP, a=ONES, b=0 * ONES, m=[3], v=[3]), "BatchNorm"),
    ("y = Add (x, z)", dict(x=MAP, z=MAP), "Eltwise"), ("y = Sub (x, z)", dict(x=MAP, z=MAP), "Eltwise"),
    ("y = Mul (x, x)", dict(x=MAP), "Eltwise"), ("y = Sum (x, z, x)", dict(x=MAP, z=MAP), "Eltwise"),
    ("y = Max (x, z)", dict(x=MAP, z=MAP), "Eltwise"),
    ("e = Exp (z)\ny = Div (x, e)", dict(x=MAP, z=MAP), "Exp Power Eltwise"),
    ("y = Max (x, c)", dict(x=MAP, c=INT(0.2, np.float32)), "Clip"),
    ("y = Mul (x, c)", dict(x=MAP, c=INT(2.5, np.float32)), "Power"), ("y = Sub (c, x)", dict(x=MAP, c=[1]), "Power"),
    ("e = Exp (x)\ny = Div (c, e)", dict(x=MAP, c=[1]), "Exp Power Power"),
    ("a = Exp (x)\ny = Pow (a, c)", dict(x=MAP, c=INT(1.5, np.float32)), "Exp Power"),
    ("m = Mul (x, a)\ny = Add (m, b)", dict(x=MAP, a=[3, 1, 1], b=[1, 3, 1, 1]), "Scale"),
    ("y = Div (x, a)", dict(x=MAP, a=[7, 10]), "Scale"), ("y = Sub (x, a)", dict(x=MAP, a=[10]), "Bias"),
    ("s = Sigmoid (z)\ny = Mul (x, s)", dict(x=MAP, z=(2, 3, 1, 1)), "Sigmoid Reshape Reshape Scale"),
    ("y = Add (z, x)", dict(x=MAP, z=(2, 1, 7, 10)), "Tile Bias"),
    ("y = Sub (x, z)", dict(x=MAP, z=(3, 1, 10)), "Power Tile Bias"),
    ("y = Concat <axis=-1> (x, z)", dict(x=MAP, z=(2, 3, 7, 1)), "Concat"),
    ("a, b = Split <axis=2> (x, n)\ny = Concat <axis=2> (b, a)", dict(x=MAP, n=INT([3, 4])), "Slice Concat"),
    ("y = Slice (x, s, e, a)", dict(x=MAP, s=INT([1, 0]), e=INT([5, -1]), a=INT([2, 3])),
     "Slice Silence Slice Silence"),
    ("y = Flatten (x)", dict(x=MAP), "Flatten"), ("y = Flatten <axis=2> (x)", dict(x=MAP), "Flatten Flatten"),
    ("y = Reshape (x, s)", dict(x=MAP, s=INT([0, -1])), "Flatten"),
    ("y = Reshape (x, s)", dict(x=MAP, s=INT([2, 3, 35, 2])), "Reshape"),
    ("y = Transpose <perm=[0,2,3,1]> (x)", dict(x=MAP), "Permute"),
    ("u = Unsqueeze (x, a)\nr = Relu (u)\ny = Squeeze (r, a)", dict(x=MAP, a=INT([1, 3])),
     "Reshape Reshape ReLU Reshape Reshape"),
    ("n = Shape (x)\nb = Gather (n, zero)\nu = Unsqueeze (b, zero)\nt = Concat <axis=0> (u, rest)\n"
     "y = Reshape (x, t)", dict(x=MAP, zero=INT([0])[0].reshape(()), rest=INT([-1, 5])), "Reshape"),
    ("y = Resize <mode=\"nearest\", coordinate_transformation_mode=\"asymmetric\", nearest_mode=\"floor\"> (x, , s)",
     dict(x=MAP, s=INT([1, 1, 2, 3], np.float32)), "Upsample"),
    ("y = Resize <mode=\"linear\", coordinate_transformation_mode=\"align_corners\"> (x, , , s)",
     dict(x=MAP, s=INT([2, 3, 11, 13])), "Interp"),
]


@pytest.mark.parametrize("body, tensors, expected", CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_an_operator(tmp_path, body, tensors, expected):
    if "zero" in tensors:       # Unsqueeze needs a list of axes
        body = body.replace("Unsqueeze (b, zero)", "Unsqueeze (b, first)")
        tensors = {**tensors, "first": INT([0])}
    net = assert_agree(model(body, **tensors), str(tmp_path / "net.onnx"))
    assert types(net) == expected.split()


@pytest.mark.parametrize("body, tensors, expected", [
    ("y = Clip <min=0.0, max=6.0> (x)", dict(x=MAP), "Clip"), ("y = Dropout <ratio=0.3> (x)", dict(x=MAP), "Dropout"),
    ("y = Squeeze <axes=[2]> (x)", dict(x=(2, 3, 1)), "Reshape"), ("y = Softmax (x)", dict(x=(2, 5)), "Softmax"),
    ("y = Slice <starts=[1], ends=[3], axes=[1]> (x)", dict(x=MAP), "Slice Silence")])
def test_operators_of_old_opsets(tmp_path, body, tensors, expected):
    net = assert_agree(model(body, opset=9, **tensors), str(tmp_path / "net.onnx"))
    assert types(net) == expected.split()


def test_sizes_that_the_file_leaves_open(tmp_path):
    path = str(tmp_path / "net.onnx")
    proto = model("c = Conv (x, w)\ny = MaxPool <kernel_shape=[2,2], strides=[2,2], pads=[0,0,0,0]> (c)",
                  x=("n", 3, "h", "v"), w=[4, 3, 3, 3])
    net = assert_agree(proto, path, [(2, 3, 9, 12), (1, 3, 8, 7)], {"x": (1, 3, 6, 8)})
    assert net.layers[-1].param.pooling_param.round_mode == 1      # 6 x 8 alone does not determine it
    with pytest.raises(ConvertError, match=re.escape("input 'x' is ? x 3 x ? x ?; give its sizes (as x=1,3,224,224)")):
        spp_onnx.read(path)
    with pytest.raises(ConvertError, match="no input 'z'; the inputs are x"):
        spp_onnx.read(path, {"z": (1,)})
    with pytest.raises(ConvertError, match="input 'x' is"):
        spp_onnx.read(path, {"x": (1, 4, 6, 8)})


REFUSED = [
    ("y = Einsum <equation=\"ij->ji\"> (x)", dict(x=(2, 3)), "(Einsum): no layer type is known to compute this"),
    ("y = Conv <pads=[0,0,1,1]> (x, w)", dict(x=MAP, w=[4, 3, 3, 3]), "pads [0, 0, 1, 1] differ before and after"),
    ("y = Conv (x, z)", dict(x=MAP, z=(4, 3, 3, 3)), "its weights 'z' are computed from the inputs"),
    ("y = ConvTranspose <output_padding=[1,1], strides=[2,2]> (x, w)", dict(x=MAP, w=[3, 2, 3, 3]),
     "Caffe's Deconvolution has no output_padding"),
    ("y = MaxPool <kernel_shape=[2,2], dilations=[2,2]> (x)", dict(x=MAP), "has no dilations, found [2, 2]"),
    ("y = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1]> (x)", dict(x=MAP), "leaves the padding out"),
    (PADDED + "y = MaxPool <kernel_shape=[3,3]> (p)", dict(x=MAP, pads=AROUND), "the Pad before it, with 0, cannot"),
    (PADDED + "y = Relu (p)", dict(x=MAP, pads=AROUND), "reads a padded map"),
    ("p = Pad <mode=\"reflect\"> (x, pads)\ny = Relu (p)", dict(x=MAP, pads=AROUND), "mode 'reflect'"),
    ("y = LRN <size=4> (x)", dict(x=MAP), "an odd local_size, found size 4"),
    ("y = Gemm <transA=1> (x, w)", dict(x=(2, 5), w=[2, 4]), "transA transposes the batch"),
    ("y = MatMul (x, z)", dict(x=(2, 5), z=(5, 2)), "its weights 'z' are computed from the inputs"),
    ("y = PRelu (x, s)", dict(x=MAP, s=[7, 10]), "one slope, or one per channel; found (7, 10)"),
    ("y = Slice (x, s, e, a, t)", dict(x=MAP, s=INT([0]), e=INT([7]), a=INT([2]), t=INT([2])), "found steps [2]"),
    ("y = Min (x, z)", dict(x=MAP, z=MAP), "SUM, PROD and MAX of arrays of one shape"),
    ("y = Pow (x, z)", dict(x=MAP, z=MAP), "only one constant number can be the exponent"),
    ("y = ReduceMax <axes=[2]> (x)", dict(x=MAP), "whole or in windows, found axes [2]"),
    ("y = Add (x, z)", dict(x=(2, 1, 4), z=(1, 3, 4)), "are both repeated"),
    ("y = Resize <mode=\"cubic\"> (x, , s)", dict(x=MAP, s=INT([1, 1, 2, 2], np.float32)), "mode cubic"),
    ("n = NonZero (x)\ny = Cast <to=1> (n)", dict(x=MAP), "depends on values"),
    ("y, e, f = BatchNormalization <training_mode=1> (x, a, b, m, v)", dict(x=MAP, a=[3], b=[3], m=[3], v=[3]),
     "only the form for inference")]


@pytest.mark.parametrize("body, tensors, reason", REFUSED, ids=[row[0][:40] for row in REFUSED])
def test_a_node_in_the_way_is_named_and_nothing_written(tmp_path, body, tensors, reason):
    path = tmp_path / "net.onnx"
    onnx.save(model(body, **tensors), path)
    with pytest.raises(ConvertError, match=re.escape(reason)) as caught:
        spp_onnx.convert(str(path), str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel"))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


def test_files(tmp_path):
    path, prototxt, weights = (str(tmp_path / name) for name in ("net.onnx", "net.prototxt", "net.caffemodel"))
    onnx.save(model("c = Conv (x, w, b)\ny = Relu (c)", x=MAP, w=[4, 3, 3, 3], b=[4]), path)
    spp_onnx.convert(path, prototxt, weights)
    x = np.random.default_rng(1).normal(size=MAP).astype(np.float32)
    expected, = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    result = Net(prototxt, weights=weights, device="cpu").forward(x=x)["y"]
    np.testing.assert_allclose(result, expected, atol=1e-4)
    assert "blobs" not in (tmp_path / "net.prototxt").read_text()


@pytest.mark.parametrize("content, reason", [(None, "cannot be read: No such file"), (b"", "no valid ONNX file"),
                                             (b"layer { }", "no valid ONNX file")])
def test_a_file_that_is_none(tmp_path, content, reason):
    path = tmp_path / "net.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConvertError, match=reason):
        spp_onnx.read(str(path))
