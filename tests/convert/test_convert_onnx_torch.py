"""What torch writes as ONNX, of torchvision's nets, becomes nets that compute the same."""
import warnings
from typing import Any

import numpy as np
import pytest

from spp.convert import onnx as spp_onnx
from spp.net import Net

torch = pytest.importorskip("torch", reason="needs pip install 'spp[torch]'")
pytest.importorskip("onnx", reason="needs pip install 'spp[onnx]'")
pytest.importorskip("onnxruntime", reason="needs pip install 'spp[onnx]'")
nn: Any = torch.nn
F = nn.functional


@pytest.fixture(scope="module")
def models():
    """torchvision.models; the CPU's torch lacks operators of a torchvision that was built for CUDA, which declares."""
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        try:
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except RuntimeError:
            pass        # torchvision has it
    return pytest.importorskip("torchvision.models")


def narrow(model):
    """The model with small fully connected layers: a test needs no 500 MB."""
    nn = torch.nn
    inputs = next(layer.in_features for layer in model.classifier if isinstance(layer, nn.Linear))
    model.classifier = nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 10))
    return model


class Computes(nn.Module):
    """A module of one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("function, types", [
    (lambda x: x / (1 + 0.5 * F.avg_pool2d(x * x, 3, 1, 1)) ** 0.75,
     "Eltwise Pooling Power Power Power Power Eltwise"),
    (lambda x: torch.cat([F.adaptive_max_pool2d(x, n).flatten(1) for n in (4, 2, 1)], 1),
     "Pooling Flatten Pooling Flatten Pooling Flatten Concat")], ids=["LRN within a channel", "pyramid"])
@pytest.mark.parametrize("dynamo", [False, True], ids=["script", "dynamo"])
def test_several_operators_that_spp_has_a_layer_for(tmp_path, function, types, dynamo):
    """They become several layers that compute the same."""
    if dynamo:
        pytest.importorskip("onnxscript", reason="torch's newer exporter needs onnxscript")
    torch.manual_seed(0)
    x, path = torch.rand(2, 6, 8, 8) + 0.1, str(tmp_path / "net.onnx")
    more = {"external_data": False} if dynamo else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Computes(function), (x,), path, dynamo=dynamo, **more)
    net = Net(spp_onnx.read(path), device="cpu")
    result, = net.forward(**{net.inputs[0]: x.numpy()}).values()
    np.testing.assert_allclose(result, function(x).numpy(), atol=1e-5)
    assert [layer.type for layer in net.layers if layer.type not in ("Input", "Split")] == types.split()


MAKERS = {
    "alexnet": lambda models: narrow(models.alexnet()),
    "vgg": lambda models: narrow(models.VGG(models.vgg.make_layers([16, "M", 32, 32, "M", 512, "M"], True))),
    "squeezenet": lambda models: models.squeezenet1_1(num_classes=10),
    "resnet18": lambda models: models.resnet18(num_classes=10),
    "googlenet": lambda models: models.googlenet(num_classes=10, aux_logits=False, init_weights=False),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("dynamo", [False, True], ids=["script", "dynamo"])
def test_a_net_of_torchvision(tmp_path, models, name, dynamo):
    if dynamo:
        pytest.importorskip("onnxscript", reason="torch's newer exporter needs onnxscript")
    torch.manual_seed(0)
    model, path = MAKERS[name](models).eval(), str(tmp_path / "net.onnx")
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
    size = 56 if name == "vgg" else 112 if name in ("resnet18", "googlenet") else 224
    x = torch.randn(2, 3, size, size)
    options = {} if dynamo else {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), path, dynamo=dynamo, **options, **({"external_data": False} if dynamo else {}))
    net = Net(spp_onnx.read(path), device="cpu")
    result, = net.forward(**{net.inputs[0]: x.numpy()}).values()
    with torch.no_grad():
        expected = model(x).numpy()
    assert result.shape == expected.shape and np.ptp(expected) > 0.01
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))
    if name == "resnet18" and not dynamo:
        assert sum(layer.type == "BatchNorm" for layer in net.layers) == 20
