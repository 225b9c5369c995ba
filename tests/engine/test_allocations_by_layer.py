"""No layer of any type allocates in its stride: forward and backward ask for no more than a few small objects.

Beside Python's objects these are vectors of one number an image, channel, label or region: the blobs here have few of
each. What NumPy takes as buffers, of the same size for every blob, is made small, so as not to hide anything.
"""
from typing import Any

import numpy as np
import pytest

from every_layer_rows import FILLED, GAUSS, STATISTICS, Row
from spp.layers import TEST, types
from spp.net import Net
from spp.proto.text import parse_net
from test_allocations import SMALL, most_allocated
from test_every_layer import make

X = (4, 16, 64, 72)         # 1.2 MB in single precision, 29 times SMALL
FLAT = (4, 73728)
PIXELS = (4, 400, 16, 13)   # 400 classes of 832 pixels
LARGE = [
    Row("Convolution", f"convolution_param {{ num_output: 16 kernel_size: 3 pad: 1 {GAUSS} }}", [X]),
    Row("Convolution", f"convolution_param {{ num_output: 16 kernel_size: 3 stride: 2 group: 2 {GAUSS} }}", [X]),
    Row("Convolution", f"convolution_param {{ num_output: 16 kernel_size: 1 bias_term: false {GAUSS} }}", [X]),
    Row("Deconvolution", f"convolution_param {{ num_output: 16 kernel_size: 4 stride: 2 pad: 1 group: 16 {GAUSS} }}",
        [X]),
    Row("Deconvolution", f"convolution_param {{ num_output: 4 kernel_size: 2 stride: 2 {GAUSS} }}", [X]),
    Row("ConvolutionDepthwise", f"convolution_param {{ num_output: 16 kernel_size: 3 pad: 1 {GAUSS} }}", [X]),
    Row("DepthwiseConvolution", f"convolution_param {{ num_output: 16 kernel_size: 3 pad: 1 group: 16 {GAUSS} }}",
        [X]),
    Row("Im2col", "convolution_param { kernel_size: 3 stride: 2 pad: 1 }", [X]),
    Row("Im2col", "convolution_param { kernel_size: 5 stride: 2 axis: 1 }", [(4, 16, 16, 20, 20)]),
    Row("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 }", [X]),
    Row("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 }", [X], tops=2),
    Row("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", [X]),
    Row("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 1 }", [X], positive=True),
    Row("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 1 }", [X], positive=True, phase=TEST),
    Row("SPP", "spp_param { bins: 6 bins: 3 bins: 1 }", [X]),
    Row("SPP", "spp_param { bins: 6 bins: 3 bins: 1 pool: AVE }", [X]),
    Row("LRN", "lrn_param { local_size: 5 alpha: 1 beta: 0.75 }", [X]),
    Row("LRN", "lrn_param { local_size: 3 alpha: 1 beta: 0.75 norm_region: WITHIN_CHANNEL }", [X]),
    Row("ReLU", "relu_param { negative_slope: 0.3 }", [X]),
    Row("ReLU6", "relu6_param { negative_slope: 0.3 }", [X]),
    Row("PReLU", "", [X]),
    Row("PReLU", "prelu_param { channel_shared: true }", [FLAT]),
    Row("TanH", "", [X]),
    Row("Sigmoid", "", [X]),
    Row("Swish", "swish_param { beta: -1.5 }", [X]),
    Row("BNLL", "", [X]),
    Row("ELU", "elu_param { alpha: 0.6 }", [X]),
    Row("AbsVal", "", [X]),
    Row("Clip", "clip_param { min: -0.7 max: 1.2 }", [X]),
    Row("Exp", "exp_param { base: 2 scale: -0.6 shift: 0.4 }", [X]),
    Row("Log", "log_param { base: 10 scale: 0.7 shift: 0.2 }", [X], positive=True),
    Row("Power", "power_param { power: 2.5 scale: 0.7 shift: 0.2 }", [X], positive=True),
    Row("Threshold", "threshold_param { threshold: 0.3 }", [X]),
    Row("Dropout", "dropout_param { dropout_ratio: 0.3 }", [X]),
    Row("Dropout", "dropout_param { dropout_ratio: 0.3 scale_train: false }", [X], phase=TEST),
    Row("InnerProduct", f"inner_product_param {{ num_output: 40 {GAUSS} }}", [X]),
    Row("InnerProduct", f"inner_product_param {{ num_output: 70 axis: 3 transpose: true {GAUSS} }}", [X]),
    Row("LSTM", f"recurrent_param {{ num_output: 80 {GAUSS} }}", [(50, 64, 30), (50, 64)], labels={1: 2}),
    Row("LSTM", f"recurrent_param {{ num_output: 80 expose_hidden: true {GAUSS} }}",
        [(50, 64, 30), (50, 64), (64, 20), (1, 64, 80), (1, 64, 80)], tops=3, labels={1: 2}),
    Row("LSTM", f"recurrent_param {{ num_output: 400 {GAUSS} }}", [(6, 256, 3), (6, 256)], labels={1: 2}),
    Row("RNN", f"recurrent_param {{ num_output: 80 {GAUSS} }}", [(50, 64, 30), (50, 64), (64, 20)], labels={1: 2}),
    Row("RNN", f"recurrent_param {{ num_output: 400 expose_hidden: true {GAUSS} }}",
        [(6, 256, 3), (6, 256), (1, 256, 400)], tops=2, labels={1: 2}),
    Row("LSTMUnit", "", [(1, 256, 400), (1, 256, 1600), (1, 256)], tops=2, labels={2: 2}),
    Row("Scale", f"scale_param {{ bias_term: true {FILLED} bias_{FILLED} }}", [X]),
    Row("Scale", f"scale_param {{ axis: -2 num_axes: -1 bias_term: true {FILLED} }}", [(4, 300, 15, 18)]),
    Row("Scale", f"scale_param {{ num_axes: 0 {FILLED} bias_term: true }}", [X]),
    Row("Scale", "scale_param { axis: 0 }", [X, X[:2]]),
    Row("Scale", "scale_param { axis: 0 }", [X, X]),
    Row("Bias", f"bias_param {{ {FILLED} }}", [X]),
    Row("Bias", f"bias_param {{ axis: 2 num_axes: 2 {FILLED} }}", [(4, 300, 15, 18)]),
    Row("Bias", "bias_param { axis: 0 }", [X, X[:2]]),
    Row("Bias", "bias_param { axis: 0 }", [X, X]),
    Row("BatchNorm", "", [X]),
    Row("BatchNorm", "", [FLAT[::-1]]),
    Row("BatchNorm", "batch_norm_param { eps: 0.1 } " + STATISTICS, [(4, 3, 150, 160)], phase=TEST),
    Row("BatchNorm", "batch_norm_param { scale_bias: true scale_filler { type: 'uniform' min: -1.5 max: 2 } "
        "bias_filler { type: 'gaussian' std: 0.5 } }", [X]),
    Row("MVN", "", [X]),
    Row("MVN", "mvn_param { across_channels: true }", [X]),
    Row("MVN", "mvn_param { normalize_variance: false }", [X]),
    Row("Normalize", "norm_param { across_spatial: false channel_shared: false "
        "scale_filler { type: 'uniform' min: 0.5 max: 2 } }", [X]),
    Row("Normalize", "norm_param { scale_filler { value: 1.5 } eps: 0.3 }", [X]),
    Row("Reduction", "reduction_param { operation: SUM coeff: 0.7 axis: 1 }", [X]),
    Row("Reduction", "reduction_param { operation: ASUM axis: 1 }", [X]),
    Row("Reduction", "reduction_param { operation: SUMSQ coeff: -0.5 }", [X]),
    Row("Reduction", "reduction_param { operation: MEAN coeff: 3 axis: 2 }", [X]),
    Row("ArgMax", "argmax_param { top_k: 3 out_max_val: true }", [X]),
    Row("ArgMax", "argmax_param { axis: 1 }", [X]),
    Row("BatchReindex", "", [X, (6,)], labels={1: 4}),
    Row("BatchReindex", "", [(40, 8192), (30,)], labels={1: 40}),
    Row("Filter", "", [X, X, (4,)], tops=2, labels={2: 2}),
    Row("Embed", f"embed_param {{ input_dim: 700 num_output: 512 {GAUSS} }}", [(12, 50)], labels={0: 700}),
    Row("Crop", "crop_param { offset: 1 offset: 2 }", [X, (4, 16, 60, 68)]),
    Row("Crop", "crop_param { axis: 1 offset: 1 }", [X, (1, 14, 60, 68)]),
    Row("Tile", "tile_param { tiles: 3 }", [X]),
    Row("Tile", "tile_param { axis: -1 tiles: 2 }", [X]),
    Row("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 8 dim: 9 } }", [X]),
    Row("Flatten", "", [X]),
    Row("Concat", "", [X, X]),
    Row("Concat", "concat_param { axis: 0 }", [X, X]),
    Row("Slice", "slice_param { slice_point: 3 slice_point: 9 }", [X], tops=3),
    Row("Slice", "slice_param { axis: -1 }", [X], tops=2),
    Row("Split", "", [X], tops=3),
    Row("Silence", "", [X], tops=0),
    Row("Eltwise", "eltwise_param { operation: SUM coeff: 2 coeff: -0.5 coeff: 1 }", [X] * 3),
    Row("Eltwise", "eltwise_param { operation: PROD }", [X] * 3),
    Row("Eltwise", "eltwise_param { operation: PROD stable_prod_grad: false }", [X] * 2),
    Row("Eltwise", "eltwise_param { operation: MAX }", [X] * 3),
    Row("Axpy", "", [X[:2], X, X]),
    Row("Softmax", "", [PIXELS]),
    Row("Softmax", "", [FLAT]),
    Row("SoftmaxWithLoss", "", [FLAT, (4,)], labels={1: 73728}),
    Row("SoftmaxWithLoss", "loss_param { ignore_label: 2 normalization: FULL } loss_weight: 3",
        [PIXELS, (4, 16, 13)], labels={1: 400}),
    Row("SoftmaxWithLoss", "loss_param { ignore_label: 2 }", [(4, 21, 64, 72), (4, 64, 72)], labels={1: 21}),
    Row("InfogainLoss", "", [(1024, 300), (1024,), (300, 300)], labels={1: 300, 2: 4}),
    Row("InfogainLoss", "loss_param { ignore_label: 1 }", [PIXELS, (4, 16, 13), (400, 400)],
        labels={1: 400, 2: 4}),
    Row("MultinomialLogisticLoss", "", [FLAT, (4,)], labels={1: 73728}, positive=True),
    Row("MultinomialLogisticLoss", "", [X, (4,)], labels={1: 73728}, positive=True),
    Row("HingeLoss", "", [FLAT, (4,)], labels={1: 73728}),
    Row("HingeLoss", "hinge_loss_param { norm: L2 } loss_weight: 2", [X, (4,)], labels={1: 73728}),
    Row("EuclideanLoss", "loss_weight: 3", [X, FLAT]),
    Row("EuclideanLoss", "", [X, X]),
    Row("ContrastiveLoss", "", [FLAT, FLAT, (4,)], labels={2: 2}),
    Row("ContrastiveLoss", "contrastive_loss_param { legacy_version: true margin: 9 }", [X, X, (4,)], labels={2: 2}),
    Row("SigmoidCrossEntropyLoss", "", [X, X], labels={1: 2}),
    Row("SigmoidCrossEntropyLoss", "loss_param { ignore_label: 2 normalization: VALID }", [X, FLAT], labels={1: 3}),
    Row("SmoothL1Loss", "", [X, X]),
    Row("SmoothL1Loss", "smooth_l1_loss_param { sigma: 0.7 } loss_weight: 2", [X, FLAT, X, FLAT],
        labels={2: 3, 3: 4}),
    Row("Accuracy", "accuracy_param { top_k: 2 }", [FLAT, (4,)], labels={1: 73728}),
    Row("Accuracy", "accuracy_param { ignore_label: 3 }", [PIXELS, (4, 16, 13)], tops=2, labels={1: 400}),
    Row("ROIPooling", "roi_pooling_param { pooled_h: 6 pooled_w: 6 }", [(4, 128, 32, 36), (100, 5)], labels={1: 4}),
    Row("PSROIPooling", "psroi_pooling_param { output_dim: 20 group_size: 3 spatial_scale: 1.3 }",
        [(4, 180, 20, 25), (100, 5)], labels={1: 4}),
    Row("Interp", "interp_param { height: 70 width: 60 pad_beg: -1 }", [X]),
    Row("Upsample", "upsample_param { scale: 2 }", [X]),
    Row("Upsample", "upsample_param { scale: 2 }", [X, X], labels={1: 4 * 64 * 72}),
    Row("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }", [X]),
    Row("Permute", "permute_param { order: 2 }", [X]),
    Row("Reorg", "reorg_param { stride: 2 }", [X]),
    Row("Reorg", "reorg_param { stride: 2 reverse: true }", [X]),
    Row("ShuffleChannel", "shuffle_channel_param { group: 4 }", [X]),
    Row("PriorBox", "prior_box_param { min_size: 3 max_size: 6 aspect_ratio: 2 }",
        [(1, 3, 160, 120), (1, 3, 320, 240)]),
]
WITHOUT_ROW = {"DetectionOutput": "has as many detections as the scores say",
               "Data": "decodes records, which are of any size", "ImageData": "decodes images, which are of any size",
               "WindowData": "decodes images, which are of any size", "HDF5Data": "reads files",
               "HDF5Output": "appends to a file", "Input": "its tops are the caller's to fill",
               "DummyData": "see test_tops_from_nothing", "Parameter": "see test_tops_from_nothing",
               "MemoryData": "see test_examples_in_memory", "Python": "the user's own code"}


def test_every_type_has_a_row():
    assert set(types()) - {row.type for row in LARGE} == set(WITHOUT_ROW)


@pytest.fixture(autouse=True)
def _small_buffers():
    before = np.setbufsize(512)
    yield
    np.setbufsize(before)


@pytest.mark.parametrize("row", LARGE, ids=lambda row: row.id)
def test_forward_and_backward(row):
    net = make(row, np.float32)
    assert max(blob.data.nbytes for blob in net.blobs.values()) > 20 * SMALL
    assert most_allocated(net.forward) < SMALL
    assert most_allocated(net.backward) < SMALL


@pytest.mark.parametrize("layer", [
    "type: 'DummyData' dummy_data_param { shape { dim: 4 dim: 73728 } data_filler { value: 3 } }",
    "type: 'Parameter' parameter_param { shape { dim: 4 dim: 73728 } }"])
def test_tops_from_nothing(layer):
    net = Net(parse_net(f"force_backward: true layer {{ name: 'x' top: 'x' {layer} }}"
                        "layer { name: 'y' type: 'Power' bottom: 'x' top: 'y' }"))
    assert most_allocated(net.forward) < SMALL
    assert most_allocated(net.backward) < SMALL


def test_examples_in_memory():
    net = Net(parse_net("layer { name: 'x' type: 'MemoryData' top: 'x' top: 'label' memory_data_param { "
                        "batch_size: 4 channels: 16 height: 64 width: 72 } }"))
    memory: Any = net.layers[0]
    memory.set_input_arrays(np.ones((12, *X[1:]), np.float32), np.zeros(12, np.float32))
    assert most_allocated(net.forward) < SMALL
