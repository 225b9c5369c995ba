"""The table of all layer types, for the battery in test_every_layer.py and for test_allocations_by_layer.py."""
from dataclasses import dataclass, replace
from typing import Iterator, NamedTuple, Sequence

from spp.layers import TEST
from spp.testing import Case, Shapes


class Large(NamedTuple):
    """What a row has otherwise where the layer is to have blobs of a megabyte; None: the same."""

    shapes: Shapes
    params: str | None = None
    labels: dict | None = None
    tops: int | None = None


@dataclass
class Row(Case):
    """A layer type for the battery; `large` says at which sizes to look whether it allocates memory.

    A new type needs one row. Without `large` it is looked at with bottoms of the shape X.
    """

    device: str = "auto"
    large: Sequence[Large] = ()

    @property
    def id(self) -> str:
        return f"{self.type}-{self.params}".replace(" ", "")

    def enlarged(self) -> "Iterator[Row]":
        for more in self.large:
            changes = {name: value for name, value in more._asdict().items() if value is not None}
            yield replace(self, large=(), **changes)


GAUSS = 'weight_filler { type: "gaussian" std: 0.5 } bias_filler { type: "gaussian" std: 0.5 }'
FILLED = 'filler { type: "uniform" min: -1.5 max: 2 }'
STATISTICS = ("blobs { shape { dim: 3 } data: [0.3, -0.8, 1.1] } blobs { shape { dim: 3 } data: [2.1, 0.6, 3.4] } "
              "blobs { shape { dim: 1 } data: 1.7 }")
SHAPE = (2, 3, 5, 4)        # of a bottom that says no other
X = (4, 16, 64, 72)         # 1.2 MB in single precision
FLAT = (4, 73728)
PIXELS = (4, 400, 16, 13)   # 400 classes of 832 pixels
ROWS = [
    Row("Convolution", f"convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 {GAUSS} }}",
        large=[Large([X], f"convolution_param {{ num_output: 16 kernel_size: 3 pad: 1 {GAUSS} }}")]),
    Row("Convolution", f"convolution_param {{ num_output: 4 kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_w: 1 "
        f"group: 2 {GAUSS} }}", [(2, 4, 6, 5)],
        large=[Large([X], f"convolution_param {{ num_output: 16 kernel_size: 3 stride: 2 group: 2 {GAUSS} }}")]),
    Row("Convolution", f"convolution_param {{ num_output: 6 kernel_size: 3 group: 3 pad: 1 {GAUSS} }}",
        [(2, 3, 4, 5)]),
    Row("Convolution", f"convolution_param {{ num_output: 2 kernel_size: 2 dilation: 2 stride: 2 {GAUSS} }}",
        [(2, 3, 6, 5)]),
    Row("Convolution", f"convolution_param {{ num_output: 3 kernel_size: 1 bias_term: false {GAUSS} }}",
        large=[Large([X], f"convolution_param {{ num_output: 16 kernel_size: 1 bias_term: false {GAUSS} }}")]),
    Row("Convolution", f"convolution_param {{ num_output: 2 kernel_size: 2 {GAUSS} }}", [(2, 2, 3, 4, 3)]),
    Row("Convolution", f"convolution_param {{ num_output: 2 kernel_size: 3 stride: 2 {GAUSS} }}", [(2, 2, 8)]),
    Row("Convolution", f"convolution_param {{ num_output: 2 kernel_size: 3 {GAUSS} }}", [(2, 2, 4, 5)] * 2, tops=2),
    Row("Deconvolution", f"convolution_param {{ num_output: 4 kernel_size: 3 stride: 2 pad: 1 {GAUSS} }}",
        [(2, 3, 3, 4)],
        large=[Large([X], "convolution_param { num_output: 16 kernel_size: 4 stride: 2 pad: 1 group: 16 "
                     f"{GAUSS} }}")]),
    Row("Deconvolution", f"convolution_param {{ num_output: 6 kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 2 "
        f"pad_w: 1 group: 2 {GAUSS} }}", [(2, 4, 3, 2)],
        large=[Large([X], f"convolution_param {{ num_output: 4 kernel_size: 2 stride: 2 {GAUSS} }}")]),
    Row("Deconvolution", f"convolution_param {{ num_output: 3 kernel_size: 4 stride: 2 group: 3 bias_term: false "
        f"{GAUSS} }}", [(2, 3, 3, 2)]),
    Row("Deconvolution", f"convolution_param {{ num_output: 2 kernel_size: 2 dilation: 2 {GAUSS} }}",
        [(2, 2, 3, 4)] * 2, tops=2),
    Row("Deconvolution", f"convolution_param {{ num_output: 2 kernel_size: 2 stride: 2 {GAUSS} }}", [(2, 2, 2, 3, 2)]),
    Row("Deconvolution", f"convolution_param {{ num_output: 2 axis: 2 kernel_size: 3 pad: 1 {GAUSS} }}",
        [(2, 2, 3, 4)], other=[(3, 2, 3, 6)]),
    Row("Im2col", "convolution_param { kernel_size: 3 stride: 2 pad: 1 }", [(2, 2, 6, 5)], large=[Large([X])]),
    Row("Im2col", "convolution_param { kernel_size: 2 dilation: 2 }", [(2, 2, 3, 4, 3)],
        large=[Large([(4, 16, 16, 20, 20)], "convolution_param { kernel_size: 5 stride: 2 axis: 1 }")]),
    Row("Im2col", "convolution_param { kernel_size: 4 stride: 3 axis: 2 }", [(2, 2, 2, 6)], other=[(3, 2, 2, 8)]),
    Row("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 }", [(2, 3, 6, 7)],
        large=[Large([X]), Large([X], tops=2)]),
    Row("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }", [(2, 3, 6, 7)]),
    Row("Pooling", "pooling_param { pool: AVE kernel_h: 3 kernel_w: 2 stride: 2 pad_h: 1 pad_w: 0 }", [(2, 3, 6, 7)],
        large=[Large([X], "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }")]),
    Row("Pooling", "pooling_param { pool: AVE global_pooling: true }"),
    Row("Pooling", "pooling_param { pool: MAX kernel_size: 2 stride: 2 round_mode: FLOOR }", [(2, 3, 5, 7)]),
    Row("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 3 stride: 2 }", [(2, 3, 6, 7)], positive=True,
        by_image=False, large=[Large([X], "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 1 }")]),
    Row("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }", [(2, 3, 6, 7)], positive=True,
        phase=TEST,
        large=[Large([X], "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 1 }")]),
    Row("SPP", "spp_param { bins: 3 bins: 2 bins: 1 }", [(2, 3, 5, 7)],
        large=[Large([X], "spp_param { bins: 6 bins: 3 bins: 1 }")]),
    Row("SPP", "spp_param { bins: 6 bins: 1 }", [(2, 2, 4, 5)]),
    Row("SPP", "spp_param { bins: 2 bins: 1 pool: AVE }", [(2, 3, 5, 4)],
        large=[Large([X], "spp_param { bins: 6 bins: 3 bins: 1 pool: AVE }")]),
    Row("SPP", "spp_param { pyramid_height: 3 }", [(2, 3, 7, 6)]),
    Row("LRN", "lrn_param { local_size: 3 alpha: 1 beta: 0.75 }"),
    Row("LRN", "lrn_param { local_size: 5 alpha: 2 beta: 0.6 k: 1.5 }", [(2, 7, 3, 2)],
        large=[Large([X], "lrn_param { local_size: 5 alpha: 1 beta: 0.75 }")]),
    Row("LRN", "lrn_param { local_size: 3 alpha: 1 beta: 0.75 norm_region: WITHIN_CHANNEL }", large=[Large([X])]),
    Row("ReLU"),
    Row("ReLU", "relu_param { negative_slope: 0.3 }", large=[Large([X])]),
    Row("TanH"),
    Row("Power", "power_param { power: 2.5 scale: 0.7 shift: 0.2 }", positive=True, large=[Large([X])]),
    Row("Power", "power_param { power: 1 scale: -2 shift: 3 }"),
    Row("Power", "power_param { power: 2 scale: 0 shift: 3 }"),
    Row("AbsVal"),
    Row("BNLL"),
    Row("Clip", "clip_param { min: -0.7 max: 1.2 }"),
    Row("ELU"),
    Row("ELU", "elu_param { alpha: 0.6 }", [(2, 3, 4)], large=[Large([X])]),
    Row("Exp"),
    Row("Exp", "exp_param { base: 2 scale: -0.6 shift: 0.4 }", [(2, 3, 2, 2, 2)], large=[Large([X])]),
    Row("Log", "log_param { shift: 2.5 }"),
    Row("Log", "log_param { base: 10 scale: 0.7 shift: 0.2 }", positive=True, large=[Large([X])]),
    Row("PReLU", large=[Large([X])]),
    Row("PReLU", 'prelu_param { filler { type: "uniform" min: -1 } }', [(2, 3, 4)]),
    Row("PReLU", "prelu_param { channel_shared: true }", [(2, 4)], large=[Large([FLAT])]),
    Row("Sigmoid"),
    Row("Swish"),
    Row("Swish", "swish_param { beta: -1.5 }", [(2, 7)], large=[Large([X])]),
    Row("Threshold", "threshold_param { threshold: 0.3 }", gradient=False),
    Row("Dropout", "dropout_param { dropout_ratio: 0.3 }", by_image=False, large=[Large([X])]),
    Row("Dropout", "dropout_param { dropout_ratio: 0.3 }", phase=TEST),
    Row("Dropout", "dropout_param { dropout_ratio: 0.3 scale_train: false }", by_image=False),
    Row("Dropout", "dropout_param { dropout_ratio: 0.3 scale_train: false }", phase=TEST, large=[Large([X])]),
    Row("InnerProduct", f"inner_product_param {{ num_output: 4 {GAUSS} }}", other=[(3, 3, 5, 4)],
        large=[Large([X], f"inner_product_param {{ num_output: 40 {GAUSS} }}")]),
    Row("InnerProduct", f"inner_product_param {{ num_output: 4 transpose: true bias_term: false {GAUSS} }}",
        other=[(3, 3, 5, 4)],
        large=[Large([X], f"inner_product_param {{ num_output: 70 axis: 3 transpose: true {GAUSS} }}")]),
    Row("InnerProduct", f"inner_product_param {{ num_output: 2 axis: 2 {GAUSS} }}", other=[(3, 2, 5, 4)]),
    Row("LSTM", f"recurrent_param {{ num_output: 3 {GAUSS} }}", [(4, 2, 5), (4, 2)], labels={1: 2}, by_image=False,
        other=[(5, 3, 5), (5, 3)],
        large=[Large([(50, 64, 30), (50, 64)], f"recurrent_param {{ num_output: 80 {GAUSS} }}"),
               Large([(6, 256, 3), (6, 256)], f"recurrent_param {{ num_output: 400 {GAUSS} }}")]),
    Row("LSTM", f"recurrent_param {{ num_output: 2 expose_hidden: true {GAUSS} }}",
        [(3, 2, 2, 2), (3, 2), (2, 3), (1, 2, 2), (1, 2, 2)], tops=3, labels={1: 2}, by_image=False,
        other=[(4, 3, 2, 2), (4, 3), (3, 3), (1, 3, 2), (1, 3, 2)],
        large=[Large([(50, 64, 30), (50, 64), (64, 20), (1, 64, 80), (1, 64, 80)],
                     f"recurrent_param {{ num_output: 80 expose_hidden: true {GAUSS} }}")]),
    Row("RNN", f"recurrent_param {{ num_output: 3 {GAUSS} }}", [(4, 2, 3), (4, 2), (2, 2, 2)], labels={1: 2},
        by_image=False, other=[(2, 3, 3), (2, 3), (3, 2, 2)],
        large=[Large([(50, 64, 30), (50, 64), (64, 20)], f"recurrent_param {{ num_output: 80 {GAUSS} }}")]),
    Row("RNN", f"recurrent_param {{ num_output: 3 expose_hidden: true {GAUSS} }}", [(4, 2, 2), (4, 2), (1, 2, 3)],
        tops=2, labels={1: 2}, by_image=False, other=[(3, 1, 2), (3, 1), (1, 1, 3)],
        large=[Large([(6, 256, 3), (6, 256), (1, 256, 400)],
                     f"recurrent_param {{ num_output: 400 expose_hidden: true {GAUSS} }}")]),
    Row("LSTMUnit", "", [(1, 3, 2), (1, 3, 8), (1, 3)], tops=2, labels={2: 2}, by_image=False,
        other=[(1, 4, 3), (1, 4, 12), (1, 4)],
        large=[Large([(1, 256, 400), (1, 256, 1600), (1, 256)])]),
    Row("Scale", f"scale_param {{ bias_term: true {FILLED} bias_{FILLED} }}", large=[Large([X])]),
    Row("Scale", f"scale_param {{ axis: -2 num_axes: -1 {FILLED} }}", other=[(3, 2, 5, 4)],
        large=[Large([(4, 300, 15, 18)], f"scale_param {{ axis: -2 num_axes: -1 bias_term: true {FILLED} }}")]),
    Row("Scale", f"scale_param {{ num_axes: 0 {FILLED} bias_term: true }}", [(3, 4)], large=[Large([X])]),
    Row("Scale", "scale_param { axis: 0 }", [(2, 3, 5, 4), (2, 3)], by_image=False, large=[Large([X, X[:2]])]),
    Row("Scale", f"scale_param {{ axis: 2 bias_term: true bias_{FILLED} }}", [(2, 3, 4), (4,)], by_image=False,
        other=[(3, 2, 4), (4,)]),
    Row("Scale", "scale_param { axis: 0 }", [(2, 3, 5, 4), (2, 3, 5, 4)], large=[Large([X, X])]),
    Row("Bias", f"bias_param {{ {FILLED} }}", large=[Large([X])]),
    Row("Bias", f"bias_param {{ axis: 2 num_axes: 2 {FILLED} }}", [(2, 3, 5, 4, 2)], other=[(3, 2, 5, 4, 1)],
        large=[Large([(4, 300, 15, 18)])]),
    Row("Bias", "bias_param { axis: 1 }", [(2, 3, 5, 4), (3, 5)], by_image=False, other=[(3, 4, 2, 6), (4, 2)],
        large=[Large([X, X[:2]], "bias_param { axis: 0 }"), Large([X, X], "bias_param { axis: 0 }")]),
    Row("BatchNorm", "batch_norm_param { eps: 0.1 }", by_image=False),
    Row("BatchNorm", "batch_norm_param { moving_average_fraction: 0.9 }", [(7, 3)], by_image=False, other=[(5, 3)]),
    Row("BatchNorm", "batch_norm_param { eps: 0.1 } " + STATISTICS, phase=TEST, large=[Large([(4, 3, 150, 160)])]),
    Row("BatchNorm", "batch_norm_param { use_global_stats: true } " + STATISTICS, [(2, 3, 4)]),
    Row("BatchNorm", "", [(9,)], by_image=False, large=[Large([X]), Large([FLAT[::-1]])]),
    Row("BatchNorm", "batch_norm_param { eps: 0.1 scale_bias: true scale_filler { type: 'uniform' min: -1.5 max: 2 } "
        "bias_filler { type: 'gaussian' std: 0.5 } }", by_image=False, large=[Large([X])]),
    Row("BatchNorm", "batch_norm_param { use_global_stats: true use_weight_bias: true bias_term: false "
        "} " + STATISTICS + " blobs { shape { dim: 3 } data: [1.5, -2, 0.7] }"),
    Row("MVN", large=[Large([X])]),
    Row("MVN", "mvn_param { across_channels: true }", [(2, 3, 4, 2, 2)], large=[Large([X])]),
    Row("MVN", "mvn_param { normalize_variance: false }", large=[Large([X])]),
    Row("Reduction", "reduction_param { operation: SUM coeff: 0.7 axis: 1 }", large=[Large([X])]),
    Row("Reduction", "reduction_param { operation: ASUM axis: -2 }",
        large=[Large([X], "reduction_param { operation: ASUM axis: 1 }")]),
    Row("Reduction", "reduction_param { operation: SUMSQ coeff: -0.5 }", by_image=False, large=[Large([X])]),
    Row("Reduction", "reduction_param { operation: MEAN coeff: 3 axis: 2 }", [(2, 3, 5)], large=[Large([X])]),
    Row("ArgMax", "argmax_param { top_k: 3 out_max_val: true }", gradient=False, large=[Large([X])]),
    Row("ArgMax", "argmax_param { axis: -1 }", [(3, 4)], gradient=False,
        large=[Large([X], "argmax_param { axis: 1 }")]),
    Row("BatchReindex", "", [(4, 3, 2), (6,)], labels={1: 4}, by_image=False, large=[Large([X, (6,)])]),
    Row("BatchReindex", "", [(4, 3, 2, 5), (3,)], labels={1: 4}, by_image=False,
        large=[Large([(40, 8192), (30,)], labels={1: 40})]),
    Row("Filter", "", [(5, 3, 2, 4), (5, 2), (5,)], tops=2, labels={2: 2}, by_image=False,
        large=[Large([X, X, (4,)])]),
    Row("Embed", f"embed_param {{ input_dim: 7 num_output: 3 {GAUSS} }}", [(4, 5)], labels={0: 7},
        large=[Large([(12, 50)], f"embed_param {{ input_dim: 700 num_output: 512 {GAUSS} }}", labels={0: 700})]),
    Row("Embed", f"embed_param {{ input_dim: 4 num_output: 2 bias_term: false {GAUSS} }}", [(6,)], labels={0: 4}),
    Row("Crop", "crop_param { offset: 1 offset: 2 }", [(2, 3, 6, 7), (2, 3, 4, 5)],
        large=[Large([X, (4, 16, 60, 68)])]),
    Row("Crop", "crop_param { axis: 1 offset: 1 }", [(2, 4, 5), (1, 2, 3)], by_image=False,
        large=[Large([X, (1, 14, 60, 68)])]),
    Row("Tile", "tile_param { tiles: 3 }", large=[Large([X])]),
    Row("Tile", "tile_param { axis: -1 tiles: 2 }", [(2, 3, 4)], large=[Large([X])]),
    Row("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 5 } }", other=[(3, 2, 5, 6)],
        large=[Large([X], "reshape_param { shape { dim: 0 dim: -1 dim: 8 dim: 9 } }")]),
    Row("Reshape", "reshape_param { axis: 1 num_axes: 1 shape { dim: -1 dim: 3 } }", [(2, 6, 4)]),
    Row("Reshape", "reshape_param { axis: -1 shape { dim: 1 dim: 1 } }", [(2, 6)]),
    Row("Slice", "slice_param { slice_point: 1 slice_point: 4 }", [(2, 6, 3, 4)], tops=3,
        large=[Large([X], "slice_param { slice_point: 3 slice_point: 9 }")]),
    Row("Slice", "slice_param { axis: -1 }", [(2, 3, 4)], tops=2, large=[Large([X])]),
    Row("Slice", tops=1),
    Row("Flatten", large=[Large([X])]),
    Row("Flatten", "flatten_param { axis: -3 end_axis: -2 }"),
    Row("Concat", "", [(2, 3, 5, 4), (2, 2, 5, 4)], large=[Large([X, X])]),
    Row("Concat", "concat_param { axis: 0 }", [(2, 3, 5), (3, 3, 5)], by_image=False, large=[Large([X, X])]),
    Row("Concat"),
    Row("Split", tops=3, large=[Large([X])]),
    Row("Silence", "", [(2, 3), (4, 2)], tops=0, gradient=False, large=[Large([X])]),
    Row("Eltwise", "eltwise_param { operation: SUM coeff: 2 coeff: -0.5 coeff: 1 }", [(2, 3, 4, 5)] * 3,
        large=[Large([X] * 3)]),
    Row("Eltwise", "eltwise_param { operation: PROD }", [(2, 3, 4)] * 3, large=[Large([X] * 3)]),
    Row("Eltwise", "eltwise_param { operation: PROD stable_prod_grad: false }", [(2, 3, 4)] * 2,
        large=[Large([X] * 2)]),
    Row("Eltwise", "eltwise_param { operation: MAX }", [(2, 3, 4, 5)] * 3, large=[Large([X] * 3)]),
    Row("Softmax", "", [(2, 5)], large=[Large([PIXELS]), Large([FLAT])]),
    Row("Softmax", "softmax_param { axis: 2 }"),
    Row("SoftmaxWithLoss", "", [(4, 5), (4,)], labels={1: 5}, by_image=False,
        large=[Large([FLAT, (4,)], labels={1: 73728}),
               Large([(4, 21, 64, 72), (4, 64, 72)], "loss_param { ignore_label: 2 }", labels={1: 21})]),
    Row("SoftmaxWithLoss", "loss_param { ignore_label: 2 normalization: FULL } loss_weight: 3",
        [(2, 5, 3, 4), (2, 3, 4)], labels={1: 5}, by_image=False, other=[(3, 5, 2, 4), (3, 2, 4)],
        large=[Large([PIXELS, (4, 16, 13)], labels={1: 400})]),
    Row("InfogainLoss", "loss_param { ignore_label: 1 normalization: FULL } infogain_loss_param { axis: 2 }",
        [(2, 3, 5), (2, 3), (5, 5)], labels={1: 5, 2: 4}, by_image=False, other=[(3, 4, 5), (3, 4), (5, 5)],
        large=[Large([(1024, 300), (1024,), (300, 300)], "", labels={1: 300, 2: 4}),
               Large([PIXELS, (4, 16, 13), (400, 400)], "loss_param { ignore_label: 1 }", labels={1: 400, 2: 4})]),
    Row("MultinomialLogisticLoss", "loss_weight: 2", [(4, 5), (4,)], labels={1: 5}, positive=True, by_image=False,
        large=[Large([FLAT, (4,)], "", labels={1: 73728}), Large([X, (4,)], "", labels={1: 73728})]),
    Row("HingeLoss", "", [(4, 5), (4,)], labels={1: 5}, by_image=False,
        large=[Large([FLAT, (4,)], labels={1: 73728})]),
    Row("HingeLoss", "hinge_loss_param { norm: L2 } loss_weight: 2", [(4, 3, 1, 2), (4,)], labels={1: 6},
        by_image=False, other=[(5, 4, 2, 3), (5,)],
        large=[Large([X, (4,)], labels={1: 73728})]),
    Row("EuclideanLoss", "loss_weight: 3", [(2, 3, 4, 5), (2, 60)], by_image=False, other=[(3, 2, 4, 6), (3, 48)],
        large=[Large([X, FLAT]), Large([X, X], "")]),
    Row("ContrastiveLoss", "contrastive_loss_param { legacy_version: true margin: 9 }", [(5, 4), (5, 4), (5,)],
        labels={2: 2}, by_image=False,
        large=[Large([FLAT, FLAT, (4,)], ""), Large([X, X, (4,)])]),
    Row("SigmoidCrossEntropyLoss", "", [(2, 3, 4, 5), (2, 3, 4, 5)], labels={1: 2}, by_image=False,
        large=[Large([X, X])]),
    Row("SigmoidCrossEntropyLoss", "loss_param { ignore_label: 2 normalization: VALID }", [(4, 5), (4, 5)],
        labels={1: 3}, by_image=False, large=[Large([X, FLAT])]),
    Row("Accuracy", "accuracy_param { top_k: 2 }", [(6, 5), (6,)], labels={1: 5}, by_image=False, gradient=False,
        large=[Large([FLAT, (4,)], labels={1: 73728}),
               Large([PIXELS, (4, 16, 13)], "accuracy_param { ignore_label: 3 }", labels={1: 400}, tops=2)]),
    Row("ConvolutionDepthwise", f"convolution_param {{ num_output: 3 kernel_size: 3 pad: 1 {GAUSS} }}",
        large=[Large([X], f"convolution_param {{ num_output: 16 kernel_size: 3 pad: 1 {GAUSS} }}")]),
    Row("DepthwiseConvolution", f"convolution_param {{ num_output: 6 kernel_size: 2 group: 3 {GAUSS} }}",
        large=[Large([X], f"convolution_param {{ num_output: 16 kernel_size: 3 pad: 1 group: 16 {GAUSS} }}")]),
    Row("ROIPooling", "roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 2.5 }", [(2, 3, 5, 6), (4, 5)],
        labels={1: 2}, by_image=False,
        large=[Large([(4, 128, 32, 36), (100, 5)], "roi_pooling_param { pooled_h: 6 pooled_w: 6 }", labels={1: 4})]),
    Row("PSROIPooling", "psroi_pooling_param { output_dim: 2 group_size: 2 spatial_scale: 1.3 }",
        [(2, 8, 5, 4), (4, 5)], labels={1: 2}, by_image=False,
        large=[Large([(4, 180, 20, 25), (100, 5)], "psroi_pooling_param { output_dim: 20 group_size: 3 "
                     "spatial_scale: 1.3 }", labels={1: 4})]),
    Row("Interp", "interp_param { height: 7 width: 3 pad_beg: -1 }",
        large=[Large([X], "interp_param { height: 70 width: 60 pad_beg: -1 }")]),
    Row("Interp", "interp_param { shrink_factor: 2 zoom_factor: 3 pad_end: -1 }"),
    Row("Upsample", "upsample_param { scale: 2 }", large=[Large([X])]),
    Row("Upsample", "upsample_param { scale_h: 5 scale_w: 8 pad_out_h: false }", [(1, 3, 2, 2), (1, 3, 2, 2)],
        labels={1: 160}, by_image=False, other=[(2, 3, 4, 3), (2, 3, 4, 3)],
        large=[Large([X, X], "upsample_param { scale: 2 }", {1: 4 * 64 * 72})]),
    Row("Normalize", "norm_param { across_spatial: false channel_shared: false "
        "scale_filler { type: 'uniform' min: 0.5 max: 2 } }",
        large=[Large([X])]),
    Row("Normalize", "norm_param { scale_filler { value: 1.5 } eps: 0.3 }", large=[Large([X])]),
    Row("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }", large=[Large([X])]),
    Row("Permute", "permute_param { order: 2 }", by_image=False, large=[Large([X])]),
    Row("Reorg", "reorg_param { stride: 2 }", [(2, 8, 4, 6)], large=[Large([X])]),
    Row("Reorg", "reorg_param { stride: 2 reverse: true }", [(2, 8, 3, 2)], large=[Large([X])]),
    Row("ShuffleChannel", "shuffle_channel_param { group: 3 }", [(2, 6, 3, 2)],
        large=[Large([X], "shuffle_channel_param { group: 4 }")]),
    Row("Axpy", "", [(2, 3), (2, 3, 5, 4), (2, 3, 5, 4)], large=[Large([X[:2], X, X])]),
    Row("Axpy", "", [(2, 3, 1, 1), (2, 3, 5), (2, 3, 5)], other=[(3, 3, 1, 1), (3, 3, 2), (3, 3, 2)]),
    Row("ReLU6"),
    Row("ReLU6", "relu6_param { negative_slope: 0.2 }", large=[Large([X])]),
    Row("SmoothL1Loss", "", [(3, 4), (3, 4)], by_image=False, large=[Large([X, X])]),
    Row("SmoothL1Loss", "smooth_l1_loss_param { sigma: 0.7 } loss_weight: 2", [(3, 4)] * 4, by_image=False,
        labels={2: 3, 3: 4},
        large=[Large([X, FLAT, X, FLAT])]),
    Row("PriorBox", "prior_box_param { min_size: 3 max_size: 6 aspect_ratio: 2 }", [(1, 3, 4, 5), (1, 3, 20, 30)],
        by_image=False, gradient=False,
        large=[Large([(1, 3, 160, 120), (1, 3, 320, 240)])]),
    Row("DetectionOutput", "detection_output_param { num_classes: 2 code_type: CENTER_SIZE }",
        [(2, 12), (2, 6), (1, 2, 12)], positive=True, by_image=False, gradient=False,
        other=[(3, 8), (3, 4), (1, 2, 8)]),
    Row("Python", "python_param { module: 'python_layers' layer: 'Times' param_str: '-1.5' }"),
    Row("Python", "python_param { module: 'python_layers' layer: 'Affine' }", [(2, 3, 5, 4)] * 2),
    Row("Python", "loss_weight: 3 python_param { module: 'python_layers' layer: 'Squares' }", [(2, 3, 4)] * 2,
        by_image=False),
]
WITHOUT_ROW = {"Input": "the battery's own inputs", "Data": "tests/layers/test_data_layer.py: reads a database",
               "DummyData": "tests/engine/test_net.py: no bottoms to differentiate by",
               "HDF5Data": "tests/layers/test_hdf5_layers.py: reads files",
               "HDF5Output": "tests/layers/test_hdf5_layers.py: writes a file, has no tops",
               "ImageData": "tests/layers/test_image_data.py: reads files",
               "MemoryData": "tests/layers/test_memory_data.py: no bottoms",
               "WindowData": "tests/layers/test_window_data.py: reads files",
               "Parameter": "tests/engine/test_reshaping.py: no bottoms"}
# Types of rows that test_allocations_by_layer.py leaves out.
WITHOUT_LARGE = {"DetectionOutput": "has as many detections as the scores say", "Python": "the user's own code"}


def large_rows() -> list[Row]:
    """The enlarged rows of all types but WITHOUT_LARGE; a type without `large` has its first row at the shape X."""
    rows: list[Row] = []
    for name in dict.fromkeys(row.type for row in ROWS if row.type not in WITHOUT_LARGE):
        own = [row for row in ROWS if row.type == name]
        rows += [large for row in own for large in row.enlarged()] or [
            replace(row, shapes=[X] * len(row.shapes)) for row in own if set(row.shapes) == {SHAPE}][:1]
    return rows


def without_row(types: Sequence[str]) -> list[str]:
    """For each of these layer types that the battery does not see, what to do about it."""
    missing = set(types) - {row.type for row in ROWS} - set(WITHOUT_ROW)
    return [f"layer type {name!r} has no test: add Row({name!r}, '... its parameters ...', [shape of each bottom]) to "
            "ROWS in tests/support/every_layer_rows.py, or to WITHOUT_ROW the file that tests it"
            for name in sorted(missing)]


def without_large(types: Sequence[str]) -> list[str]:
    """For each of these layer types that is not seen at a large size, what to do about it."""
    missing = set(types) - {row.type for row in large_rows()} - set(WITHOUT_LARGE) - set(WITHOUT_ROW)
    return [f"layer type {name!r} is not tested for allocations: add large=[Large([shape of each bottom])] to its Row "
            "in tests/support/every_layer_rows.py (about 1 MB), or to WITHOUT_LARGE the reason"
            for name in sorted(missing)]
