"""Every golden layer case whose layer types exist: forward, backward and parameter gradients."""
import re

import numpy as np
import pytest

import golden
from spp.layers import types
from spp.net import Net


def layer_types(case):
    with open(golden.path("layers", case, "net.prototxt")) as file:
        return set(re.findall(r'^layer \{ name: "\w+" type: "(\w+)"', file.read(), re.M))


def covered():
    return [case for case in golden.cases("layers") if layer_types(case) <= set(types())]


def test_the_cases_of_all_types_are_found():
    expected = {"Convolution", "Pooling", "SPP", "LRN", "ReLU", "Dropout", "InnerProduct", "Flatten", "Concat",
                "Softmax", "SoftmaxWithLoss", "Accuracy", "TanH", "Power", "Eltwise"}
    types = {kind for case in covered() for kind in layer_types(case)}
    assert expected <= types and len(covered()) >= 52


@pytest.mark.parametrize("case", covered())
def test_case(case):
    data = np.load(golden.path("layers", case, "data.npz"))
    net = Net(golden.path("layers", case, "net.prototxt"), int(data["phase"]))

    def of(prefix):
        return [(key.split("/")[1:], data[key]) for key in data.files if key.startswith(prefix + "/")]

    for (layer, index), values in of("param"):
        net.params[layer][int(index)].data[...] = values
    for (name,), values in of("in"):
        net.blobs[name].data[...] = values
    net.forward()
    for (name,), values in of("out"):
        golden.assert_close(net.blobs[name].data, values, f"{case} {name}")
    for (layer, index), values in of("after"):
        golden.assert_close(net.params[layer][int(index)].data, values, f"{case} {layer}[{index}] after forward")

    assert any(of(kind) for kind in ("out", "after"))
    for (name,), values in of("topdiff"):
        net.blobs[name].diff[...] = values
    net.clear_param_diffs()
    net.backward()
    for (name,), values in of("indiff"):
        golden.assert_close(net.blobs[name].diff, values, f"{case} gradient of {name}")
    for (layer, index), values in of("paramdiff"):
        golden.assert_close(net.params[layer][int(index)].diff, values, f"{case} gradient of {layer}[{index}]")
