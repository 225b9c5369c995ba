"""torchvision's checkpoints as caffemodels: random weights, the outputs of torchvision's models."""
import sys

import numpy as np
import pytest

from programs import error_of, run
from spp.net import Net
from spp.convert.torch.torchvision_nets import NAMES, deploy_net

torch = pytest.importorskip("torch", reason="what these tests convert from: pip install 'spp[torch]'")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def models():
    """torchvision.models, also where torchvision's compiled part, which they do not use, is for another torch."""
    pytest.importorskip("torchvision", reason="the peer of these tests: pip install torchvision")
    return sys.modules["torchvision"].models


@pytest.fixture(scope="module", autouse=True)
def stand_ins():
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        import torchvision  # noqa: F401
        torchvision.library_of_stand_ins = library      # its operators end with it


def model_of(models, name):
    """The model with few classes and weights, and statistics, that let all channels count."""
    torch.manual_seed(0)
    more = {"aux_logits": True, "init_weights": False, "transform_input": True} if name == "googlenet" else {}
    model = getattr(models, name)(num_classes=7, weights=None, **more).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("name, sizes", [("squeezenet1_1", (224, 190)), ("resnet18", (224, 101)),
                                         ("googlenet", (96, 128)), ("resnet50", (64, 70))])
def test_a_checkpoint(models, name, sizes, tmp_path):
    model = model_of(models, name)
    torch.save(model.state_dict(), tmp_path / "net.pth")
    result = run("convert_weights", "--map", f"torchvision:{name}", "--weights", "net.pth", "--output",
                 "net.caffemodel", cwd=tmp_path)
    lines = result.stdout.splitlines()
    means = [127.5] * 3 if name == "googlenet" else list(255 * MEAN[::-1])
    assert lines[-2:] == [f"Input: BGR, 0 to 255, less the means {', '.join(f'{v:g}' for v in means)}",
                          "Wrote net.prototxt and net.caffemodel"], result
    assert lines[0].startswith("Left out, as the net has no such layers: aux1.") == (name == "googlenet")
    net = Net(str(tmp_path / "net.prototxt"), weights=str(tmp_path / "net.caffemodel"), device="cpu")
    image = np.random.default_rng(1).integers(0, 256, (2, *sizes, 3)).astype(np.float32)      # BGR
    prob = net.forward(data=(image - means).transpose(0, 3, 1, 2))["prob"]
    rgb = (image[..., ::-1] / 255 - MEAN) / STD
    with torch.no_grad():
        expected = model(torch.from_numpy(np.ascontiguousarray(rgb.transpose(0, 3, 1, 2), np.float32))).softmax(1)
    np.testing.assert_allclose(prob, expected.numpy(), atol=1e-4)
    assert expected.std() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_names_are_torchvisions(models, name):
    """For the large ones, which take long to fill: on torch's meta device."""
    param, keys = deploy_net(name, 7)
    with torch.device("meta"):
        more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        model = getattr(models, name)(num_classes=7, weights=None, **more)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert set(keys.values()) == {key.rpartition(".")[0] for key in shapes}
    for layer in param.layer:
        weight = shapes.get(f"{keys.get(layer.name)}.weight", ())
        if layer.type == "Convolution":
            p = layer.convolution_param
            assert weight[0] == p.num_output and weight[2:] == (p.kernel_size[0],) * 2
            assert p.bias_term == (f"{keys[layer.name]}.bias" in shapes)
        elif layer.type == "InnerProduct":
            assert weight[0] == layer.inner_product_param.num_output


@pytest.mark.parametrize("name, sizes", [("alexnet", (224, 224)), ("alexnet", (257, 230)), ("vgg16", (40, 70))])
def test_fully_connected_nets_at_reduced_width(models, name, sizes):
    """The geometry, with few channels and units in torch as in the prototxt."""
    param, keys = deploy_net(name, 7)
    for layer in param.layer:
        if layer.type == "Convolution":
            layer.convolution_param.num_output //= 16
            layer.convolution_param.weight_filler.type = "msra"
        elif layer.type == "InnerProduct" and layer.name != "fc8":
            layer.inner_product_param.num_output //= 64
        if layer.type == "InnerProduct":
            layer.inner_product_param.weight_filler.type = "msra"
    net = Net(param, device="cpu")
    with torch.device("meta"):
        model = getattr(models, name)(num_classes=7, weights=None).eval()
    for name, key in keys.items():
        module = model.get_submodule(key)
        module.weight, module.bias = (torch.nn.Parameter(torch.tensor(np.array(blob.data)))
                                      for blob in net.params[name])
    x = np.random.default_rng(0).normal(size=(2, 3, *sizes)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).softmax(1).numpy()
    np.testing.assert_allclose(net.forward(data=x)["prob"], expected, atol=1e-5)
    assert expected.std() > 1e-3


@pytest.mark.parametrize("tensors, more, message", [
    ({}, [], "net.pth: there is no tensor 'fc.weight'; is it of torchvision's resnet18?"),
    ({"fc.weight": np.zeros((3, 512)), "head.bias": np.zeros(3)}, [],
     "net.pth: torchvision's resnet18 has no tensor 'head.bias'; is it of another net?"),
    ({"fc.weight": np.zeros((3, 512), np.float32)}, [],
     "net.pth: there is no tensor 'conv1.weight'; it has fc.weight"),
    ({}, ["--std", "1,0,1"], "mean and std need 3 numbers each, std above 0; found [0.485, 0.456, 0.406] and "
     "[1.0, 0.0, 1.0]"),
])
def test_checkpoints_that_do_not_fit(tensors, more, message, tmp_path):
    torch.save({key: torch.from_numpy(array) for key, array in tensors.items()}, tmp_path / "net.pth")
    result = run("convert_weights", "--map", "torchvision:resnet18", "--weights", "net.pth", "--output",
                 "net.caffemodel", *more, cwd=tmp_path)
    assert error_of(result) == f"error: {message}"
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]
