"""OpenCV's Caffe importer, an independent implementation, reads our files and computes what we compute.

Each net is written as prototxt, its seeded weights by Net.save, and both read the two files.
"""
import cv2
import numpy as np
import pytest

from opencv_nets import GAUSS, NETS, SCALE, layer, source, written
from spp.net import Net
from spp.proto import binary, caffe_pb2

IMAGE = (2, 3, 7, 10)
REGIONS = np.array([[0, 1, 2, 30, 22], [1, 0, 0, 39, 27], [1, 9, 5, 14, 8], [0, 20, 3, 33, 19]], np.float32)

# Type, parameters, bottoms (a shape, or values). Not here, since OpenCV 4 does not do what Caffe and its forks do
# (Caffe's own numbers: tests/engine/test_golden_layers.py):
# - it passes over k of LRN, transpose of InnerProduct, beta of Swish, and all parameters of Log;
# - MVN adds eps under the root instead of to it, so here eps is its tiny default;
# - PriorBox keeps the fraction of a size, which SSD cuts off, and wants a variance, which SSD does not;
# - Axpy scales bottom 2 and adds bottom 1, SENet the other way round;
# - Interp has no shrink_factor, LSTM other weights, Tile another parameter;
# - it has no ArgMax, BatchReindex, Bias, Clip, DepthwiseConvolution, Embed, Reduction, SPP, Threshold, Upsample.
ONE_LAYER = [
    ("Convolution", f"convolution_param {{ num_output: 5 kernel_size: 3 {GAUSS} }}", [IMAGE]),
    ("Convolution", f"convolution_param {{ num_output: 4 kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 3 pad_h: 1 "
     f"pad_w: 0 {GAUSS} }}", [IMAGE]),
    ("Convolution", f"convolution_param {{ num_output: 6 kernel_size: 3 pad: 2 dilation: 2 group: 2 {GAUSS} }}",
     [(2, 4, 7, 10)]),
    ("Convolution", f"convolution_param {{ num_output: 6 kernel_size: 3 pad: 1 stride: 2 group: 6 {GAUSS} }}",
     [(2, 6, 7, 10)]),
    ("Convolution", f"convolution_param {{ num_output: 5 kernel_size: 1 bias_term: false {GAUSS} }}", [IMAGE]),
    ("Convolution", f"convolution_param {{ num_output: 2 kernel_size: 2 kernel_size: 3 kernel_size: 2 stride: 1 "
     f"stride: 2 stride: 1 pad: 0 pad: 1 pad: 1 {GAUSS} }}", [(2, 3, 4, 5, 6)]),
    ("ConvolutionDepthwise", f"convolution_param {{ num_output: 3 kernel_size: 3 pad: 1 group: 3 {GAUSS} }}", [IMAGE]),
    ("Deconvolution", f"convolution_param {{ num_output: 4 kernel_size: 4 stride: 2 pad: 1 {GAUSS} }}", [IMAGE]),
    ("Deconvolution", f"convolution_param {{ num_output: 6 kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 2 pad_h: 0 "
     f"pad_w: 1 group: 2 {GAUSS} }}", [(2, 4, 5, 3)]),
    ("Deconvolution", "convolution_param { num_output: 3 kernel_size: 4 stride: 2 pad: 1 group: 3 bias_term: false "
     "weight_filler { type: 'bilinear' } }", [IMAGE]),
    ("Pooling", "pooling_param { kernel_size: 3 stride: 2 }", [(2, 3, 8, 11)]),
    ("Pooling", "pooling_param { kernel_size: 2 stride: 2 pad: 1 }", [IMAGE]),
    ("Pooling", "pooling_param { kernel_size: 3 stride: 2 pad: 1 }", [(2, 3, 8, 11)]),
    ("Pooling", "pooling_param { kernel_size: 2 stride: 3 }", [IMAGE]),
    ("Pooling", "pooling_param { kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 3 pad_h: 2 pad_w: 0 }", [IMAGE]),
    ("Pooling", "pooling_param { kernel_size: 2 stride: 2 ceil_mode: false }", [(2, 3, 7, 9)]),
    ("Pooling", "pooling_param { pool: MAX global_pooling: true }", [IMAGE]),
    ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", [(2, 3, 7, 9)]),
    ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 }", [(2, 3, 8, 11)]),
    ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", [(2, 3, 8, 11)]),
    ("Pooling", "pooling_param { pool: AVE global_pooling: true }", [IMAGE]),
    ("LRN", "lrn_param { local_size: 3 alpha: 1 beta: 0.75 }", [(2, 7, 4, 5)]),
    ("LRN", "lrn_param { local_size: 5 alpha: 2 beta: 0.6 }", [(2, 7, 4, 5)]),
    ("LRN", "lrn_param { local_size: 3 alpha: 1 beta: 0.75 norm_region: WITHIN_CHANNEL }", [IMAGE]),
    ("InnerProduct", f"inner_product_param {{ num_output: 4 {GAUSS} }}", [IMAGE]),
    ("InnerProduct", f"inner_product_param {{ num_output: 4 bias_term: false {GAUSS} }}", [(3, 6)]),
    ("InnerProduct", f"inner_product_param {{ num_output: 4 axis: 2 {GAUSS} }}", [(2, 3, 4, 5)]),
    ("InnerProduct", f"inner_product_param {{ num_output: 4 axis: -1 {GAUSS} }}", [(2, 3, 4, 5)]),
    ("ReLU", "", [IMAGE]),
    ("ReLU", "relu_param { negative_slope: 0.3 }", [IMAGE]),
    ("ReLU6", "", [IMAGE]),
    ("PReLU", "prelu_param { filler { type: 'uniform' min: -1 max: 1 } }", [IMAGE]),
    ("PReLU", "prelu_param { channel_shared: true filler { value: 0.4 } }", [IMAGE]),
    ("ELU", "elu_param { alpha: 0.7 }", [IMAGE]),
    ("Swish", "", [IMAGE]),
    ("Sigmoid", "", [IMAGE]),
    ("TanH", "", [IMAGE]),
    ("AbsVal", "", [IMAGE]),
    ("BNLL", "", [IMAGE]),
    ("Power", "power_param { power: 3 scale: 0.5 shift: 0.2 }", [IMAGE]),
    ("Power", "power_param { scale: -2 shift: 3 }", [IMAGE]),
    ("Exp", "", [IMAGE]),
    ("Exp", "exp_param { base: 2 scale: 0.5 shift: -1 }", [IMAGE]),
    ("Dropout", "dropout_param { dropout_ratio: 0.3 }", [IMAGE]),
    ("BatchNorm", "batch_norm_param { eps: 0.1 }", [IMAGE]),
    ("BatchNorm", "batch_norm_param { use_global_stats: false }", [(1, 3, 7, 10)]),
    ("Scale", f"scale_param {{ {SCALE} }}", [IMAGE]),
    ("Scale", f"scale_param {{ bias_term: true {SCALE} }}", [IMAGE]),
    ("Scale", f"scale_param {{ axis: 1 num_axes: 2 bias_term: true {SCALE} }}", [IMAGE]),
    ("Scale", "scale_param { axis: 0 }", [IMAGE, (2, 3)]),
    ("MVN", "", [IMAGE]),
    ("MVN", "mvn_param { across_channels: true }", [IMAGE]),
    ("MVN", "mvn_param { normalize_variance: false }", [IMAGE]),
    ("Normalize", "norm_param { scale_filler { value: 3 } eps: 0.1 }", [IMAGE]),
    ("Normalize", "norm_param { across_spatial: false channel_shared: false eps: 0.1 "
     "scale_filler { type: 'uniform' min: 1 max: 5 } }", [IMAGE]),
    ("Softmax", "", [IMAGE]),
    ("Softmax", "softmax_param { axis: 2 }", [IMAGE]),
    ("Eltwise", "eltwise_param { coeff: 2 coeff: -0.5 coeff: 1 }", [IMAGE] * 3),
    ("Eltwise", "", [IMAGE] * 2),
    ("Eltwise", "eltwise_param { operation: PROD }", [IMAGE] * 3),
    ("Eltwise", "eltwise_param { operation: MAX }", [IMAGE] * 3),
    ("Concat", "", [IMAGE, (2, 2, 7, 10)]),
    ("Concat", "concat_param { axis: 0 }", [IMAGE, (1, 3, 7, 10)]),
    ("Concat", "concat_param { axis: -1 }", [IMAGE, (2, 3, 7, 1)]),
    ("Crop", "crop_param { axis: 2 offset: 1 offset: 3 }", [IMAGE, (2, 3, 5, 6)]),
    ("Crop", "crop_param { axis: 1 offset: 1 }", [IMAGE, (2, 2, 5, 6)]),
    ("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 5 } }", [IMAGE]),
    ("Reshape", "reshape_param { axis: 1 num_axes: 2 shape { dim: 7 dim: 3 } }", [IMAGE]),
    ("Flatten", "", [IMAGE]),
    ("Flatten", "flatten_param { axis: 2 end_axis: 3 }", [IMAGE]),
    ("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }", [IMAGE]),
    ("Reorg", "reorg_param { stride: 2 }", [(2, 4, 6, 8)]),
    ("ShuffleChannel", "shuffle_channel_param { group: 2 }", [(2, 6, 3, 4)]),
    ("Interp", "interp_param { height: 11 width: 13 }", [IMAGE]),
    ("Interp", "interp_param { zoom_factor: 2 }", [IMAGE]),
    ("ROIPooling", "roi_pooling_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.25 }", [IMAGE, REGIONS]),
    ("PSROIPooling", "psroi_pooling_param { output_dim: 3 group_size: 2 spatial_scale: 0.25 }",
     [(2, 12, 7, 10), REGIONS]),
    ("PriorBox", "prior_box_param { min_size: 30 max_size: 60 aspect_ratio: 2 aspect_ratio: 3 flip: true clip: true "
     "variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 }", [(1, 4, 5, 7), (1, 3, 90, 130)]),
    ("PriorBox", "prior_box_param { min_size: 20 aspect_ratio: 2 flip: false clip: false step: 16 offset: 0.3 "
     "variance: 0.1 }",
     [(1, 4, 5, 7), (1, 3, 90, 130)]),
]


def one_layer(kind, params, bottoms):
    """A net of Inputs x0, x1, ... and one layer `out`; and the values of the bottoms that are no mere shapes."""
    values = {f"x{i}": b for i, b in enumerate(bottoms) if isinstance(b, np.ndarray)}
    inputs = [source(f"x{i}", *getattr(b, "shape", b)) for i, b in enumerate(bottoms)]
    return "".join(inputs) + layer(kind, "out", " ".join(f"x{i}" for i in range(len(bottoms))), params), values


def random_inputs(net):
    rng = np.random.default_rng(5)
    return {name: rng.normal(0, 1.5, net.blobs[name].shape).astype(np.float32) for name in net.inputs}


def assert_agree(net, deploy, weights, inputs):
    outputs = net.forward(**inputs)
    peer = cv2.dnn.readNetFromCaffe(deploy, weights)
    for name, x in inputs.items():
        peer.setInput(x, name)
    for name, expected in zip(net.outputs, peer.forward(net.outputs)):
        ours = outputs[name]
        assert ours.shape == expected.shape, name
        assert np.ptp(expected) > 0, name
        if net.layers[-1].type == "DetectionOutput":
            ours, expected = by_class_and_score(ours), by_class_and_score(expected)
        np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max(), rtol=0, err_msg=name)


def by_class_and_score(detections):
    """Detections in one order: SSD has class by class, OpenCV all by their scores."""
    rows = detections.reshape(-1, 7)
    return rows[np.lexsort((-rows[:, 2], rows[:, 1]))]


@pytest.mark.parametrize("kind, params, bottoms", [
    pytest.param(*row, id=f"{row[0]}-{row[1]}".replace(" ", "")[:70]) for row in ONE_LAYER])
def test_one_layer(tmp_path, kind, params, bottoms):
    text, values = one_layer(kind, params, bottoms)
    net, deploy, weights = written(text, tmp_path)
    assert_agree(net, deploy, weights, {**random_inputs(net), **values})


@pytest.mark.parametrize("name", NETS)
def test_net(tmp_path, name):
    net, deploy, weights = written(NETS[name], tmp_path)
    assert_agree(net, deploy, weights, random_inputs(net))


V1 = """
name: "v1" input: "x" input_dim: 2 input_dim: 4 input_dim: 9 input_dim: 11
layers { name: "c" type: CONVOLUTION bottom: "x" top: "c" blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
         convolution_param { num_output: 6 kernel_size: 3 pad: 1 group: 2 } }
layers { name: "r" type: RELU bottom: "c" top: "c" }
layers { name: "p" type: POOLING bottom: "c" top: "p" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layers { name: "n" type: LRN bottom: "p" top: "n" lrn_param { local_size: 3 alpha: 2 beta: 0.75 } }
layers { name: "fc" type: INNER_PRODUCT bottom: "n" top: "fc" inner_product_param { num_output: 5 } }
layers { name: "prob" type: SOFTMAX bottom: "fc" top: "prob" }
"""


def test_a_v1_caffemodel(tmp_path):
    """Files of 2014: V1 layers, and blobs with num, channels, height and width."""
    deploy, weights = tmp_path / "deploy.prototxt", str(tmp_path / "net.caffemodel")
    deploy.write_text(V1)
    rng = np.random.default_rng(7)
    model = caffe_pb2.NetParameter(name="v1")
    for name, kind, weight, outputs in (("c", "CONVOLUTION", (6, 2, 3, 3), 6),
                                        ("fc", "INNER_PRODUCT", (1, 1, 5, 120), 5)):
        saved = model.layers.add(name=name, type=caffe_pb2.V1LayerParameter.LayerType.Value(kind))
        for shape in (weight, (1, 1, 1, outputs)):
            num, channels, height, width = shape
            saved.blobs.add(num=num, channels=channels, height=height, width=width,
                            data=rng.normal(0, 0.2, num * channels * height * width))
    binary.write_binary(model, weights)
    net = Net(str(deploy), weights=weights)
    assert_agree(net, str(deploy), weights, random_inputs(net))
