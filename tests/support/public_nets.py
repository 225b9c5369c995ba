"""Public networks as prototxt text, their width scaled: for the tests of the converters.

Each function returns a net that ends in probabilities `prob` of 10 classes. `width` multiplies the number of
channels and fully connected units, rounded up to a multiple of 4 so that groups still divide them. `CASES` gives
each net three input shapes, `build` a Net with weights that no layer's default could pass for.
"""
from typing import Any, Callable

import numpy as np

from spp.net import Net
from spp.proto.text import parse_net

FILL = "weight_filler { type: 'msra' } bias_filler { type: 'uniform' min: -0.3 max: 0.3 }"
CLASSES = 10


class Text:
    """A prototxt that grows by a layer at a time; each method returns the name of the layer's top."""

    def __init__(self, name: str, width: float, *shape: int, top: str = "data") -> None:
        self.width = width
        self.lines = [f"name: '{name}'"]
        self.layer("Input", top, [], f"input_param {{ {dims(*shape)} }}")

    def scaled(self, channels: int) -> int:
        return max(4, -(-int(channels * self.width) // 4) * 4)

    def layer(self, kind: str, name: str, bottoms: list[str], body: str = "", top: str | None = None) -> str:
        reads = " ".join(f"bottom: '{bottom}'" for bottom in bottoms)
        self.lines.append(f"layer {{ name: '{name}' type: '{kind}' {reads} top: '{top or name}' {body} }}")
        return top or name

    def conv(self, name: str, bottom: str, outputs: int, kernel: int, extra: str = "", relu: bool = True,
             bias: bool = True) -> str:
        fill = FILL if bias else "bias_term: false weight_filler { type: 'msra' }"
        self.layer("Convolution", name, [bottom], f"convolution_param {{ num_output: {self.scaled(outputs)} "
                   f"kernel_size: {kernel} {extra} {fill} }}")
        return self.relu(name) if relu else name

    def relu(self, bottom: str) -> str:
        return self.layer("ReLU", f"relu_{bottom}", [bottom], top=bottom)

    def pool(self, name: str, bottom: str, body: str) -> str:
        return self.layer("Pooling", name, [bottom], f"pooling_param {{ {body} }}")

    def lrn(self, name: str, bottom: str, body: str) -> str:
        return self.layer("LRN", name, [bottom], f"lrn_param {{ {body} }}")

    def fc(self, name: str, bottom: str, outputs: int) -> str:
        """A hidden fully connected layer with ReLU and dropout."""
        self.layer("InnerProduct", name, [bottom], f"inner_product_param {{ num_output: {self.scaled(outputs)} "
                   f"{FILL} }}")
        self.relu(name)
        return self.layer("Dropout", f"drop_{name}", [name], "dropout_param { dropout_ratio: 0.5 }", top=name)

    def classify(self, name: str, bottom: str) -> str:
        """The last fully connected layer, softmax, and the whole text."""
        self.layer("InnerProduct", name, [bottom], f"inner_product_param {{ num_output: {CLASSES} {FILL} }}")
        self.layer("Softmax", "prob", [name])
        return "\n".join(self.lines) + "\n"


def dims(*shape: int) -> str:
    return "shape { %s }" % " ".join(f"dim: {size}" for size in shape)


def zf5_spp(width: float = 1 / 8, height: int = 112, wide: int = 128, batch: int = 1) -> str:
    """ZF-5 with the pyramid {6, 3, 2, 1}: any height and width (He et al.)."""
    net = Text("ZF-5 SPP", width, batch, 3, height, wide)
    norm = "norm_region: WITHIN_CHANNEL local_size: 3 alpha: 0.5 beta: 0.75"
    pool = "pool: MAX kernel_size: 3 stride: 2"
    x = net.lrn("norm1", net.conv("conv1", "data", 96, 7, "stride: 2 pad: 1"), norm)
    x = net.conv("conv2", net.pool("pool1", x, pool), 256, 5, "stride: 2 pad: 1")
    x = net.pool("pool2", net.lrn("norm2", x, norm), pool)
    for name, channels in (("conv3", 384), ("conv4", 384), ("conv5", 256)):
        x = net.conv(name, x, channels, 3, "pad: 1")
    x = net.layer("SPP", "spp", [x], "spp_param { bins: 6 bins: 3 bins: 2 bins: 1 }")
    return net.classify("fc8", net.fc("fc7", net.fc("fc6", x, 4096), 4096))


def overfeat7_spp(width: float = 1 / 16, height: int = 120, wide: int = 140, batch: int = 1) -> str:
    """Overfeat-7 with the pyramid {6, 3, 2, 1}: any height and width (He et al.)."""
    net = Text("Overfeat-7 SPP", width, batch, 3, height, wide)
    x = net.pool("pool1", net.conv("conv1", "data", 96, 7, "stride: 2"),
                 "pool: MAX kernel_size: 3 stride: 3 round_mode: FLOOR")
    x = net.lrn("norm1", x, "local_size: 5 alpha: 0.5 beta: 0.75")
    x = net.pool("pool2", net.conv("conv2", x, 256, 5, "pad: 2"), "pool: MAX kernel_size: 2 stride: 2")
    for i in range(3, 8):
        x = net.conv(f"conv{i}", x, 512, 3, "pad: 1")
    x = net.layer("SPP", "spp", [x], "spp_param { bins: 6 bins: 3 bins: 2 bins: 1 }")
    return net.classify("fc10", net.fc("fc9", net.fc("fc8", x, 4096), 4096))


def alexnet(width: float = 1 / 16, size: int = 227, batch: int = 1) -> str:
    """Caffe's bvlc_alexnet: groups, LRN across channels, pooling that rounds up."""
    net = Text("AlexNet", width, batch, 3, size, size)
    norm, pool = "local_size: 5 alpha: 0.5 beta: 0.75", "pool: MAX kernel_size: 3 stride: 2"
    x = net.pool("pool1", net.lrn("norm1", net.conv("conv1", "data", 96, 11, "stride: 4"), norm), pool)
    x = net.pool("pool2", net.lrn("norm2", net.conv("conv2", x, 256, 5, "pad: 2 group: 2"), norm), pool)
    x = net.conv("conv3", x, 384, 3, "pad: 1")
    x = net.conv("conv5", net.conv("conv4", x, 384, 3, "pad: 1 group: 2"), 256, 3, "pad: 1 group: 2")
    x = net.pool("pool5", x, pool)
    return net.classify("fc8", net.fc("fc7", net.fc("fc6", x, 4096), 4096))


# Channels of an inception module: 1x1, 3x3 reduced, 3x3, 5x5 reduced, 5x5, after the pooling.
INCEPTIONS = {"3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64), "4a": (192, 96, 208, 16, 48, 64),
              "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64), "4d": (112, 144, 288, 32, 64, 64),
              "4e": (256, 160, 320, 32, 128, 128), "5a": (256, 160, 320, 32, 128, 128),
              "5b": (384, 192, 384, 48, 128, 128)}


def googlenet(width: float = 1 / 8, size: int = 224, batch: int = 1) -> str:
    """Caffe's bvlc_googlenet without its auxiliary classifiers; its last pooling is global, so any size goes."""
    net = Text("GoogLeNet", width, batch, 3, size, size)
    norm, pool = "local_size: 5 alpha: 0.5 beta: 0.75", "pool: MAX kernel_size: 3 stride: 2"
    x = net.conv("conv1/7x7_s2", "data", 64, 7, "pad: 3 stride: 2")
    x = net.lrn("pool1/norm1", net.pool("pool1/3x3_s2", x, pool), norm)
    x = net.conv("conv2/3x3", net.conv("conv2/3x3_reduce", x, 64, 1), 192, 3, "pad: 1")
    x = net.pool("pool2/3x3_s2", net.lrn("conv2/norm2", x, norm), pool)
    for name, (one, reduce3, three, reduce5, five, pooled) in INCEPTIONS.items():
        at = f"inception_{name}"
        if name in ("4a", "5a"):
            x = net.pool(f"pool{int(name[0]) - 1}/3x3_s2", x, pool)
        parts = [net.conv(f"{at}/1x1", x, one, 1),
                 net.conv(f"{at}/3x3", net.conv(f"{at}/3x3_reduce", x, reduce3, 1), three, 3, "pad: 1"),
                 net.conv(f"{at}/5x5", net.conv(f"{at}/5x5_reduce", x, reduce5, 1), five, 5, "pad: 2"),
                 net.conv(f"{at}/pool_proj", net.pool(f"{at}/pool", x, "pool: MAX kernel_size: 3 stride: 1 pad: 1"),
                          pooled, 1)]
        x = net.layer("Concat", f"{at}/output", parts)
    x = net.pool("pool5", x, "pool: AVE global_pooling: true")
    return net.classify("loss3/classifier", x)


def vgg16(width: float = 1 / 16, size: int = 224, batch: int = 1) -> str:
    """VGG_ILSVRC_16_layers."""
    net = Text("VGG-16", width, batch, 3, size, size)
    x = "data"
    for block, (count, channels) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], 1):
        for i in range(1, count + 1):
            x = net.conv(f"conv{block}_{i}", x, channels, 3, "pad: 1")
        x = net.pool(f"pool{block}", x, "pool: MAX kernel_size: 2 stride: 2")
    return net.classify("fc8", net.fc("fc7", net.fc("fc6", x, 4096), 4096))


def resnet18(width: float = 1 / 8, height: int = 96, wide: int = 96, batch: int = 1) -> str:
    """ResNet-18 in the manner of the authors' prototxts: BatchNorm, Scale, Eltwise; any height and width."""
    net = Text("ResNet-18", width, batch, 3, height, wide)

    def normed(name: str, bottom: str, channels: int, kernel: int, extra: str, relu: bool) -> str:
        x = net.conv(f"res{name}", bottom, channels, kernel, extra, relu=False, bias=False)
        net.layer("BatchNorm", f"bn{name}", [x], "batch_norm_param { use_global_stats: true eps: 1e-3 }", top=x)
        net.layer("Scale", f"scale{name}", [x], "scale_param { bias_term: true filler { type: 'uniform' min: 0.5 "
                  "max: 1.5 } bias_filler { type: 'uniform' min: -0.3 max: 0.3 } }", top=x)
        return net.relu(x) if relu else x

    x = net.pool("pool1", normed("1", "data", 64, 7, "pad: 3 stride: 2", True), "pool: MAX kernel_size: 3 stride: 2")
    for stage, channels in enumerate((64, 128, 256, 512), 2):
        for block in "ab":
            at = f"{stage}{block}"
            stride = 2 if stage > 2 and block == "a" else 1
            shortcut = x
            if stride == 2:
                shortcut = normed(f"{at}_branch1", x, channels, 1, "stride: 2", False)
            y = normed(f"{at}_branch2a", x, channels, 3, f"pad: 1 stride: {stride}", True)
            y = normed(f"{at}_branch2b", y, channels, 3, "pad: 1", False)
            x = net.relu(net.layer("Eltwise", f"res{at}", [shortcut, y], "eltwise_param { operation: SUM }"))
    return net.classify("fc", net.pool("pool5", x, "pool: AVE global_pooling: true"))


def lstm(width: float = 1 / 8, steps: int = 6, streams: int = 3, inputs: int = 5) -> str:
    """A sequence labeller: x (steps x streams x inputs) and cont (steps x streams) to `prob` a step."""
    net = Text("LSTM", width, steps, streams, inputs, top="x")
    net.layer("Input", "cont", [], f"input_param {{ {dims(steps, streams)} }}")
    fill = "weight_filler { type: 'gaussian' std: 0.4 } bias_filler { type: 'uniform' min: -0.3 max: 0.3 }"
    x = "x"
    for name, units in (("lstm1", 128), ("lstm2", 64)):
        x = net.layer("LSTM", name, [x, "cont"], f"recurrent_param {{ num_output: {net.scaled(units)} {fill} }}")
    net.layer("InnerProduct", "fc", [x], f"inner_product_param {{ axis: 2 num_output: {CLASSES} {fill} }}")
    net.layer("Softmax", "prob", ["fc"], "softmax_param { axis: 2 }")
    return "\n".join(net.lines) + "\n"


# A net, and three sizes that it takes: shapes of its first input. The fully connected nets take those whose last
# map is still the same.
CASES: list[tuple[Callable[..., str], list[tuple[int, ...]]]] = [
    (zf5_spp, [(1, 3, 112, 128), (2, 3, 97, 180), (1, 3, 61, 64)]),
    (overfeat7_spp, [(1, 3, 120, 140), (2, 3, 97, 180), (1, 3, 61, 64)]),
    (alexnet, [(1, 3, 227, 227), (2, 3, 229, 230), (1, 3, 221, 208)]),
    (googlenet, [(1, 3, 224, 224), (2, 3, 97, 180), (1, 3, 65, 64)]),
    (vgg16, [(1, 3, 224, 224), (2, 3, 193, 210), (1, 3, 221, 200)]),
    (resnet18, [(1, 3, 96, 96), (2, 3, 97, 60), (1, 3, 65, 130)]),
    (lstm, [(6, 3, 5), (4, 2, 5), (9, 1, 5)]),
]


def build(text: str, phase: int = 1, seed: int = 0) -> Any:
    """The Net of a text on the host, with BatchNorm statistics that suit its weights and a factor other than 1."""
    net = Net(parse_net(text), phase, device="cpu", seed=seed)
    for name, values in inputs(net, seed=seed).items():
        net.blobs[name].data[...] = values
    for i, layer in enumerate(net.layers):
        if layer.type == "BatchNorm":
            x = np.array(net.bottoms[i][0].data, np.float64)
            axes = (0, *range(2, x.ndim))
            for blob, value in zip(layer.blobs, (x.mean(axes), x.var(axes), 1)):
                blob.data[...] = np.multiply(value, 7.3)
        net.forward_layers(i, i)
    return net


def inputs(net: Any, shape: tuple[int, ...] | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Random values for a net's inputs, the first of this shape; `cont` are the markers of its sequences."""
    rng = np.random.default_rng(seed)
    shape = shape or net.blobs[net.inputs[0]].shape
    values = {net.inputs[0]: rng.normal(size=shape).astype(np.float32)}
    if "cont" in net.inputs:
        values["cont"] = (rng.random(shape[:2]) < 0.7).astype(np.float32)
        values["cont"][0] = 0
    return values
