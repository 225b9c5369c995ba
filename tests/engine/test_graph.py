"""Which layers a state keeps, where blobs are split, which layers run backward: the reference's structures."""
import json

import pytest

import golden
from spp import graph
from spp.errors import NetError
from spp.net import Net
from spp.proto.text import parse_net

with open(golden.path("graphs", "structures.json")) as file:
    STRUCTURES = json.load(file)


@pytest.mark.parametrize("case", STRUCTURES, ids=lambda c: f"{c['phase']}-{c['level']}-{'+'.join(c['stages'])}")
def test_structure(case):
    phase = {"TRAIN": 0, "TEST": 1}[case["phase"]]
    net = Net(golden.path("graphs", case["net"]), phase, case["level"], case["stages"])
    layers = {layer.name: layer.param for layer in net.layers}
    assert list(layers) == case["layers"]
    assert list(net.blobs) == case["blobs"]
    assert {name: list(p.top) for name, p in layers.items()} == case["tops"]
    assert {name: list(p.bottom) for name, p in layers.items()} == case["bottoms"]
    assert net.inputs == case["inputs"]
    assert sorted(net.outputs) == sorted(case["outputs"])
    assert {name: list(blob.shape) for name, blob in net.blobs.items()} == case["shapes"]
    assert {name: net.loss_weights[name] for name in net.blobs} == case["loss_weights"]


def test_all_structures_are_there():
    assert len(STRUCTURES) == 28


def layer(name, type="ReLU", bottom="", top="", rest=""):
    parts = [f"bottom: '{b}'" for b in bottom.split()] + [f"top: '{t}'" for t in top.split()]
    return f"layer {{ name: '{name}' type: '{type}' {' '.join(parts)} {rest} }}\n"


def test_a_loss_weight_counts_as_a_reader_and_moves_to_the_first_split():
    net = graph.insert_splits(parse_net(
        layer("in", "Input", "", "x") + layer("ip", "InnerProduct", "x", "y", "loss_weight: 0.5")
        + layer("a", "ReLU", "y", "a")))
    assert [p.name for p in net.layer] == ["in", "ip", "y_ip_0_split", "a"]
    assert list(net.layer[1].loss_weight) == [] and list(net.layer[2].loss_weight) == [0.5, 0]
    assert list(net.layer[2].top) == ["y_ip_0_split_0", "y_ip_0_split_1"]
    assert list(net.layer[3].bottom) == ["y_ip_0_split_1"]


def test_splits_follow_the_last_producer_of_an_in_place_blob():
    net = graph.insert_splits(parse_net(
        layer("in", "Input", "", "x") + layer("ip", "InnerProduct", "x", "y") + layer("relu", "ReLU", "y", "y")
        + layer("a", "ReLU", "y", "a") + layer("b", "ReLU", "y", "b")))
    assert [p.name for p in net.layer] == ["in", "ip", "relu", "y_relu_0_split", "a", "b"]
    assert [list(p.bottom) for p in net.layer[4:]] == [["y_relu_0_split_0"], ["y_relu_0_split_1"]]


def test_unknown_bottom():
    with pytest.raises(NetError) as error:
        graph.insert_splits(parse_net(layer("in", "Input", "", "x") + layer("a", "ReLU", "z", "a")))
    assert str(error.value) == ("unknown bottom blob 'z' (layer 'a', bottom index 0); blobs made before this layer: x")


def test_include_and_exclude_together():
    with pytest.raises(NetError, match="layer 'a': specify either include rules or exclude rules, not both"):
        graph.filter_net(parse_net(layer("a", rest="include { phase: TRAIN } exclude { phase: TEST }")), 0)


def test_the_files_own_state_keeps_its_stages():
    param = parse_net("state { phase: TRAIN level: 3 stage: 'own' }" + layer("a", rest="include { stage: 'own' }")
                      + layer("b", rest="include { stage: 'own' stage: 'given' }")
                      + layer("c", rest="include { min_level: 3 }"))
    result = graph.filter_net(param, 1, 0, ["given"])
    assert [p.name for p in result.layer] == ["a", "b"]
    assert result.state.phase == 1 and list(result.state.stage) == ["own", "given"]


MLP = (layer("in", "Input", "", "x t", "input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } }")
       + layer("ip1", "InnerProduct", "x", "h", "inner_product_param { num_output: 3 } %s")
       + layer("relu", "ReLU", "h", "h")
       + layer("ip2", "InnerProduct", "h", "y", "inner_product_param { num_output: 3 }")
       + layer("side", "ReLU", "h", "side") + layer("loss", "SoftmaxWithLoss", "y t", "loss"))


def plan(text):
    net = Net(parse_net(text), 0)
    needs = dict(zip((p.name for p in net.param.layer), net._needs_backward))
    flags = dict(zip((p.name for p in net.param.layer), net._propagate_down))
    return needs, flags


def test_only_layers_between_a_parameter_and_a_loss_run_backward():
    needs, flags = plan(MLP % "")
    assert needs == {"in": False, "ip1": True, "relu": True, "h_relu_0_split": True, "ip2": True, "side": False,
                     "loss": True}
    assert flags["ip1"] == [False] and flags["ip2"] == [True] and flags["loss"] == [True, False]


def test_frozen_layers_stop_backward():
    needs, _ = plan(MLP % "param { lr_mult: 0 } param { lr_mult: 0 }")
    assert needs == {"in": False, "ip1": False, "relu": False, "h_relu_0_split": False, "ip2": True, "side": False,
                     "loss": True}


def test_force_backward_reaches_the_input():
    needs, flags = plan("force_backward: true " + MLP % "param { lr_mult: 0 } param { lr_mult: 0 }")
    assert all(needs.values())
    assert flags["ip1"] == [True] and flags["loss"] == [True, False]


@pytest.mark.parametrize("flag, expected", [("true", [True]), ("false", [False])])
def test_propagate_down_is_obeyed(flag, expected):
    _, flags = plan(MLP % f"propagate_down: {flag}")
    assert flags["ip1"] == expected


def test_a_last_layer_in_place_makes_an_output():
    """As in Caffe, whose bottoms leave the list of outputs before the tops enter it."""
    input_ = "layer { name: 'x' type: 'Input' top: 'x' top: 'z' } "
    relu = "layer { name: 'r' type: 'ReLU' bottom: 'x' top: 'x' } "
    assert graph.outputs(parse_net(input_ + relu)) == ["x", "z"]
    assert graph.outputs(parse_net(input_ + relu + "layer { name: 'p' type: 'Power' bottom: 'x' top: 'y' }")) == [
        "y", "z"]
