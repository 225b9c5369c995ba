"""The table of all layer types for the battery in test_every_layer.py."""
from dataclasses import dataclass, field

from spp.layers import TEST, TRAIN


@dataclass
class Row:
    """A layer to put through the battery; `labels` are bottoms that hold class indices (bottom to classes)."""

    type: str
    params: str = ""
    shapes: list = field(default_factory=lambda: [(2, 3, 5, 4)])
    tops: int = 1
    phase: int = TRAIN
    labels: dict = field(default_factory=dict)
    positive: bool = False
    by_image: bool = True          # is a batch its images one by one?
    other: list | None = None      # shapes to change to and back; None: one more image, two more rows

    @property
    def id(self):
        return f"{self.type}-{self.params}".replace(" ", "")


GAUSS = 'weight_filler { type: "gaussian" std: 0.5 } bias_filler { type: "gaussian" std: 0.5 }'
ROWS = [
    Row("Convolution", f"convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 {GAUSS} }}"),
    Row("Convolution", f"convolution_param {{ num_output: 4 kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_w: 1 "
        f"group: 2 {GAUSS} }}", [(2, 4, 6, 5)]),
    Row("Convolution", f"convolution_param {{ num_output: 6 kernel_size: 3 group: 3 pad: 1 {GAUSS} }}",
        [(2, 3, 4, 5)]),
    Row("Convolution", f"convolution_param {{ num_output: 2 kernel_size: 2 dilation: 2 stride: 2 {GAUSS} }}",
        [(2, 3, 6, 5)]),
    Row("Convolution", f"convolution_param {{ num_output: 3 kernel_size: 1 bias_term: false {GAUSS} }}"),
    Row("Convolution", f"convolution_param {{ num_output: 2 kernel_size: 2 {GAUSS} }}", [(2, 2, 3, 4, 3)]),
    Row("Convolution", f"convolution_param {{ num_output: 2 kernel_size: 3 stride: 2 {GAUSS} }}", [(2, 2, 8)]),
    Row("Convolution", f"convolution_param {{ num_output: 2 kernel_size: 3 {GAUSS} }}", [(2, 2, 4, 5)] * 2, tops=2),
    Row("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 }", [(2, 3, 6, 7)]),
    Row("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }", [(2, 3, 6, 7)]),
    Row("Pooling", "pooling_param { pool: AVE kernel_h: 3 kernel_w: 2 stride: 2 pad_h: 1 pad_w: 0 }", [(2, 3, 6, 7)]),
    Row("Pooling", "pooling_param { pool: AVE global_pooling: true }"),
    Row("Pooling", "pooling_param { pool: MAX kernel_size: 2 stride: 2 round_mode: FLOOR }", [(2, 3, 5, 7)]),
    Row("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 3 stride: 2 }", [(2, 3, 6, 7)], positive=True,
        by_image=False),
    Row("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }", [(2, 3, 6, 7)], positive=True,
        phase=TEST),
    Row("SPP", "spp_param { bins: 3 bins: 2 bins: 1 }", [(2, 3, 5, 7)]),
    Row("SPP", "spp_param { bins: 6 bins: 1 }", [(2, 2, 4, 5)]),
    Row("SPP", "spp_param { bins: 2 bins: 1 pool: AVE }", [(2, 3, 5, 4)]),
    Row("SPP", "spp_param { pyramid_height: 3 }", [(2, 3, 7, 6)]),
    Row("LRN", "lrn_param { local_size: 3 alpha: 1 beta: 0.75 }"),
    Row("LRN", "lrn_param { local_size: 5 alpha: 2 beta: 0.6 k: 1.5 }", [(2, 7, 3, 2)]),
    Row("LRN", "lrn_param { local_size: 3 alpha: 1 beta: 0.75 norm_region: WITHIN_CHANNEL }"),
    Row("ReLU"),
    Row("ReLU", "relu_param { negative_slope: 0.3 }"),
    Row("TanH"),
    Row("Power", "power_param { power: 2.5 scale: 0.7 shift: 0.2 }", positive=True),
    Row("Power", "power_param { power: 1 scale: -2 shift: 3 }"),
    Row("Power", "power_param { power: 2 scale: 0 shift: 3 }"),
    Row("Dropout", "dropout_param { dropout_ratio: 0.3 }", by_image=False),
    Row("Dropout", "dropout_param { dropout_ratio: 0.3 }", phase=TEST),
    Row("InnerProduct", f"inner_product_param {{ num_output: 4 {GAUSS} }}", other=[(3, 3, 5, 4)]),
    Row("InnerProduct", f"inner_product_param {{ num_output: 4 transpose: true bias_term: false {GAUSS} }}",
        other=[(3, 3, 5, 4)]),
    Row("InnerProduct", f"inner_product_param {{ num_output: 2 axis: 2 {GAUSS} }}", other=[(3, 2, 5, 4)]),
    Row("Flatten"),
    Row("Flatten", "flatten_param { axis: -3 end_axis: -2 }"),
    Row("Concat", "", [(2, 3, 5, 4), (2, 2, 5, 4)]),
    Row("Concat", "concat_param { axis: 0 }", [(2, 3, 5), (3, 3, 5)], by_image=False),
    Row("Concat"),
    Row("Split", tops=3),
    Row("Silence", "", [(2, 3), (4, 2)], tops=0),
    Row("Eltwise", "eltwise_param { operation: SUM coeff: 2 coeff: -0.5 coeff: 1 }", [(2, 3, 4, 5)] * 3),
    Row("Eltwise", "eltwise_param { operation: PROD }", [(2, 3, 4)] * 3),
    Row("Eltwise", "eltwise_param { operation: PROD stable_prod_grad: false }", [(2, 3, 4)] * 2),
    Row("Eltwise", "eltwise_param { operation: MAX }", [(2, 3, 4, 5)] * 3),
    Row("Softmax", "", [(2, 5)]),
    Row("Softmax", "softmax_param { axis: 2 }"),
    Row("SoftmaxWithLoss", "", [(4, 5), (4,)], labels={1: 5}, by_image=False),
    Row("SoftmaxWithLoss", "loss_param { ignore_label: 2 normalization: FULL } loss_weight: 3",
        [(2, 5, 3, 4), (2, 3, 4)], labels={1: 5}, by_image=False, other=[(3, 5, 2, 4), (3, 2, 4)]),
    Row("Accuracy", "accuracy_param { top_k: 2 }", [(6, 5), (6,)], labels={1: 5}, by_image=False),
]
WITHOUT_ROW = {"Input": "the battery's own inputs", "Data": "tests/test_data_layer.py: reads a database",
               "DummyData": "tests/test_net.py: no bottoms to differentiate by"}
WITHOUT_GRADIENT = {"Accuracy", "Silence"}
