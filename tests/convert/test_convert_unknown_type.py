"""A layer type that the converters do not know: refused by type and name, and counted by the default."""
import numpy as np
import pytest

from spp.convert import onnx, torch
from spp.errors import ConvertError
from spp.inspection import flops
from spp.layers import Layer, registry
from spp.net import Net
from spp.proto.text import parse_net


class Square(Layer):
    """x * x."""

    bottoms = (1, 1)
    tops = (1, 1)

    def reshape(self, bottom, top):
        top[0].reshape(bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = np.square(bottom[0].data)


@pytest.fixture
def net(monkeypatch):
    monkeypatch.setitem(registry._classes, "Square", Square)
    return Net(parse_net("""
layer { name: 'data' type: 'Input' top: 'x' input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } } }
layer { name: 'twice' type: 'Square' bottom: 'x' top: 'y' }"""), device="cpu")


def test_torch_refuses_it(net):
    pytest.importorskip("torch", reason="what this test converts to: pip install 'spp[torch]'")
    with pytest.raises(ConvertError) as caught:
        torch.source(net)
    assert str(caught.value) == ("layer 'twice' (Square) cannot be converted to torch: torch has no function of this "
                                 "kind")


def test_onnx_refuses_it(net, tmp_path):
    pytest.importorskip("onnx", reason="needs pip install 'spp[onnx]'")
    with pytest.raises(ConvertError) as caught:
        onnx.export(net, None, str(tmp_path / "net.onnx"))
    assert str(caught.value) == ("layer 'twice' (Square) cannot be expressed in ONNX: no combination of standard "
                                 "operators is known for it")
    assert not list(tmp_path.iterdir())


def test_it_counts_one_operation_per_element(net):
    assert [cost.flops for cost in flops.costs(net)] == [0, 2 * 3 * 4 * 5]
