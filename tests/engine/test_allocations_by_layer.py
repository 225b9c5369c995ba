"""In steady state no layer allocates memory: forward and backward ask for no more than a few small objects.

Beside Python's objects these are vectors with a number per image, channel, label or region: the blobs here have few of
each. What NumPy takes as buffers, of the same size for every blob, is made small, so as not to hide anything.
"""
from typing import Any

import numpy as np
import pytest

from allocations import SMALL, most_allocated
from every_layer_rows import X, large_rows, without_large
from spp.layers import types
from spp.net import Net
from spp.proto.text import parse_net


def test_every_type_has_a_large_row():
    assert without_large(types()) == []
    assert without_large(["ReLU", "Python", "NoSuchType"]) == [
        "layer type 'NoSuchType' is not tested for allocations: add large=[Large([shape of each bottom])] to its Row "
        "in tests/support/every_layer_rows.py (about 1 MB), or to WITHOUT_LARGE the reason"]


@pytest.fixture(autouse=True)
def _small_buffers():
    before = np.setbufsize(512)
    yield
    np.setbufsize(before)


@pytest.mark.parametrize("row", large_rows(), ids=lambda row: row.id)
def test_forward_and_backward(row):
    net = row.net(np.float32)
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
