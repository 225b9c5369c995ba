"""The nets that the benchmarks run, as layers from the images `data` to the `scores` of 1,000 classes.

`inference` and `training` add inputs and outputs. ZF-5 and Overfeat-7 are those of prototxt/; AlexNet, VGG-16,
SqueezeNet 1.0 and ResNet-18 follow their papers and Caffe's model zoo.
"""
from pathlib import Path
from typing import Any, Callable

from spp.proto import text

PROTOTXT = Path(__file__).resolve().parent.parent / "prototxt"
CLASSES = 1000


class _Text:
    """Builds a net's prototxt layer by layer; each method returns the name of the top blob."""

    def __init__(self) -> None:
        self.layers: list[str] = []

    def layer(self, kind: str, name: str, bottoms: str | tuple[str, ...], param: str = "",
              in_place: bool = False) -> str:
        bottoms = (bottoms,) if isinstance(bottoms, str) else bottoms
        top = bottoms[0] if in_place else name
        reads = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
        self.layers.append(f'layer {{ name: "{name}" type: "{kind}" {reads} top: "{top}" {param} }}')
        return top

    def conv(self, name: str, bottom: str, outputs: int, kernel: int, stride: int = 1, pad: int = 0, *,
             group: int = 1, relu: bool = True, bias: bool = True) -> str:
        """Convolution, followed by a ReLU unless `relu` is False."""
        self.layer("Convolution", name, bottom, f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} "
                   f"stride: {stride} pad: {pad} group: {group} bias_term: {str(bias).lower()} "
                   'weight_filler { type: "msra" } }')
        return self.relu(name) if relu else name

    def relu(self, bottom: str) -> str:
        return self.layer("ReLU", f"relu_{bottom}", bottom, in_place=True)

    def pool(self, name: str, bottom: str, kernel: int = 3, stride: int = 2) -> str:
        return self.layer("Pooling", name, bottom,
                          f"pooling_param {{ pool: MAX kernel_size: {kernel} stride: {stride} }}")

    def mean(self, name: str, bottom: str) -> str:
        return self.layer("Pooling", name, bottom, "pooling_param { pool: AVE global_pooling: true }")

    def normalize(self, name: str, bottom: str) -> str:
        return self.layer("LRN", name, bottom, "lrn_param { local_size: 5 alpha: 1e-4 beta: 0.75 }")

    def fc(self, name: str, bottom: str, outputs: int) -> str:
        self.layer("InnerProduct", name, bottom, f"inner_product_param {{ num_output: {outputs} "
                   'weight_filler { type: "gaussian" std: 0.005 } }')
        return name

    def dropout(self, bottom: str) -> str:
        return self.layer("Dropout", f"drop_{bottom}", bottom, in_place=True)

    def classifier(self, bottom: str) -> str:
        """Three fully connected layers, as in AlexNet and VGG."""
        for name in ("fc6", "fc7"):
            bottom = self.dropout(self.relu(self.fc(name, bottom, 4096)))
        return self.fc("scores", bottom, CLASSES)

    def __str__(self) -> str:
        return "\n".join(self.layers)


def alexnet() -> str:
    """Krizhevsky et al. 2012, as Caffe's bvlc_alexnet."""
    net = _Text()
    x = net.pool("pool1", net.normalize("norm1", net.conv("conv1", "data", 96, 11, 4)))
    x = net.pool("pool2", net.normalize("norm2", net.conv("conv2", x, 256, 5, pad=2, group=2)))
    x = net.conv("conv4", net.conv("conv3", x, 384, 3, pad=1), 384, 3, pad=1, group=2)
    net.classifier(net.pool("pool5", net.conv("conv5", x, 256, 3, pad=1, group=2)))
    return str(net)


def vgg16() -> str:
    """Simonyan and Zisserman 2014, configuration D."""
    net, x = _Text(), "data"
    for block, (count, outputs) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], 1):
        for i in range(count):
            x = net.conv(f"conv{block}_{i + 1}", x, outputs, 3, pad=1)
        x = net.pool(f"pool{block}", x, 2)
    net.classifier(x)
    return str(net)


def squeezenet() -> str:
    """Iandola et al. 2016, version 1.0."""
    net = _Text()
    x = net.pool("pool1", net.conv("conv1", "data", 96, 7, 2))
    for number, (squeeze, expand) in enumerate([(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192),
                                                (64, 256), (64, 256)], 2):
        name = f"fire{number}"
        x = net.conv(f"{name}_squeeze", x, squeeze, 1)
        x = net.layer("Concat", name, (net.conv(f"{name}_1x1", x, expand, 1),
                                       net.conv(f"{name}_3x3", x, expand, 3, pad=1)))
        if number in (4, 8):
            x = net.pool(f"pool{number}", x)
    net.mean("scores", net.conv("conv10", net.dropout(x), CLASSES, 1))
    return str(net)


def resnet18() -> str:
    """He et al. 2015; Caffe's pooling rounds output sizes up, the paper's rounds them down."""
    net = _Text()

    def normed(name: str, bottom: str, outputs: int, kernel: int, stride: int = 1) -> str:
        x = net.conv(name, bottom, outputs, kernel, stride, kernel // 2, relu=False, bias=False)
        net.layer("BatchNorm", f"bn_{name}", x, in_place=True)
        return net.layer("Scale", f"scale_{name}", x, "scale_param { bias_term: true }", in_place=True)

    x = net.pool("pool1", net.relu(normed("conv1", "data", 64, 7, 2)))
    inputs = 64
    for stage, outputs in enumerate((64, 128, 256, 512), 2):
        for block in "ab":
            name, stride = f"res{stage}{block}", 2 if stage > 2 and block == "a" else 1
            branch = normed(f"{name}_2", net.relu(normed(f"{name}_1", x, outputs, 3, stride)), outputs, 3)
            if inputs != outputs:
                x, inputs = normed(f"{name}_shortcut", x, outputs, 1, stride), outputs
            x = net.relu(net.layer("Eltwise", name, (x, branch)))
    net.fc("scores", net.mean("pool5", x), CLASSES)
    return str(net)


def _from_file(name: str) -> Callable[[], str]:
    """The layers of a net in prototxt/ between its data and its loss."""
    def layers() -> str:
        param = text.read_net(str(PROTOTXT / f"{name}_train_val.prototxt"))
        inner = [layer for layer in param.layer
                 if layer.type not in ("Data", "SoftmaxWithLoss", "Accuracy", "Softmax")]
        inner[-1].top[0] = "scores"
        del param.layer[:]
        param.layer.extend(inner)
        return text.to_text(param)
    return layers


zf5_spp, overfeat7_spp = _from_file("zf5_spp"), _from_file("overfeat7_spp")

# the layers, and the side of the images
NETS: dict[str, tuple[Callable[[], str], int]] = {
    "zf5_spp": (zf5_spp, 224), "overfeat7_spp": (overfeat7_spp, 224), "alexnet": (alexnet, 227),
    "vgg16": (vgg16, 224), "squeezenet": (squeezenet, 227), "resnet18": (resnet18, 224)}


def inference(name: str, batch: int, size: int | None = None) -> Any:
    """The NetParameter that computes the probabilities `prob` of `batch` images `data`."""
    layers, side = NETS[name]
    shape = f"shape {{ dim: {batch} dim: 3 dim: {size or side} dim: {size or side} }}"
    return text.parse_net(f"""name: "{name}"
        layer {{ name: "data" type: "Input" top: "data" input_param {{ {shape} }} }} {_unnamed(layers())}
        layer {{ name: "prob" type: "Softmax" bottom: "scores" top: "prob" }}""")


def training(name: str, batch: int, size: int | None = None) -> Any:
    """The NetParameter that computes the loss `loss` of `batch` images `data` with labels `label`."""
    layers, side = NETS[name]
    shape = f"shape {{ dim: {batch} dim: 3 dim: {size or side} dim: {size or side} }} shape {{ dim: {batch} }}"
    return text.parse_net(f"""name: "{name}"
        layer {{ name: "data" type: "Input" top: "data" top: "label" input_param {{ {shape} }} }} {_unnamed(layers())}
        layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" }}""")


def _unnamed(layers: str) -> str:
    """The text of the layers without the name of the net."""
    return layers[layers.index("layer"):]


def parts(name: str, windows: int, features: int) -> tuple[Any, Any]:
    """An SPP-net in two NetParameters: from images `data` to the input of its SPP layer; from SPP features to `prob`.

    The input of the second has the shape `windows` x `features`.
    """
    whole = inference(name, 1)
    place = next(i for i, layer in enumerate(whole.layer) if layer.type == "SPP")
    pooled = whole.layer[place].top[0]
    rest = text.parse_net(f"""layer {{ name: "data" type: "Input" top: "{pooled}" input_param {{
        shape {{ dim: {windows} dim: {features} }} }} }}""")
    rest.layer.extend(whole.layer[place + 1:])
    del whole.layer[place:]
    return whole, rest
