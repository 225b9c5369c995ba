"""Every layer type as torch source: the module computes what the net computes, in double precision."""
import dataclasses
import inspect

import numpy as np
import pytest

from every_layer_rows import GAUSS, ROWS, Row
from spp.convert.torch.names import RESERVED
from spp.errors import ConvertError
from spp.layers import TEST, TRAIN
from spp.net import Net
from spp.proto.text import parse_net

torch = pytest.importorskip("torch", reason="what these tests convert to: pip install 'spp[torch]'")
from spp.convert import torch_module, torch_source     # noqa: E402 needs torch
from spp.convert.torch.exporter.module import EXPORTERS     # noqa: E402 needs torch

# What the battery has no row for, and what torch computes by another way than the row before it.
MORE = [
    Row("Convolution", f"convolution_param {{ num_output: 2 kernel_size: 2 axis: 2 {GAUSS} }}", [(2, 3, 4, 5, 6)]),
    Row("Convolution", f"convolution_param {{ num_output: 2 kernel_size: 3 axis: 0 {GAUSS} }}", [(3, 5, 6)],
        other=[(3, 6, 7)]),
    Row("Im2col", "convolution_param { kernel_h: 3 kernel_w: 2 pad_h: 1 pad_w: 0 stride: 2 }", [(2, 3, 7, 6)]),
    Row("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 2 }", [(2, 3, 7, 8)]),
    Row("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 3 pad: 2 }", [(2, 3, 7, 8)]),
    Row("Pooling", "pooling_param { pool: AVE kernel_size: 5 stride: 2 pad: 3 round_mode: FLOOR }", [(2, 3, 7, 8)]),
    Row("Pooling", "pooling_param { pool: MAX kernel_h: 3 kernel_w: 2 stride_h: 3 stride_w: 1 pad_h: 1 pad_w: 1 }",
        [(2, 3, 7, 8)], tops=2),
    Row("Pooling", "pooling_param { pool: MAX global_pooling: true }", tops=2),
    Row("Pooling", "pooling_param { pool: STOCHASTIC global_pooling: true }", positive=True),
    Row("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }", [(2, 3, 8)]),
    Row("Pooling", "pooling_param { pool: AVE kernel_size: 2 stride: 2 pad: 1 }", [(2, 3, 5, 4, 3)]),
    Row("SPP", "spp_param { bins: 3 bins: 2 bin_rule: SLIDING }", [(2, 3, 8, 7)], other=[(2, 3, 9, 13)]),
    Row("SPP", "spp_param { bins: 6 bins: 4 bin_rule: APPENDIX_A pool: AVE }", [(2, 3, 10, 18)]),
    Row("SPP", "spp_param { bins: 1 }", [(2, 3, 5, 7)]),
    Row("SPP", "spp_param { pyramid_height: 3 pool: AVE }", [(2, 3, 9, 6)]),
    Row("SPP", "spp_param { pyramid_height: 1 }", [(2, 3, 9, 6)]),
    Row("LRN", "lrn_param { local_size: 3 alpha: 1 beta: 0.75 }", [(3, 7)], other=[(4, 7)]),
    Row("LRN", "lrn_param { local_size: 5 alpha: 1 beta: 0.75 norm_region: WITHIN_CHANNEL }", [(2, 3, 3, 4)]),
    Row("BatchNorm", "batch_norm_param { use_global_stats: false eps: 0.25 }", by_image=False),
    Row("BatchNorm", "batch_norm_param { scale_bias: true eps: 0.25 scale_filler { value: 1.5 } "
        "bias_filler { value: -0.5 } }"),
    Row("BatchNorm", "batch_norm_param { use_weight_bias: true bias_term: false filler { value: 1.5 } }"),
    Row("Scale", "scale_param { axis: 1 bias_term: true filler { type: 'uniform' } bias_filler { value: 0.5 } }",
        [(2, 3, 4), (3, 4)], other=[(5, 3, 4), (3, 4)]),
    Row("Bias", "bias_param { num_axes: 0 filler { value: 0.75 } }"),
    Row("MVN", "", [(2, 3, 7)]),
    Row("ArgMax", "argmax_param { top_k: 2 }"),
    Row("ArgMax", "argmax_param { axis: 1 top_k: 2 out_max_val: true }"),
    Row("Reshape", "reshape_param { shape { dim: 0 dim: -1 } axis: 1 num_axes: 2 }", [(2, 3, 5, 4)]),
    Row("Eltwise", "eltwise_param { operation: SUM coeff: -1 coeff: 1 coeff: 0.5 }", [(2, 3, 4, 5)] * 3),
    Row("Upsample", "upsample_param { scale: 3 }", [(1, 3, 2, 2)] * 2, labels={1: 36}, other=[(1, 3, 3, 2)] * 2),
    Row("Interp", "interp_param { zoom_factor: 2 shrink_factor: 3 pad_beg: -1 }", [(2, 3, 9, 8)]),
    Row("PriorBox", "prior_box_param { min_size: 3 aspect_ratio: 2 flip: true step: 4 img_size: 30 clip: true "
        "variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 }", [(1, 3, 4, 5), (1, 3, 20, 30)]),
    Row("Embed", f"embed_param {{ input_dim: 7 num_output: 3 {GAUSS} }}", [(4, 1, 5)], labels={0: 7}),
]


def assert_same(net, row, shapes=None):
    """Compare the module's outputs with the net's."""
    row.fill(net, shapes, seed=1)
    for layer in net.layers:
        if layer.type == "BatchNorm" and not any(blob.data.any() for blob in layer.blobs[:2]):
            rng = np.random.default_rng(0)
            for blob in layer.blobs[:3]:
                blob.data[...] = rng.uniform(1, 2, blob.shape)
    module = torch_module(net)
    results = module(*[torch.tensor(np.array(net.blobs[name].data)) for name in net.inputs])
    net.forward()
    assert set(results) == set(net.outputs)
    for name in net.outputs:
        expected = net.blobs[name].data
        assert results[name].shape == expected.shape and results[name].dtype == torch.float64
        np.testing.assert_allclose(results[name].detach().numpy(), expected, 1e-6, 1e-6, err_msg=name)
    return module


@pytest.mark.parametrize("row", ROWS + MORE, ids=lambda row: row.id)
def test_layer(row):
    """The module computes what the net computes, or the layer is refused by its type and name."""
    row = dataclasses.replace(row, phase=TEST)
    net = row.net()
    if row.type not in EXPORTERS:
        with pytest.raises(ConvertError) as caught:
            torch_source(net)
        assert str(caught.value).startswith(f"layer 'l' ({row.type}) cannot be converted to torch: ")
        return
    assert_same(net, row)
    if row.other:
        assert_same(net, row, row.other)


def test_every_exporter_is_tested():
    assert len(EXPORTERS) >= 58, "an exporter was lost"
    assert set(EXPORTERS) <= {row.type for row in ROWS + MORE} | {"DummyData", "Parameter"}


def outputs_of(text, dtype=np.float64):
    """A net without inputs: the outputs of its module, and its own."""
    net = Net(parse_net(text), TEST, dtype=dtype)
    for blobs in net.params.values():
        for blob in blobs:
            blob.data[...] = np.random.default_rng(1).normal(size=blob.shape)
    results = torch_module(net)()
    net.forward()
    return {k: v.detach().numpy() for k, v in results.items()}, {name: net.blobs[name].data for name in net.outputs}


def test_constants_and_parameters_are_part_of_the_module():
    result, expected = outputs_of(
        "layer { name: 'made' type: 'DummyData' top: 'a' top: 'b' dummy_data_param { shape { dim: 2 dim: 3 } "
        "data_filler { value: 1.5 } data_filler { value: -2 } } }"
        "layer { name: 'learned' type: 'Parameter' top: 'p' parameter_param { shape { dim: 2 dim: 3 } } }"
        "layer { name: 'sum' type: 'Eltwise' bottom: 'a' bottom: 'b' bottom: 'p' top: 'sum' }")
    np.testing.assert_array_equal(result["sum"], expected["sum"])
    assert expected["sum"].std() > 0.1


@pytest.mark.parametrize("text, message", [
    ("layer { name: 'd' type: 'DummyData' top: 'a' dummy_data_param { shape { dim: 2 } "
     "data_filler { type: 'gaussian' } } }", "layer 'd' (DummyData) cannot be converted to torch: "
     "its values are random; write an Input layer, or data_filler { type: 'constant' }"),
    ("layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: 1 dim: 2 dim: 1 dim: 2 dim: 2 dim: 2 } } } "
     "layer { name: 'c' type: 'Convolution' bottom: 'x' top: 'y' convolution_param { num_output: 1 kernel_size: 1 } }",
     "layer 'c' (Convolution) cannot be converted to torch: has 4 spatial axes; torch has convolutions over 1 to 3"),
    ("layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: 1 dim: 2 dim: 6 dim: 6 } } } "
     "layer { name: 'p' type: 'Pooling' bottom: 'x' top: 'y' top: 'z' pooling_param { pool: MAX "
     "kernel_size: 3 pad: 2 } }", "layer 'p' (Pooling) cannot be converted to torch: torch returns the indices "
     "of maxima only if pad is at most half of the kernel"),
    ("layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: 2 dim: 3 } } } "
     "layer { name: 'a' type: 'InnerProduct' bottom: 'x' top: 'a' param { name: 'w' } inner_product_param { "
     "num_output: 2 bias_term: false } } layer { name: 'b' type: 'InnerProduct' bottom: 'a' top: 'b' param { "
     "name: 'w' share_mode: PERMISSIVE } inner_product_param { num_output: 3 bias_term: false } }",
     "layer 'b' (InnerProduct) cannot be converted to torch: it shares its parameter 'weight' with one of another "
     "shape or kind; give it one of its own"),
])
def test_what_cannot_be_converted_says_why(text, message):
    with pytest.raises(ConvertError) as caught:
        torch_module(Net(parse_net(text), TEST))
    assert str(caught.value) == message


def test_a_training_net_is_refused():
    with pytest.raises(ConvertError, match="net 'n' is of phase TRAIN; build it with phase TEST"):
        torch_source(Net(parse_net("name: 'n' layer { name: 'x' type: 'Input' top: 'x' }"), TRAIN))


def test_names_become_identifiers_that_do_not_collide():
    text = ("layer { name: 'in' type: 'Input' top: 'F' input_param { shape { dim: 2 dim: 3 } } }"
            + "".join(f"layer {{ name: '{name}' type: 'InnerProduct' bottom: '{bottom}' top: '{name}' "
                      f"inner_product_param {{ num_output: 3 weight_filler {{ type: 'gaussian' }} }} }}"
                      for bottom, name in [("F", "a/b"), ("a/b", "a_b"), ("a_b", "class"), ("class", "forward"),
                                           ("forward", "3x"), ("3x", "torch"), ("torch", "self")]))
    net = Net(parse_net(text), TEST)
    net.blobs["F"].data[...] = np.random.default_rng(0).normal(size=(2, 3))
    module = torch_module(net)
    names = [name for name, _ in module.named_children()]
    assert names == ["a_b", "a_b_", "class_", "forward_", "x3x", "torch", "self"]
    result = module(torch.tensor(net.blobs["F"].data))["self"].detach().numpy()
    np.testing.assert_allclose(result, net.forward()["self"], 1e-5, 1e-6)


def test_the_attributes_of_a_module_are_all_known():
    assert {name for name in dir(torch.nn.Module()) if not name.startswith("_")} <= RESERVED


def test_the_source_is_the_modules_own_and_can_be_inspected():
    net = dataclasses.replace(next(row for row in ROWS if row.type == "LSTM"), phase=TEST).net()
    module, text = torch_module(net), torch_source(net)
    assert inspect.getsource(type(module).forward) in text
    assert "class Recurrent" in text and "class LSTM" in text and "class RNN" not in text
    assert max(map(len, text.splitlines())) < 120 and "import math" not in text


def test_states_are_carried_as_the_net_carries_them():
    row = dataclasses.replace(next(row for row in ROWS if row.type == "LSTM"), phase=TEST)
    net = row.net()
    module = torch_module(net)
    x = torch.tensor(np.array(net.blobs["x0"].data))
    for cont in (1, 1, 0):
        net.blobs["x1"].data[...] = cont
        result = module(x, torch.full((4, 2), float(cont), dtype=torch.float64))["y0"].detach().numpy()
        np.testing.assert_allclose(result, net.forward()["y0"], 1e-9)


def test_dropout_drops_in_training_only():
    net = Row("Dropout", "dropout_param { dropout_ratio: 0.5 scale_train: false }", phase=TEST).net()
    module = torch_module(net)
    x = torch.ones(40, 50, dtype=torch.float64)
    assert (module(x)["y0"] == 0.5).all()
    module.train()
    torch.manual_seed(0)
    y = module(x)["y0"]
    assert set(y.unique().tolist()) == {0, 1} and 0.4 < y.mean() < 0.6
