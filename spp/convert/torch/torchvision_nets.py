"""torchvision's classifiers as prototxt with the layer names of Caffe's public nets, and their checkpoints as weights.

They are torchvision's architectures, not those of the Caffe nets that the names come from: AlexNet is the one of
"One weird trick" (64, 192, 384, 256, 256 channels, no groups, no LRN); GoogLeNet has batch normalisation and 3 x 3
kernels where the paper has 5 x 5; ResNet-50 strides in its 3 x 3 convolutions; pooling rounds down except in
SqueezeNet and GoogLeNet. AdaptiveAvgPool2d(n) is SPP with n x n bins of averages, so AlexNet and VGG take any size.
"""
import os
from typing import Callable, Sequence

import numpy as np

from spp.atomic import replacing
from spp.convert.torch import state_dict, tensor_files
from spp.convert.torch.names import attributes
from spp.errors import ConvertError
from spp.net import Net
from spp.proto.text import parse_net

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)     # mean and standard deviation, RGB of 0 to 1
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)                     # what GoogLeNet's published weights want


class _Text:
    """A prototxt that grows by a layer at a time; `keys` are the checkpoint's names of its layers' parameters."""

    def __init__(self, name: str) -> None:
        self.lines = [f'name: "{name}"', 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 '
                      'dim: 3 dim: 224 dim: 224 } } }']
        self.keys: dict[str, str] = {}

    def layer(self, kind: str, name: str, bottoms: Sequence[str], body: str = "", top: str = "") -> str:
        reads = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
        self.lines.append(f'layer {{ name: "{name}" type: "{kind}" {reads} top: "{top or name}"'
                          f'{" " if body else ""}{body} }}')
        return top or name

    def relu(self, x: str) -> str:
        return self.layer("ReLU", f"relu_{x}", [x], top=x)

    def conv(self, name: str, x: str, outputs: int, kernel: int, key: str, extra: str = "") -> str:
        """A convolution with bias and ReLU."""
        self.keys[name] = key
        self.layer("Convolution", name, [x], f"convolution_param {{ num_output: {outputs} kernel_size: {kernel}"
                   f"{extra} }}")
        return self.relu(name)

    def normed(self, names: Sequence[str], x: str, outputs: int, kernel: int, keys: Sequence[str], extra: str = "",
               eps: float = 1e-5, relu: bool = True) -> str:
        """Convolution, BatchNorm and Scale of these names; `keys` of the first two."""
        self.keys.update(zip(names, keys))
        self.layer("Convolution", names[0], [x], f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} "
                   f"bias_term: false{extra} }}")
        self.layer("BatchNorm", names[1], names[:1],
                   f"batch_norm_param {{ eps: {eps:g} moving_average_fraction: 0.9 }}", top=names[0])
        self.layer("Scale", names[2], names[:1], "scale_param { bias_term: true }", top=names[0])
        return self.relu(names[0]) if relu else names[0]

    def pool(self, name: str, x: str, kernel: int = 3, rounding: str = " round_mode: FLOOR", stride: int = 2) -> str:
        return self.layer("Pooling", name, [x], f"pooling_param {{ pool: MAX kernel_size: {kernel} stride: {stride}"
                          f"{rounding} }}")

    def global_pool(self, name: str, x: str) -> str:
        return self.layer("Pooling", name, [x], "pooling_param { pool: AVE global_pooling: true }")

    def fc(self, name: str, x: str, outputs: int, key: str) -> str:
        self.keys[name] = key
        return self.layer("InnerProduct", name, [x], f"inner_product_param {{ num_output: {outputs} }}")

    def dropout(self, x: str, ratio: float = 0.5) -> str:
        return self.layer("Dropout", f"drop_{x}", [x], f"dropout_param {{ dropout_ratio: {ratio:g} }}", top=x)


def _two_hidden(net: _Text, x: str, bins: int, keys: Sequence[str], hidden: int, classes: int) -> str:
    """AdaptiveAvgPool2d and three fully connected layers."""
    x = net.layer("SPP", "pool", [x], f"spp_param {{ pool: AVE bins: {bins} }}")
    x = net.dropout(net.relu(net.fc("fc6", x, hidden, keys[0])))
    x = net.dropout(net.relu(net.fc("fc7", x, hidden, keys[1])))
    return net.fc("fc8", x, classes, keys[2])


def _alexnet(net: _Text, classes: int) -> str:
    x = net.pool("pool1", net.conv("conv1", "data", 64, 11, "features.0", " stride: 4 pad: 2"))
    x = net.pool("pool2", net.conv("conv2", x, 192, 5, "features.3", " pad: 2"))
    for i, (outputs, at) in enumerate(((384, 6), (256, 8), (256, 10)), 3):
        x = net.conv(f"conv{i}", x, outputs, 3, f"features.{at}", " pad: 1")
    return _two_hidden(net, net.pool("pool5", x), 6, ("classifier.1", "classifier.4", "classifier.6"), 4096, classes)


def _vgg16(net: _Text, classes: int) -> str:
    x, at = "data", 0
    for block, (count, outputs) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        for i in range(count):
            x = net.conv(f"conv{block}_{i + 1}", x, outputs, 3, f"features.{at}", " pad: 1")
            at += 2
        x = net.pool(f"pool{block}", x, 2)
        at += 1
    return _two_hidden(net, x, 7, ("classifier.0", "classifier.3", "classifier.6"), 4096, classes)


def _squeezenet(net: _Text, classes: int) -> str:
    x = net.pool("pool1", net.conv("conv1", "data", 64, 3, "features.0", " stride: 2"), rounding="")
    fires = ((3, 16, 64), (4, 16, 64), (6, 32, 128), (7, 32, 128), (9, 48, 192), (10, 48, 192), (11, 64, 256),
             (12, 64, 256))
    for i, (at, squeezed, outputs) in enumerate(fires, 2):
        if at in (6, 9):
            x = net.pool(f"pool{i - 1}", x, rounding="")
        x = net.conv(f"fire{i}/squeeze1x1", x, squeezed, 1, f"features.{at}.squeeze")
        x = net.layer("Concat", f"fire{i}/concat", [
            net.conv(f"fire{i}/expand1x1", x, outputs, 1, f"features.{at}.expand1x1"),
            net.conv(f"fire{i}/expand3x3", x, outputs, 3, f"features.{at}.expand3x3", " pad: 1")])
    x = net.conv("conv10", net.dropout(x), classes, 1, "classifier.1")
    return net.layer("Flatten", "flat", [net.global_pool("pool10", x)])


def _resnet(blocks: Sequence[int], bottleneck: bool) -> Callable[[_Text, int], str]:
    def write(net: _Text, classes: int) -> str:
        x = net.normed(("conv1", "bn_conv1", "scale_conv1"), "data", 64, 7, ("conv1", "bn1"), " stride: 2 pad: 3")
        x = net.pool("pool1", x, rounding=" pad: 1 round_mode: FLOOR")
        for stage, count in enumerate(blocks, 2):
            for i in range(count):
                x = _residual(net, x, stage, i, bottleneck)
        return net.fc("fc", net.global_pool("pool5", x), classes, "fc")
    return write


def _residual(net: _Text, x: str, stage: int, i: int, bottleneck: bool) -> str:
    at, key, width = f"{stage}{'abcdefgh'[i]}", f"layer{stage - 1}.{i}", 64 * 2 ** (stage - 2)
    stride = " stride: 2" if stage > 2 and i == 0 else ""

    def step(branch: str, x: str, outputs: int, kernel: int, keys: Sequence[str], extra: str,
             relu: bool = True) -> str:
        names = [f"{kind}{at}_branch{branch}" for kind in ("res", "bn", "scale")]
        return net.normed(names, x, outputs, kernel, [f"{key}.{k}" for k in keys], extra, relu=relu)

    outputs, shortcut = 4 * width if bottleneck else width, x
    if i == 0 and (stage > 2 or bottleneck):
        shortcut = step("1", x, outputs, 1, ("downsample.0", "downsample.1"), stride, False)
    if bottleneck:
        y = step("2a", x, width, 1, ("conv1", "bn1"), "")
        y = step("2b", y, width, 3, ("conv2", "bn2"), stride + " pad: 1")
        y = step("2c", y, outputs, 1, ("conv3", "bn3"), "", False)
    else:
        y = step("2a", x, width, 3, ("conv1", "bn1"), stride + " pad: 1")
        y = step("2b", y, width, 3, ("conv2", "bn2"), " pad: 1", False)
    return net.relu(net.layer("Eltwise", f"res{at}", [shortcut, y]))


_INCEPTIONS = {"3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64), "4a": (192, 96, 208, 16, 48, 64),
               "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
               "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
               "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128)}


def _googlenet(net: _Text, classes: int) -> str:
    def step(name: str, x: str, outputs: int, kernel: int, key: str, extra: str = "") -> str:
        return net.normed((name, f"{name}/bn", f"{name}/scale"), x, outputs, kernel, (f"{key}.conv", f"{key}.bn"),
                          extra, 1e-3)

    x = step("conv1/7x7_s2", "data", 64, 7, "conv1", " stride: 2 pad: 3")
    x = step("conv2/3x3_reduce", net.pool("pool1/3x3_s2", x, rounding=""), 64, 1, "conv2")
    x = net.pool("pool2/3x3_s2", step("conv2/3x3", x, 192, 3, "conv3", " pad: 1"), rounding="")
    for name, (one, reduce3, three, reduce5, five, behind) in _INCEPTIONS.items():
        if name == "4a":
            x = net.pool("pool3/3x3_s2", x, rounding="")
        if name == "5a":
            x = net.pool("pool4/2x2_s2", x, 2, rounding="")
        at, key = f"inception_{name}", f"inception{name}"
        parts = [step(f"{at}/1x1", x, one, 1, f"{key}.branch1")]
        for kind, reduced, outputs, branch in (("3x3", reduce3, three, 2), ("5x5", reduce5, five, 3)):
            y = step(f"{at}/{kind}_reduce", x, reduced, 1, f"{key}.branch{branch}.0")
            parts.append(step(f"{at}/{kind}", y, outputs, 3, f"{key}.branch{branch}.1", " pad: 1"))
        y = net.pool(f"{at}/pool", x, 3, " pad: 1", stride=1)
        parts.append(step(f"{at}/pool_proj", y, behind, 1, f"{key}.branch4.1"))
        x = net.layer("Concat", f"{at}/output", parts)
    return net.fc("loss3/classifier", net.dropout(net.global_pool("pool5", x), 0.2), classes, "fc")


_WRITERS: dict[str, Callable[[_Text, int], str]] = {
    "alexnet": _alexnet, "vgg16": _vgg16, "squeezenet1_1": _squeezenet, "resnet18": _resnet((2, 2, 2, 2), False),
    "resnet50": _resnet((3, 4, 6, 3), True), "googlenet": _googlenet}
NAMES = tuple(_WRITERS)


def prototxt(name: str, classes: int = 1000) -> tuple[str, dict[str, str]]:
    """The deploy prototxt of a net, and torchvision's name for the parameters of each of its layers."""
    net = _Text(f"torchvision {name}")
    net.layer("Softmax", "prob", [_WRITERS[name](net, classes)])
    return "\n".join(net.lines) + "\n", net.keys


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
    classes = _classes(name, tensors, checkpoint)
    text, keys = prototxt(name, classes)
    net = Net(parse_net(text), device="cpu")
    ours = {key: attributes(net.layers)[layer] for layer, key in keys.items()}
    renamed, left = {}, []
    for key, array in tensors.items():
        prefix, _, last = key.rpartition(".")
        if prefix in ours:
            renamed[f"{ours[prefix]}.{last}"] = array
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
                       f"# Input: BGR, 0 to 255, less the means {', '.join(f'{v:g}' for v in means)}.\n{text}")
        net.save(output)
    return path, means, left


def _classes(name: str, tensors: dict[str, np.ndarray], checkpoint: str) -> int:
    key = {"alexnet": "classifier.6", "vgg16": "classifier.6", "squeezenet1_1": "classifier.1"}.get(name, "fc")
    if f"{key}.weight" not in tensors:
        raise ConvertError(f"{checkpoint}: there is no tensor '{key}.weight'; is it of torchvision's {name}?")
    return len(tensors[f"{key}.weight"])
