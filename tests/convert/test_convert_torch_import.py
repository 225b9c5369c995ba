"""torch modules as prototxt and caffemodel: operator by operator, whole models, and what is refused."""
from typing import Any

import numpy as np
import pytest

import public_nets
from programs import error_of, run
from spp.errors import ConvertError
from spp.net import Net

torch = pytest.importorskip("torch", "2.6", reason="what these tests convert from: pip install 'spp[torch]'")
from spp.convert import torch_module     # noqa: E402, F401 need torch
from spp.convert.torch.importer import program as torch_program     # noqa: E402 needs torch

nn: Any = torch.nn
F = nn.functional
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
MAP = (2, 4, 9, 8)


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *x):
        return self.function(*x)


def convert(module, *shapes, low=-2.0):
    """The layers' types; to_param has compared the outputs with the module's."""
    torch.manual_seed(3)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats:
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.normal_(part.weight), nn.init.normal_(part.bias)
    inputs = [torch.rand(*shape) * (2 - low) + low for shape in shapes or [MAP]]
    param = torch_program.to_param(module, inputs)
    return param, [layer.type for layer in param.layer if layer.type != "Input"]


@pytest.mark.parametrize("module, types", [
    (nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), groups=2), ["Convolution"]),
    (nn.Conv2d(4, 6, 3, dilation=2, bias=False), ["Convolution"]),
    (nn.ConvTranspose2d(4, 6, 4, 2, 1, groups=2), ["Deconvolution"]),
    (nn.Linear(8, 5), ["InnerProduct"]),
    (nn.BatchNorm2d(4), ["BatchNorm", "Scale"]),
    (nn.MaxPool2d(3, 2), ["Pooling"]),
    (nn.MaxPool2d(3, 2, 1, ceil_mode=True), ["Pooling"]),
    (nn.MaxPool2d((3, 2), (2, 1), (1, 0)), ["Pooling"]),
    (nn.AvgPool2d(3, 2, 1, ceil_mode=True), ["Pooling"]),
    (nn.AvgPool2d(2), ["Pooling"]),
    (nn.AdaptiveAvgPool2d(1), ["Pooling"]),
    (nn.AdaptiveAvgPool2d((3, 3)), ["SPP", "Reshape"]),
    (nn.AdaptiveMaxPool2d(2), ["SPP", "Reshape"]),
    (nn.ReLU(), ["ReLU"]), (nn.LeakyReLU(0.3), ["ReLU"]), (nn.PReLU(4), ["PReLU"]), (nn.PReLU(), ["PReLU"]),
    (nn.ELU(0.7), ["ELU"]), (nn.Sigmoid(), ["Sigmoid"]), (nn.Tanh(), ["TanH"]), (nn.SiLU(), ["Swish"]),
    (nn.Hardtanh(-0.5, 1.5), ["Clip"]), (nn.ReLU6(), ["ReLU6"]), (nn.Softplus(), ["BNLL"]),
    (nn.Hardsigmoid(), ["Power", "Clip"]), (nn.Hardswish(inplace=True), ["Power", "Clip", "Eltwise"]),
    (nn.Softmax(1), ["Softmax"]), (nn.LogSoftmax(2), ["Softmax", "Log"]), (nn.Dropout(0.4), ["Dropout"]),
    (nn.Flatten(), ["Flatten"]), (nn.Flatten(1, 2), ["Flatten"]),
    (nn.Upsample(scale_factor=3), ["Upsample"]),
    (nn.UpsamplingBilinear2d((13, 5)), ["Interp"]),
    (Function(lambda x: x.abs() + 1.5), ["AbsVal", "Power"]),
    (Function(lambda x: (x * x - x).exp() / 4), ["Eltwise", "Eltwise", "Exp", "Power"]),
    (Function(lambda x: torch.add(x, x.square(), alpha=0.5)), ["Power", "Eltwise"]),
    (Function(lambda x: (1.5 - x) * -(x ** 3)), ["Power", "Power", "Power", "Eltwise"]),
    (Function(lambda x: x.mean((2, 3))), ["Pooling", "Flatten"]),
    (Function(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()), ["Pooling", "Sigmoid", "Reshape", "Scale"]),
    (Function(lambda x: torch.cat(x.chunk(2, 1)[::-1], -1)), ["Slice", "Concat"]),
    (Function(lambda x: torch.cat([part * k for k, part in enumerate(x.split([1, 3], 1), 2)], 1)),
     ["Slice", "Power", "Power", "Concat"]),
    (Function(lambda x: x.view(2, 2, 2, 9, 8).transpose(1, 2).contiguous().view(2, 4, 9, 8)),
     ["Reshape", "Permute", "Reshape"]),
    (Function(lambda x: x.permute(0, 2, 3, 1).reshape(2, -1)), ["Permute", "Reshape"]),
    (Function(lambda x: F.relu_(x + 1) * 2 + x.clamp(-1, 1)), ["Power", "ReLU", "Power", "Clip", "Eltwise"]),
], ids=str)
def test_operator(module, types):
    assert convert(module)[1] == types


def test_operators_in_other_dimensions():
    assert convert(nn.Sequential(nn.Conv1d(3, 4, 3, stride=2), nn.BatchNorm1d(4), nn.MaxPool1d(2)), (2, 3, 11))[1] == [
        "Convolution", "BatchNorm", "Scale", "Pooling"]
    deep = nn.Sequential(nn.Conv3d(2, 3, 2), nn.AvgPool3d(2, 1))
    assert convert(deep, (1, 2, 4, 5, 6))[1] == ["Convolution", "Pooling"]
    assert convert(Function(torch.log), (2, 3), low=0.1)[1] == ["Log"]


def test_two_inputs_and_two_outputs():
    module = Function(lambda x, y: {"sum": x + y, "product": x * y})
    param, types = convert(module, (2, 3), (2, 3))
    assert types == ["Eltwise", "Eltwise"] and [layer.type for layer in param.layer][:2] == ["Input", "Input"]


def test_what_is_written_in_place_is_what_later_readers_see():
    def function(x):
        y = x * 2
        y.add_(1)
        return y + F.relu_(y)
    assert convert(Function(function))[1] == ["Power", "Power", "ReLU", "Eltwise"]


def test_a_write_into_a_view_is_noticed():
    def function(x):
        y = x * 2
        y.chunk(2, 1)[0].relu_()
        return y
    with pytest.raises(ConvertError, match="is not the module's: operators that write into views of other tensors"):
        convert(Function(function))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8, eps=0.01, momentum=0.25)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 1))
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(32, 5)

    def forward(self, x):
        x = F.relu(self.bn(self.conv(x)))
        x = F.relu(x + self.block(x))
        return self.fc(torch.flatten(self.pool(x), 1))


def test_a_module_keeps_its_names_and_takes_other_sizes():
    module = Residual().train()
    param, types = convert(module, (2, 3, 12, 10))
    assert module.training
    assert [layer.name for layer in param.layer if layer.blobs] == [
        "conv", "bn", "bn.scale", "block.0", "block.2", "fc"]
    bn = next(layer for layer in param.layer if layer.type == "BatchNorm").batch_norm_param
    assert (bn.eps, bn.moving_average_fraction) == (pytest.approx(0.01), 0.75)
    net = Net(param, device="cpu")
    for shape in ((1, 3, 7, 9), (3, 3, 16, 5)):
        x = torch.randn(*shape)
        with torch.no_grad():
            expected = module.eval()(x).numpy()
        np.testing.assert_allclose(net.forward(x=x.numpy())[net.outputs[0]], expected, 1e-4, 1e-5)


@pytest.mark.parametrize("make", [public_nets.vgg16, public_nets.googlenet, public_nets.resnet18])
def test_a_converted_net_comes_back(make):
    """From prototxt to torch and from there to another prototxt."""
    if make is public_nets.googlenet:
        text = "\n".join(line for line in make().splitlines() if "'LRN'" not in line)
        text = text.replace("norm1'", "3x3_s2'").replace("bottom: 'conv2/norm2'", "bottom: 'conv2/3x3'")
    else:
        text = make()
    net = public_nets.build(text)
    values = public_nets.inputs(net)["data"]
    param = torch_program.to_param(torch_module(net), [torch.from_numpy(values)])
    again = Net(param, device="cpu")
    result, expected = again.forward(data=values)[again.outputs[0]], net.forward(data=values)["prob"]
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert len(again.learnable) == len(net.learnable)


@pytest.mark.parametrize("module, message", [
    (nn.GELU(), "gelu in module '' cannot be converted to Caffe: Caffe has no such function"),
    (nn.Sequential(nn.Identity(), nn.Conv2d(4, 4, 3, padding="same")),
     "conv2d in module '1' cannot be converted to Caffe: padding 'same' depends on the sizes; give it in pixels"),
    (nn.ConvTranspose2d(4, 4, 3, 2, output_padding=1), "conv_transpose2d cannot be converted to Caffe: Caffe has no "
     "output_padding, found [1, 1]"),
    (nn.MaxPool2d(3, dilation=2), "max_pool2d cannot be converted to Caffe: Caffe's pooling has no dilation"),
    (nn.AvgPool2d(3, padding=1, count_include_pad=False), "avg_pool2d cannot be converted to Caffe: Caffe's averages "
     "count the padding; set count_include_pad=True"),
    (nn.AvgPool2d(3, divisor_override=5), "avg_pool2d cannot be converted to Caffe: Caffe's averages have no "
     "divisor_override"),
    (nn.AdaptiveAvgPool2d((2, 3)), "adaptive_avg_pool2d cannot be converted to Caffe: Caffe's bins are as many "
     "vertically as horizontally, found [2, 3]"),
    (nn.BatchNorm2d(4, track_running_stats=False), "batch_norm cannot be converted to Caffe: it normalises by the "
     "batch, not by stored statistics"),
    (Function(lambda x: x.clamp(min=0.5)), "clamp cannot be converted to Caffe: Caffe's Clip needs a lower and an "
     "upper limit"),
    (Function(lambda x: x.mean(1)), "mean cannot be converted to Caffe: Caffe takes the mean of whole maps, not of "
     "axes [1]"),
    (Function(lambda x: x + x.mean((2, 3), keepdim=True)), "add cannot be converted to Caffe: Caffe has no "
     "broadcasting of (2, 4, 9, 8) and (2, 4, 1, 1)"),
    (Function(lambda x: x / (x + 3)), "div cannot be converted to Caffe: Caffe's Eltwise does not divide, and "
     "takes blobs only"),
    (Function(lambda x: x.cumsum(1)), "cumsum cannot be converted to Caffe: it is not among the operators that "
     "this conversion knows"),
    (nn.Softplus(2), "softplus cannot be converted to Caffe: Caffe's layer has no such factors"),
    (Function(lambda x: torch.div(x, 2, rounding_mode="floor")), "div cannot be converted to Caffe: Caffe has no "
     "rounding division"),
    (Function(lambda x: 2 ** x), "pow cannot be converted to Caffe: Caffe's Power takes a blob and fixed numbers"),
    (Function(F.conv2d), "conv2d cannot be converted to Caffe: its weights are computed, not stored"),
    (Function(lambda x: F.adaptive_max_pool2d(x, 2, return_indices=True)[1]), "adaptive_max_pool2d cannot be "
     "converted to Caffe: the indices of the maxima are read, and SPP does not return them"),
    (nn.Upsample((10, 9)), "upsample_nearest2d cannot be converted to Caffe: Caffe's Upsample repeats pixels a whole "
     "number of times"),
    (nn.Upsample((10, 9), mode="bilinear"), "upsample_bilinear2d cannot be converted to Caffe: Caffe's Interp "
     "aligns corners: set align_corners=True"),
], ids=str)
def test_what_caffe_cannot_do_is_refused(module, message):
    with pytest.raises(ConvertError) as caught:
        convert(module, *[MAP] * (2 if "computed" in message else 1))
    assert str(caught.value).replace(" in module ''", "") == message.replace(" in module ''", "")


class Shifted(nn.Module):
    """Adds a parameter."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.ones(MAP))

    def forward(self, x):
        return x + self.shift


@pytest.mark.parametrize("module, shape, message", [
    (nn.LSTM(8, 3), (2, 4, 8), "lstm cannot be converted to Caffe: Caffe's LSTM needs markers of the sequences' "
     "starts; write it in the prototxt, and convert its weights by convert_weights"),
    (nn.Conv2d(4, 2, 3), (4, 9, 8), "conv2d cannot be converted to Caffe: its input has no batch axis"),
    (nn.MaxPool3d((1, 2, 2)), (1, 2, 3, 4, 5), "max_pool3d cannot be converted to Caffe: Caffe's pooling has one "
     "kernel for all axes unless there are two; found [1, 2, 2]"),
    (Shifted(), MAP, "p_shift is a constant, and Caffe takes constants as layers' parameters only"),
])
def test_what_caffe_cannot_do_with_such_shapes(module, shape, message):
    with pytest.raises(ConvertError) as caught:
        convert(module, shape)
    assert str(caught.value).replace(" in module ''", "") == message


def test_an_input_that_is_no_tensor():
    program = torch.export.export(Function(lambda x, n: x * n), (torch.ones(2), 3))
    with pytest.raises(ConvertError) as caught:
        torch_program.random_inputs(program)
    assert str(caught.value) == "the module's input 'x_1' is no tensor; give it a fixed value in the module"


def test_a_module_that_cannot_be_traced():
    with pytest.raises(ConvertError, match="torch.export cannot trace the module: "):
        convert(Function(lambda x: x if x.sum() > 0 else -x))


# --- the program

MODULE = """
import torch
from torch import nn
class Small(nn.Sequential):
    def __init__(self):
        torch.manual_seed(1)
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
number = int
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "small.py").write_text(MODULE)
    return tmp_path


def converted_net(folder, *arguments):
    result = run("convert_net", *arguments, "--from", "torch", "--output", "net.prototxt", cwd=folder)
    assert result.stdout == "Wrote net.prototxt and net.caffemodel\n", result
    return Net(str(folder / "net.prototxt"), weights=str(folder / "net.caffemodel"), device="cpu", seed=9)


def test_a_class_a_file_of_weights_and_an_exported_program(folder):
    names: dict = {}
    exec(MODULE, names)
    module = names["Small"]()
    with torch.no_grad():
        module[4].bias[:] = torch.tensor([0.5, -2])
    torch.save(module.state_dict(), folder / "w.pt")
    x = torch.randn(1, 3, 8, 9)
    torch.export.save(torch.export.export(module.eval(), (x,)), folder / "small.pt2")
    for arguments in (("--model", "small.py:Small", "--shape", "1,3,8,9", "--weights", "w.pt"),
                      ("--model", "small.pt2")):
        net = converted_net(folder, *arguments)
        np.testing.assert_allclose(net.forward(**{net.inputs[0]: x.numpy()})[net.outputs[0]],
                                   module(x).detach().numpy(), 1e-4, 1e-6)
    assert "blobs" not in (folder / "net.prototxt").read_text()


@pytest.mark.parametrize("arguments, message", [
    ("--model small.py:number --shape 1,3", "--model small.py:number: is of type int, not a torch.nn.Module"),
    ("--model small.py:Large --shape 1,3", "--model small.py:Large: cannot create the module: "),
    ("--model nothing:Large --shape 1,3", "--model nothing:Large: cannot create the module: "
     "No module named 'nothing'"),
    ("--model small.pt2 --shape 1,3", "small.pt2 has its own weights and shapes; leave out --weights and --shape"),
    ("--model small.pt2", "small.pt2: torch.export.save did not write it: "),
    ("--model small.py:Small --shape 1,3,8,9 --weights w.pt", "w.pt are not the weights of small.py:Small: "),
    ("--model small.py:Small --shape 1,5,8,9", "torch.export cannot trace the module: "),
    ("--model torch.nn:GELU --shape 1,5", "gelu"),
])
def test_mistakes(folder, arguments, message):
    (folder / "small.pt2").write_bytes(b"nothing")
    torch.save({"a": torch.zeros(2)}, folder / "w.pt")
    before = sorted(path.name for path in folder.iterdir())
    result = run("convert_net", *arguments.split(), "--from", "torch", "--output", "net.prototxt", cwd=folder)
    assert error_of(result).startswith(f"error: {message}")
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == before
