"""The number of threads: results repeat to the bit for one number, and are equal up to rounding for others."""
import os
import subprocess
import sys

import numpy as np
import pytest

# Forward and gradients of a small net: im2row, Winograd's, pointwise and depthwise convolution, LRN, pooling, SPP.
PROGRAM = """
import sys
import numpy as np
from spp.net import Net
from spp.proto.text import parse_net

net = Net(parse_net('''
    layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 3 dim: 3 dim: 61 dim: 58 } } }
    layer { name: "c1" type: "Convolution" bottom: "data" top: "c1" convolution_param {
        num_output: 36 kernel_size: 7 stride: 2 pad: 1 weight_filler { type: "xavier" } } }
    layer { name: "n1" type: "LRN" bottom: "c1" top: "n1" lrn_param { alpha: 1 } }
    layer { name: "c2" type: "Convolution" bottom: "n1" top: "c2" convolution_param {
        num_output: 40 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
    layer { name: "r2" type: "ReLU" bottom: "c2" top: "c2" }
    layer { name: "d2" type: "Convolution" bottom: "c2" top: "d2" convolution_param {
        num_output: 40 group: 40 kernel_size: 3 weight_filler { type: "xavier" } } }
    layer { name: "p2" type: "Pooling" bottom: "d2" top: "p2" pooling_param { kernel_size: 3 stride: 2 } }
    layer { name: "c3" type: "Convolution" bottom: "p2" top: "c3" convolution_param {
        num_output: 24 kernel_size: 1 weight_filler { type: "xavier" } } }
    layer { name: "spp" type: "SPP" bottom: "c3" top: "spp" spp_param { bins: 3 bins: 1 } }
    layer { name: "fc" type: "InnerProduct" bottom: "spp" top: "fc" inner_product_param {
        num_output: 70 weight_filler { type: "xavier" } } }
    layer { name: "loss" type: "Reduction" bottom: "fc" top: "loss" loss_weight: 1
        reduction_param { operation: SUMSQ } }
    force_backward: true
'''), "TRAIN", seed=3)
net.blobs["data"].data[...] = np.random.default_rng(0).normal(size=net.blobs["data"].shape)
net.forward()
net.backward()
results = {name: blob.data for name, blob in net.blobs.items()}
results |= {f"{name}.diff": blob.diff for name, blob in net.blobs.items()}
results |= {f"{name}.{i}": blob.diff for name, blobs in net.params.items() for i, blob in enumerate(blobs)}
np.savez(sys.argv[1], **results)
"""


def run(path, threads):
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, "-c", PROGRAM, path], check=True, env=environment)
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def of_one(tmp_path_factory):
    return run(str(tmp_path_factory.mktemp("threads") / "one.npz"), 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_results_repeat_and_do_not_depend_on_the_number_of_threads(of_one, threads, tmp_path):
    first, again = run(str(tmp_path / "first.npz"), threads), run(str(tmp_path / "again.npz"), threads)
    assert first.keys() == again.keys() == of_one.keys() and len(first) > 25
    for name, values in of_one.items():
        np.testing.assert_array_equal(first[name], again[name], err_msg=name)
        np.testing.assert_allclose(first[name], values, 0, 2e-5 * np.abs(values).max(), err_msg=name)
        assert np.abs(values).max() > 0
