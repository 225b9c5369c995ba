"""One battery over a table of all layer types: gradients, reshaping, in-place, accumulation, images one by one."""
from dataclasses import dataclass, field

import numpy as np
import pytest

import gradients
from spp.errors import SppError
from spp.layers import TEST, TRAIN, layer_class, types
from spp.net import Net
from spp.proto.text import parse_net


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


def text(row, bottoms=None, tops=None):
    shapes = " ".join("shape { %s }" % " ".join(f"dim: {d}" for d in shape) for shape in row.shapes)
    inputs = [f"x{i}" for i in range(len(row.shapes))]
    return (f"force_backward: true layer {{ name: 'in' type: 'Input' {' '.join(f'top: {i!r}' for i in inputs)} "
            f"input_param {{ {shapes} }} }} layer {{ name: 'l' type: '{row.type}' "
            + " ".join(f"bottom: {b!r}" for b in bottoms or inputs) + " "
            + " ".join(f"top: {t!r}" for t in tops or [f"y{i}" for i in range(row.tops)]) + f" {row.params} }}")


def values(row, index, shape, seed=0):
    """Distinct values (no ties, none near 0), in a random order; or class indices."""
    rng = np.random.default_rng([seed, index])
    if index in row.labels:
        return rng.integers(0, row.labels[index], shape)
    count = int(np.prod(shape))
    found = np.linspace(0.11 if row.positive else -1.93, 2.17, count)
    return rng.permutation(found + 0.0013 * index).reshape(shape)     # distinct between bottoms too


def fill(net, row, shapes=None, seed=0):
    for i, shape in enumerate(shapes or row.shapes):
        net.blobs[f"x{i}"].reshape(shape)
        net.blobs[f"x{i}"].data[...] = values(row, i, shape, seed)


def make(row, dtype=np.float64, **names):
    net = Net(parse_net(text(row, **names)), row.phase, dtype=dtype, seed=3)
    fill(net, row)
    return net


def outputs(net):
    return {name: np.array(net.blobs[name].data) for name in net.outputs if name.startswith("y")}


each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)


def test_every_type_has_a_row():
    assert set(types()) - {row.type for row in ROWS} == set(WITHOUT_ROW)


@each_row
def test_gradient(row):
    if row.type in WITHOUT_GRADIENT:
        net = make(row)
        net.forward()
        net.backward()
        assert all(not net.blobs[f"x{i}"].diff.any() for i in range(len(row.shapes)))
        return
    net = make(row)
    blobs = {f"x{i}": net.blobs[f"x{i}"] for i in range(len(row.shapes)) if i not in row.labels}
    blobs |= {f"l[{i}]": blob for i, blob in enumerate(net.params.get("l", []))}
    assert gradients.check(net, blobs) == sum(blob.count for blob in blobs.values())


@each_row
def test_parameter_gradients_accumulate(row):
    net = make(row)
    net.forward()
    for name in net.outputs:
        net.blobs[name].diff[...] = 0.7
    net.backward()
    once = [np.array(blob.diff) for blob in net.params.get("l", [])]
    net.backward()
    for blob, first in zip(net.params.get("l", []), once):
        assert first.any()
        np.testing.assert_allclose(blob.diff, 2 * first, 1e-12)


@each_row
def test_other_size_and_back(row):
    net = make(row)
    state = net.state()
    net.forward()
    before = outputs(net)
    other = row.other
    if other is None:
        other = [(s[0] + 1, *s[1:2], *(d + 2 for d in s[2:])) for s in row.shapes]
    fill(net, row, other, seed=1)
    net.forward()
    larger = outputs(net)
    fresh = Net(parse_net(text(Row(row.type, row.params, other, row.tops))), row.phase, dtype=np.float64, seed=3)
    fresh.restore(state)
    fill(fresh, row, other, seed=1)
    for mine, theirs in zip(net.params.get("l", []), fresh.params.get("l", [])):
        theirs.data[...] = mine.data
    if not net.state():
        fresh.forward()
        for name, found in outputs(fresh).items():
            np.testing.assert_array_equal(found, larger[name])
    fill(net, row)
    net.restore(state)
    net.forward()
    for name, found in outputs(net).items():
        np.testing.assert_array_equal(found, before[name])


@each_row
def test_in_place_where_allowed(row):
    if len(row.shapes) != 1 or row.tops != 1:
        return
    if not layer_class(row.type).in_place:
        with pytest.raises(SppError, match="layer 'l' .*cannot work in place"):
            make(row, tops=["x0"])
        return
    apart, same = make(row), make(row, tops=["x0"])
    apart.forward()
    same.forward()
    np.testing.assert_array_equal(same.blobs["x0"].data, apart.blobs["y0"].data)
    apart.blobs["y0"].diff[...] = same.blobs["x0"].diff[...] = values(row, 5, apart.blobs["y0"].shape)
    apart.backward()
    same.backward()
    np.testing.assert_allclose(same.blobs["x0"].diff, apart.blobs["x0"].diff, 1e-12)


@each_row
def test_a_batch_is_its_images(row):
    if not row.by_image:
        return
    net = make(row)
    net.forward()
    whole = outputs(net)
    for n in range(row.shapes[0][0]):
        for i, shape in enumerate(row.shapes):
            net.blobs[f"x{i}"].reshape(1, *shape[1:])
            net.blobs[f"x{i}"].data[...] = values(row, i, shape)[n:n + 1]
        net.forward()
        for name, found in outputs(net).items():
            np.testing.assert_allclose(found, whole[name][n:n + 1], 1e-12, 1e-14)


@each_row
def test_single_precision_agrees(row):
    single, double = make(row, np.float32), make(row)
    for net in (single, double):
        net.forward()
    for name, found in outputs(single).items():
        assert single.blobs[name].data.dtype == np.float32
        np.testing.assert_allclose(found, outputs(double)[name], 1e-4, 1e-5)


@each_row
def test_unknown_parameter_is_an_error(row):
    with pytest.raises(SppError, match="no_such_thing"):
        parse_net(text(row).replace("name: 'l'", "name: 'l' no_such_thing: 1"))


def test_the_checker_finds_a_gradient_wrong_by_a_thousandth():
    net = make(Row("Power", "power_param { power: 1 scale: 2 }"))
    layer = net.layers[1]
    right = layer.backward

    def wrong(top, propagate_down, bottom):
        right(top, propagate_down, bottom)
        bottom[0].diff[1, 2, 3, 0] *= 1.001

    gradients.check(net, {"x0": net.blobs["x0"]})
    layer.backward = wrong
    with pytest.raises(AssertionError, match=r"gradient of x0\[1, 2, 3, 0\]"):
        gradients.check(net, {"x0": net.blobs["x0"]})
