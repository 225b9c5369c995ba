"""torchvision's classifiers as prototxt with the layer names of Caffe's public nets, and their checkpoints as weights.

They are torchvision's architectures, not those of the Caffe nets that the names come from: AlexNet is that of
"One weird trick" (64, 192, 384, 256, 256 channels, no groups, no LRN); GoogLeNet has batch normalisation and 3 x 3
kernels where the paper has 5 x 5; ResNet-50 strides in its 3 x 3 convolutions; pooling rounds down except in
SqueezeNet and GoogLeNet. AdaptiveAvgPool2d(n) is SPP with n x n bins of averages, so AlexNet and VGG take any size.
"""
import os
from functools import partial
from typing import Any, Callable, Sequence

import numpy as np

from spp.atomic import replacing
from spp.backend.types import Geometry
from spp.convert.net_builder import NetBuilder, convolution_param
from spp.convert.torch import state_dict, tensor_files
from spp.convert.torch.names import attributes
from spp.errors import ConvertError
from spp.net import Net
from spp.proto import to_text

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)     # mean and standard deviation, RGB of 0 to 1
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)                     # of GoogLeNet's published weights


class _Net(NetBuilder):
    """A classifier of torchvision; keys: the checkpoint's name for the parameters of each layer."""

    def __init__(self, name: str) -> None:
        super().__init__(f"torchvision {name}")
        self.keys: dict[str, str] = {}
        self.add("Input", "data", [], input_param={"shape": [{"dim": [1, 3, 224, 224]}]})

    def add(self, kind: str, name: str, bottoms: Sequence[str], top: str = "", **params: Any) -> str:
        """Append a layer with one top, named as the layer if not given; returns the top."""
        self.add_layer(kind, name, bottoms, [top or name], **params)
        return top or name

    def relu(self, x: str) -> str:
        return self.add("ReLU", f"relu_{x}", [x], x)

    def linear(self, name: str, x: str, outputs: int, kernel: int, *, stride: int = 1, pad: int | None = None,
               bias: bool = True) -> str:
        """A convolution; its padding is kernel // 2 if not given."""
        geometry = Geometry((kernel,), (stride,), (kernel // 2 if pad is None else pad,), (1,))
        return self.add("Convolution", name, [x], convolution_param=convolution_param(outputs, geometry, bias))

    def conv(self, name: str, key: str, x: str, outputs: int, kernel: int, **options: Any) -> str:
        """A convolution with bias and ReLU."""
        self.keys[name] = key
        return self.relu(self.linear(name, x, outputs, kernel, **options))

    def normed(self, names: Sequence[str], keys: Sequence[str], x: str, outputs: int, kernel: int, *, stride: int = 1,
               eps: float = 1e-5, relu: bool = True) -> str:
        """Convolution, BatchNorm and Scale with these names, and `keys` of the first two."""
        self.keys.update(zip(names, keys))
        x = self.linear(names[0], x, outputs, kernel, stride=stride, bias=False)
        self.add("BatchNorm", names[1], [x], x, batch_norm_param={"eps": eps, "moving_average_fraction": 0.9})
        self.add("Scale", names[2], [x], x, scale_param={"bias_term": True})
        return self.relu(x) if relu else x

    def pool(self, name: str, x: str, kernel: int = 3, stride: int = 2, ceil: bool = False, **param: Any) -> str:
        rounding = {} if ceil else {"round_mode": "FLOOR"}
        return self.add("Pooling", name, [x], pooling_param={
            "pool": "MAX", "kernel_size": kernel, "stride": stride, **rounding, **param})

    def global_pool(self, name: str, x: str) -> str:
        return self.add("Pooling", name, [x], pooling_param={"pool": "AVE", "global_pooling": True})

    def fc(self, name: str, key: str, x: str, outputs: int) -> str:
        self.keys[name] = key
        return self.add("InnerProduct", name, [x], inner_product_param={"num_output": outputs})

    def dropout(self, x: str, ratio: float = 0.5) -> str:
        return self.add("Dropout", f"drop_{x}", [x], x, dropout_param={"dropout_ratio": ratio})


def _two_hidden(net: _Net, x: str, bins: int, keys: Sequence[str], classes: int) -> str:
    """AdaptiveAvgPool2d and three fully connected layers."""
    x = net.add("SPP", "pool", [x], spp_param={"pool": "AVE", "bins": [bins]})
    x = net.dropout(net.relu(net.fc("fc6", keys[0], x, 4096)))
    x = net.dropout(net.relu(net.fc("fc7", keys[1], x, 4096)))
    return net.fc("fc8", keys[2], x, classes)


def _alexnet(net: _Net, classes: int) -> str:
    x = net.conv("conv1", "features.0", "data", 64, 11, stride=4, pad=2)
    x = net.conv("conv2", "features.3", net.pool("pool1", x), 192, 5)
    x = net.pool("pool2", x)
    for i, (outputs, at) in enumerate(((384, 6), (256, 8), (256, 10)), 3):
        x = net.conv(f"conv{i}", f"features.{at}", x, outputs, 3)
    return _two_hidden(net, net.pool("pool5", x), 6, ("classifier.1", "classifier.4", "classifier.6"), classes)


def _vgg16(net: _Net, classes: int) -> str:
    x, at = "data", 0
    for block, (count, outputs) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        for i in range(count):
            x = net.conv(f"conv{block}_{i + 1}", f"features.{at}", x, outputs, 3)
            at += 2
        x = net.pool(f"pool{block}", x, 2)
        at += 1
    return _two_hidden(net, x, 7, ("classifier.0", "classifier.3", "classifier.6"), classes)


def _squeezenet(net: _Net, classes: int) -> str:
    x = net.conv("conv1", "features.0", "data", 64, 3, stride=2, pad=0)
    x = net.pool("pool1", x, ceil=True)
    fires = ((3, 16, 64), (4, 16, 64), (6, 32, 128), (7, 32, 128), (9, 48, 192), (10, 48, 192), (11, 64, 256),
             (12, 64, 256))
    for i, (at, squeezed, outputs) in enumerate(fires, 2):
        if at in (6, 9):
            x = net.pool(f"pool{i - 1}", x, ceil=True)
        name, key = f"fire{i}", f"features.{at}"
        x = net.conv(f"{name}/squeeze1x1", f"{key}.squeeze", x, squeezed, 1)
        x = net.add("Concat", f"{name}/concat", [
            net.conv(f"{name}/expand{k}x{k}", f"{key}.expand{k}x{k}", x, outputs, k) for k in (1, 3)])
    x = net.conv("conv10", "classifier.1", net.dropout(x), classes, 1)
    return net.add("Flatten", "flat", [net.global_pool("pool10", x)])


def _resnet(net: _Net, classes: int, blocks: Sequence[int], bottleneck: bool) -> str:
    x = net.normed(("conv1", "bn_conv1", "scale_conv1"), ("conv1", "bn1"), "data", 64, 7, stride=2)
    x = net.pool("pool1", x, pad=1)
    for stage, count in enumerate(blocks, 2):
        for i in range(count):
            x = _residual(net, x, stage, i, bottleneck)
    return net.fc("fc", "fc", net.global_pool("pool5", x), classes)


def _residual(net: _Net, x: str, stage: int, i: int, bottleneck: bool) -> str:
    at, key, width = f"{stage}{'abcdefgh'[i]}", f"layer{stage - 1}.{i}", 64 * 2 ** (stage - 2)
    stride = 2 if stage > 2 and i == 0 else 1

    def step(branch: str, x: str, outputs: int, kernel: int, keys: Sequence[str], **options: Any) -> str:
        names = [f"{kind}{at}_branch{branch}" for kind in ("res", "bn", "scale")]
        return net.normed(names, [f"{key}.{k}" for k in keys], x, outputs, kernel, **options)

    outputs, shortcut = 4 * width if bottleneck else width, x
    if i == 0 and (stage > 2 or bottleneck):
        shortcut = step("1", x, outputs, 1, ("downsample.0", "downsample.1"), relu=False, stride=stride)
    if bottleneck:
        y = step("2a", x, width, 1, ("conv1", "bn1"))
        y = step("2b", y, width, 3, ("conv2", "bn2"), stride=stride)
        y = step("2c", y, outputs, 1, ("conv3", "bn3"), relu=False)
    else:
        y = step("2a", x, width, 3, ("conv1", "bn1"), stride=stride)
        y = step("2b", y, width, 3, ("conv2", "bn2"), relu=False)
    return net.relu(net.add("Eltwise", f"res{at}", [shortcut, y]))


_INCEPTIONS = {"3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64), "4a": (192, 96, 208, 16, 48, 64),
               "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
               "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
               "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128)}


def _googlenet(net: _Net, classes: int) -> str:
    def step(name: str, key: str, x: str, outputs: int, kernel: int, stride: int = 1) -> str:
        return net.normed((name, f"{name}/bn", f"{name}/scale"), (f"{key}.conv", f"{key}.bn"), x, outputs, kernel,
                          stride=stride, eps=1e-3)

    x = step("conv1/7x7_s2", "conv1", "data", 64, 7, 2)
    x = step("conv2/3x3_reduce", "conv2", net.pool("pool1/3x3_s2", x, ceil=True), 64, 1)
    x = net.pool("pool2/3x3_s2", step("conv2/3x3", "conv3", x, 192, 3), ceil=True)
    for name, (one, reduce3, three, reduce5, five, projected) in _INCEPTIONS.items():
        if name == "4a":
            x = net.pool("pool3/3x3_s2", x, ceil=True)
        if name == "5a":
            x = net.pool("pool4/2x2_s2", x, 2, ceil=True)
        at, key = f"inception_{name}", f"inception{name}"
        parts = [step(f"{at}/1x1", f"{key}.branch1", x, one, 1)]
        for kind, reduced, outputs, branch in (("3x3", reduce3, three, 2), ("5x5", reduce5, five, 3)):
            y = step(f"{at}/{kind}_reduce", f"{key}.branch{branch}.0", x, reduced, 1)
            parts.append(step(f"{at}/{kind}", f"{key}.branch{branch}.1", y, outputs, 3))
        y = net.pool(f"{at}/pool", x, 3, 1, ceil=True, pad=1)
        parts.append(step(f"{at}/pool_proj", f"{key}.branch4.1", y, projected, 1))
        x = net.add("Concat", f"{at}/output", parts)
    return net.fc("loss3/classifier", "fc", net.dropout(net.global_pool("pool5", x), 0.2), classes)


_WRITERS: dict[str, Callable[[_Net, int], str]] = {
    "alexnet": _alexnet, "vgg16": _vgg16, "squeezenet1_1": _squeezenet,
    "resnet18": partial(_resnet, blocks=(2, 2, 2, 2), bottleneck=False),
    "resnet50": partial(_resnet, blocks=(3, 4, 6, 3), bottleneck=True), "googlenet": _googlenet}
NAMES = tuple(_WRITERS)


def deploy_net(name: str, classes: int = 1000) -> tuple[Any, dict[str, str]]:
    """The deploy NetParameter of a net, and torchvision's name for the parameters of each of its layers."""
    net = _Net(name)
    net.add("Softmax", "prob", [_WRITERS[name](net, classes)])
    return net.param, net.keys


def convert(name: str, checkpoint: str, output: str, mean: Sequence[float] | None = None,
            std: Sequence[float] | None = None) -> tuple[str, list[float], list[str]]:
    """Write a checkpoint's weights as a caffemodel, and the prototxt beside it.

    The net takes BGR images of 0 to 255 less means: the standard deviations are divided out of the first
    convolution's weights. mean, std: what torch's images were normalised with, RGB of 0 to 1; unless given, that of
    torchvision's published weights. Returns the prototxt's path, the means in BGR, and the checkpoint's tensors that
    the net has no layers for (GoogLeNet's auxiliary classifiers). Raises ConvertError where the checkpoint does not
    fit.
    """
    usual = HALF if name == "googlenet" else IMAGENET
    mean, std = mean or usual[0], std or usual[1]
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ConvertError(f"mean and std need 3 numbers each, std above 0; found {list(mean)} and {list(std)}")
    tensors, _ = tensor_files.read(checkpoint)
    last = f"{list(deploy_net(name)[1].values())[-1]}.weight"
    if last not in tensors:
        raise ConvertError(f"{checkpoint}: there is no tensor {last!r}; is it of torchvision's {name}?")
    param, keys = deploy_net(name, classes=len(tensors[last]))
    net = Net(param, device="cpu")
    names = attributes(net.layers)
    attribute_of = {key: names[layer] for layer, key in keys.items()}
    renamed, left = {}, []
    for key, array in tensors.items():
        prefix, _, last = key.rpartition(".")
        if prefix in attribute_of:
            renamed[f"{attribute_of[prefix]}.{last}"] = array
        elif name == "googlenet" and key.startswith("aux"):
            left.append(key)
        else:
            raise ConvertError(f"{checkpoint}: torchvision's {name} has no tensor {key!r}; is it of another net?")
    state_dict.into_net(net, renamed, {}, checkpoint)
    weight = net.layers[1].blobs[0]
    factors = 255 * np.array(std, np.float64).reshape(1, 3, 1, 1)
    weight.data[...] = (weight.data / factors)[:, ::-1]
    path = os.path.splitext(output.removesuffix(".h5"))[0] + ".prototxt"
    means = [255 * value for value in reversed(mean)]
    with replacing(path, ConvertError) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(f"# torchvision's {name}, for the weights in {os.path.basename(output)}.\n"
                       f"# Input: BGR, 0 to 255, less the means {', '.join(f'{v:g}' for v in means)}.\n"
                       + to_text(param))
        net.save(output)
    return path, means, left
