"""Whole nets as torch modules: their outputs, their weights back bit by bit, training that goes on, files alone."""
import subprocess
import sys

import numpy as np
import pytest

import public_nets
import squeezenet
from programs import error_of, run
from spp.convert.torch import state_dict
from spp.net import Net
from spp.proto import write_text
from spp.proto.text import parse_net, parse_solver
from spp.solver import Solver

torch = pytest.importorskip("torch", reason="what these tests convert to: pip install 'spp[torch]'")
from spp.convert import torch_module      # noqa: E402 needs torch
from spp.convert.torch import tensor_files     # noqa: E402 needs torch

F = torch.nn.functional


def assert_same_outputs(net, module, values):
    """Hold the module's outputs to the net's for these inputs."""
    with torch.no_grad():
        results = module(*[torch.from_numpy(values[name]) for name in net.inputs])
    expected = net.forward(**values)
    assert results.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(results[name].numpy(), expected[name], atol=1e-4, err_msg=name)


def assert_same_weights(net, other):
    for name, blobs in net.params.items():
        for i, (blob, again) in enumerate(zip(blobs, other.params[name])):
            assert blob.data.tobytes() == again.data.tobytes(), f"{name}[{i}]"


@pytest.mark.parametrize("make, shapes", public_nets.CASES, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_public_net_and_back(make, shapes, ending, tmp_path):
    if ending == ".safetensors":
        pytest.importorskip("safetensors", reason="the format of this test: pip install 'spp[torch]'")
    net = public_nets.build(make())
    module = torch_module(net)
    for seed, shape in enumerate(shapes):
        assert_same_outputs(net, module, public_nets.inputs(net, shape, seed))
    path = str(tmp_path / f"net{ending}")
    tensor_files.write(path, *state_dict.from_net(net))
    again = Net(parse_net(make()), device="cpu", seed=5)
    state_dict.into_net(again, *tensor_files.read(path), path)
    assert_same_weights(net, again)


@squeezenet.needs_weights
def test_squeezenet_with_its_weights(tmp_path):
    weights, model = str(squeezenet.WEIGHTS), squeezenet.DEPLOY
    net = Net(model, weights=weights, device="cpu")
    module = torch_module(net)
    for shape in ((1, 3, 227, 227), (2, 3, 97, 161), (1, 3, 64, 130)):
        assert_same_outputs(net, module, {"data": 50 * public_nets.inputs(net, shape)["data"]})
    for source, output in ((weights, "s.pt"), ("s.pt", "s.caffemodel")):
        result = run("convert_weights", "--model", model, "--weights", source, "--output", output, cwd=tmp_path)
        assert result.stdout == f"Wrote {output}\n", result
    assert_same_weights(net, Net(model, weights=str(tmp_path / "s.caffemodel"), device="cpu"))


TRAINED = """
layer { name: "in" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 4 dim: 3 dim: 17 dim: 21 } shape { dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "norm" type: "LRN" bottom: "conv" top: "norm" lrn_param { local_size: 3 alpha: 1 } }
layer { name: "pool" type: "Pooling" bottom: "norm" top: "pool" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "spp" type: "SPP" bottom: "pool" top: "spp" spp_param { bins: 3 bins: 2 bins: 1 } }
layer { name: "fc" type: "InnerProduct" bottom: "spp" top: "fc" param { lr_mult: 1 } param { lr_mult: 2 }
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""
RECURRENT = """
layer { name: "in" type: "Input" top: "data" top: "label" top: "cont"
  input_param { shape { dim: 4 dim: 3 dim: 5 } shape { dim: 4 dim: 3 } shape { dim: 4 dim: 3 } } }
layer { name: "lstm" type: "LSTM" bottom: "data" bottom: "cont" top: "lstm" param { lr_mult: 1 } param { lr_mult: 1 }
  recurrent_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "fc" type: "InnerProduct" bottom: "lstm" top: "fc" param { lr_mult: 1 } param { lr_mult: 2 }
  inner_product_param { axis: 2 num_output: 5 weight_filler { type: "xavier" } } }
"""
SOLVER = """base_lr: 0.05 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.01 random_seed: 3
net_param { %s layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss"
  softmax_param { axis: -1 } } }"""


@pytest.mark.parametrize("text", [TRAINED, RECURRENT], ids=["convolutions", "LSTM"])
def test_training_goes_on_in_torch_as_in_spp(text):
    solver = Solver(parse_solver(SOLVER % text))
    deploy = Net(parse_net(text + "layer { name: 'unread' type: 'Silence' bottom: 'label' }"), device="cpu")
    for name, blobs in deploy.params.items():
        for mine, blob in zip(blobs, solver.net.params[name]):
            mine.data[...] = blob.data
    module = torch_module(deploy).train()
    rates = {"conv.bias": 2, "fc.bias": 2}
    optimizer = torch.optim.SGD([{"params": [p], "lr": 0.05 * rates.get(name, 1)}
                                 for name, p in module.named_parameters()], momentum=0.9, weight_decay=0.01)
    rng = np.random.default_rng(1)
    for step in range(5):
        values: dict = {name: rng.normal(size=deploy.blobs[name].shape) for name in deploy.inputs}
        values["label"] = rng.integers(0, 5, values["label"].shape)
        if "cont" in values:
            values["cont"] = rng.random(values["cont"].shape) < 0.7
        for name, value in values.items():
            solver.net.blobs[name].data[...] = value
        solver.step(1)
        optimizer.zero_grad()
        scores = module(*[torch.tensor(values[name], dtype=torch.float32) for name in deploy.inputs])["fc"]
        loss = F.cross_entropy(scores.flatten(0, -2), torch.tensor(values["label"]).flatten())
        loss.backward()
        optimizer.step()
        assert loss.item() == pytest.approx(solver.net.loss, abs=1e-5)
    expected, _ = state_dict.from_net(solver.net)
    for name, value in module.named_parameters():
        assert np.abs(expected[name]).max() > 1e-3 or name == "conv.bias"     # the mean takes it away again
        np.testing.assert_allclose(value.detach().numpy(), expected[name], 1e-4, 2e-6, err_msg=name)


def test_the_written_files_need_torch_only(tmp_path):
    net = public_nets.build(public_nets.resnet18(batch=2))
    write_text(net.param, tmp_path / "net.prototxt")
    net.save(str(tmp_path / "net.caffemodel"))
    result = run("convert_net", "--model", "net.prototxt", "--weights", "net.caffemodel", "--to", "torch", "--output",
                 "made.py", cwd=tmp_path)
    assert result.stdout == "Wrote made.py and made.pt\n", result
    values = public_nets.inputs(net)["data"]
    np.save(tmp_path / "x.npy", values)
    code = ("import sys\n"
            "class Refuse:\n"
            "    def find_spec(self, name, path, target=None):\n"
            "        assert name.split('.')[0] != 'spp', name\n"
            "sys.meta_path.insert(0, Refuse())\n"
            "import numpy, torch\nfrom made import Net\n"
            "net = Net()\nnet.load_state_dict(torch.load('made.pt', weights_only=True))\nnet.eval()\n"
            "with torch.no_grad():\n"
            "    numpy.save('y.npy', net(torch.from_numpy(numpy.load('x.npy')))['prob'].numpy())\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), net.forward(data=values)["prob"], atol=1e-5)
    assert "net.load_state_dict(torch.load('made.pt', weights_only=True))" in (tmp_path / "made.py").read_text()


def test_nothing_is_written_if_a_layer_cannot_be_converted(tmp_path):
    (tmp_path / "net.prototxt").write_text(
        "layer { name: 'x' type: 'Input' top: 'x' top: 't' input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }"
        "layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'x' bottom: 't' }")
    result = run("convert_net", "--model", "net.prototxt", "--to", "torch", "--output", "net.py", cwd=tmp_path)
    assert error_of(result) == (
        "error: layer 'loss' (SoftmaxWithLoss) cannot be converted to torch: a loss is for training; give the deploy "
        "prototxt, and in torch add torch.nn.functional's loss")
    assert [path.name for path in tmp_path.iterdir()] == ["net.prototxt"]


SIMPLE = ("layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: 2 dim: 3 } } }"
          "layer { name: 'fc' type: 'InnerProduct' bottom: 'x' top: 'y' inner_product_param { num_output: 2 } }")


@pytest.mark.parametrize("arguments, message", [
    ("--to torch --output net.txt", "--output net.txt: the output is a .py file; name it so"),
    ("--to torch --output net.py", "net.prototxt has parameters; give their values: --weights FILE.caffemodel"),
    ("--to torch --output net.py --weights no.caffemodel",
     "cannot read weights no.caffemodel: No such file or directory; check the path"),
    ("--to torch --output net.py --shape 1,2", "--shape goes with --from; a prototxt has its own shapes"),
    ("--from torch --output net.prototxt",
     "a module needs the shapes of its inputs: --shape 1,3,224,224, once per input"),
    ("--from torch --output net.prototxt --shape 1,x",
     "argument --shape: '1,x' is not a shape, as 1,3,224,224 or data=1,3,224,224; see convert_net --help"),
    ("--from torch --output net.prototxt --shape 1,3", "--model net.prototxt: give a .pt2 file, or MODULE:NAME or "
     "FILE.py:NAME of a torch module"),
    ("--from onnx --output net.prototxt --weights w", "an ONNX file has its own weights; leave out --weights"),
])
def test_mistakes_of_convert_net(arguments, message, tmp_path):
    (tmp_path / "net.prototxt").write_text(SIMPLE)
    result = run("convert_net", "--model", "net.prototxt", *arguments.split(), cwd=tmp_path)
    assert error_of(result) == f"error: {message}"
    assert [path.name for path in tmp_path.iterdir()] == ["net.prototxt"]
