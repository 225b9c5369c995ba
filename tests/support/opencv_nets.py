"""Nets that OpenCV reads too, as prototxt."""
import numpy as np

from spp.net import Net

GAUSS = "weight_filler { type: 'gaussian' std: 0.5 } bias_filler { type: 'gaussian' std: 0.5 }"
SCALE = "filler { type: 'uniform' min: 0.5 max: 2 } bias_filler { type: 'gaussian' std: 1 }"


def layer(kind, name, bottoms, params="", tops=None):
    """A layer as prototxt; its top has its name, as OpenCV calls an output by the layer that made it."""
    blobs = " ".join([*(f"bottom: '{b}'" for b in bottoms.split()), *(f"top: '{t}'" for t in (tops or name).split())])
    return f"layer {{ name: '{name}' type: '{kind}' {blobs} {params} }}\n"


def conv(name, bottom, outputs, more, kind="Convolution", fillers=GAUSS):
    return layer(kind, name, bottom, f"convolution_param {{ num_output: {outputs} {more} {fillers} }}")


def source(name, *shape):
    return layer("Input", name, "", f"input_param {{ shape {{ {' '.join(f'dim: {d}' for d in shape)} }} }}")


def relu(blob):
    return layer("ReLU", f"{blob}/relu", blob, tops=blob)


def conv_bn(name, bottom, outputs, more):
    """Convolution, BatchNorm and Scale in place, as ResNets have them."""
    text = f"convolution_param {{ num_output: {outputs} bias_term: false {more} weight_filler {{ type: 'msra' }} }}"
    return (layer("Convolution", name, bottom, text) + layer("BatchNorm", f"{name}/bn", name, tops=name)
            + layer("Scale", f"{name}/scale", name, f"scale_param {{ bias_term: true {SCALE} }}", tops=name))


def ssd_head(feature, boxes, size):
    """Boxes, scores (3 classes) and priors of one feature map."""
    text = layer("PriorBox", f"{feature}/prior", f"{feature} x", f"prior_box_param {{ min_size: {size} max_size: "
                 f"{2 * size} aspect_ratio: 2 flip: true clip: false variance: 0.1 variance: 0.1 variance: 0.2 "
                 "variance: 0.2 }")
    for kind, outputs in (("loc", 4 * boxes), ("conf", 3 * boxes)):
        name = f"{feature}/{kind}"
        text += conv(name, feature, outputs, "kernel_size: 3 pad: 1", fillers=GAUSS.replace("0.5", "0.05"))
        text += layer("Permute", f"{name}/p", name, "permute_param { order: 0 order: 2 order: 3 order: 1 }")
        text += layer("Flatten", f"{name}/f", f"{name}/p")
    return text


NETS = {
    "logarithm": source("x", 2, 3, 4, 5)
    + layer("Power", "positive", "x", "power_param { power: 2 scale: 0.3 shift: 4 }")
    + layer("Log", "out", "positive"),

    "inception": source("x", 2, 3, 33, 40)
    + conv("c1", "x", 8, "kernel_size: 5 stride: 2 pad: 1") + relu("c1")
    + layer("Pooling", "p1", "c1", "pooling_param { kernel_size: 3 stride: 2 }")
    + layer("LRN", "n1", "p1", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.75 }")
    + conv("a", "n1", 4, "kernel_size: 1") + relu("a")
    + conv("b", "n1", 6, "kernel_size: 3 pad: 1 group: 2") + relu("b")
    + layer("Pooling", "q", "n1", "pooling_param { kernel_size: 3 stride: 1 pad: 1 }")
    + conv("d", "q", 3, "kernel_size: 1")
    + layer("Concat", "cat", "a b d")
    + layer("Pooling", "p2", "cat", "pooling_param { pool: AVE kernel_size: 3 stride: 2 }")
    + layer("Dropout", "drop", "p2", "dropout_param { dropout_ratio: 0.4 }", tops="p2")
    + layer("InnerProduct", "fc", "p2", f"inner_product_param {{ num_output: 7 {GAUSS} }}")
    + layer("Power", "small", "fc", "power_param { scale: 0.05 }")
    + layer("Softmax", "prob", "small"),

    "slices": source("x", 2, 7, 5, 4)
    + layer("Slice", "s", "x", "slice_param { slice_point: 1 slice_point: 4 }", "s0 s1 s2")
    + layer("TanH", "t", "s0") + layer("ReLU", "r", "s1", "relu_param { negative_slope: 0.1 }")
    + layer("Concat", "back", "s2 r t s1")
    + layer("Slice", "h", "back", "slice_param { axis: 2 slice_point: 2 }", "h0 h1")
    + layer("Power", "low", "h1", "power_param { power: 2 }") + layer("Flatten", "flat0", "h0")
    + layer("Flatten", "flat1", "low") + layer("Concat", "both", "flat0 flat1")
    + layer("Eltwise", "twice", "back back", "eltwise_param { coeff: 1 coeff: 0.5 }"),

    "residual": source("x", 2, 3, 21, 26)
    + conv_bn("c1", "x", 6, "kernel_size: 3 stride: 2 pad: 1") + relu("c1")
    + conv_bn("a1", "c1", 4, "kernel_size: 1 stride: 2") + relu("a1") + conv_bn("a2", "a1", 8, "kernel_size: 3 pad: 1")
    + conv_bn("short", "c1", 8, "kernel_size: 1 stride: 2") + layer("Eltwise", "sum", "a2 short") + relu("sum")
    + layer("Pooling", "pool", "sum", "pooling_param { pool: AVE global_pooling: true }")
    + layer("InnerProduct", "fc", "pool", f"inner_product_param {{ num_output: 5 {GAUSS} }}")
    + layer("Softmax", "prob", "fc"),

    "fully_convolutional": source("x", 1, 3, 22, 29)
    + conv("c1", "x", 6, "kernel_size: 3 pad: 9") + relu("c1")
    + layer("Pooling", "p1", "c1", "pooling_param { kernel_size: 2 stride: 2 }")
    + conv("c2", "p1", 8, "kernel_size: 3 dilation: 2 pad: 2")
    + layer("PReLU", "c2/act", "c2", "prelu_param { filler { type: 'uniform' max: 0.5 } }", "c2")
    + layer("Pooling", "p2", "c2", "pooling_param { kernel_size: 3 stride: 2 }")
    + conv("deep", "p2", 4, "kernel_size: 1") + conv("up2", "deep", 4, "kernel_size: 4 stride: 2", "Deconvolution")
    + conv("skip", "p1", 4, "kernel_size: 1")
    + layer("Crop", "up2/cut", "up2 skip", "crop_param { axis: 2 offset: 1 }")
    + layer("Eltwise", "fused", "up2/cut skip")
    + conv("up4", "fused", 4, "kernel_size: 4 stride: 2 group: 2", "Deconvolution")
    + layer("Crop", "score", "up4 x", "crop_param { axis: 2 offset: 5 offset: 7 }")
    + layer("Softmax", "prob", "score"),

    "detector": source("x", 1, 3, 40, 56)
    + conv("c1", "x", 6, "kernel_size: 3 stride: 4 pad: 1") + relu("c1")
    + layer("Normalize", "m1", "c1",
            "norm_param { across_spatial: false channel_shared: false scale_filler { value: 2 } }")
    + conv("m2", "c1", 6, "kernel_size: 3 stride: 2 pad: 1") + relu("m2")
    + ssd_head("m1", 4, 9) + ssd_head("m2", 4, 20)
    + layer("Concat", "prior", "m1/prior m2/prior", "concat_param { axis: 2 }")
    + layer("Concat", "loc", "m1/loc/f m2/loc/f") + layer("Concat", "conf", "m1/conf/f m2/conf/f")
    + layer("Reshape", "scores", "conf", "reshape_param { shape { dim: 0 dim: -1 dim: 3 } }")
    + layer("Softmax", "probs", "scores", "softmax_param { axis: 2 }") + layer("Flatten", "flat", "probs")
    + layer("DetectionOutput", "found", "loc flat prior",
            "detection_output_param { num_classes: 3 share_location: true background_label_id: 0 "
            "code_type: CENTER_SIZE nms_param { nms_threshold: 0.45 top_k: 100 } keep_top_k: 50 "
            "confidence_threshold: 0.4 }"),
}


def written(text, folder):
    """The net of a text, with seeded weights, and the paths of its prototxt and caffemodel."""
    deploy, weights = str(folder / "deploy.prototxt"), str(folder / "net.caffemodel")
    (folder / "deploy.prototxt").write_text(text)
    net = Net(deploy, seed=3)
    rng = np.random.default_rng(4)
    for layer in net.layers:
        if layer.type == "BatchNorm":
            mean, variance, factor = layer.blobs
            mean.data[...], variance.data[...] = rng.normal(size=mean.shape), rng.uniform(1, 8, variance.shape)
            factor.data[...] = 4
    net.save(weights)
    return net, deploy, weights
