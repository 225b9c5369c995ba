"""Nets take any input size: no reshape by hand, memory grows to the largest and stays, TEST has no gradients."""
import tracemalloc

import numpy as np
import pytest

from spp.blob import Blob
from spp.layers import TEST, TRAIN
from spp.net import Net
from spp.proto.text import parse_net

GAUSS = "weight_filler { type: 'gaussian' std: 0.3 } bias_filler { type: 'gaussian' std: 0.3 }"
INPUT = "layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: 2 dim: 3 dim: 24 dim: 30 } } }\n"
NETS = {
    "spp": INPUT + f"""
layer {{ name: 'c1' type: 'Convolution' bottom: 'x' top: 'c1'
        convolution_param {{ num_output: 6 kernel_size: 5 stride: 2 pad: 1 {GAUSS} }} }}
layer {{ name: 'r1' type: 'ReLU' bottom: 'c1' top: 'c1' }}
layer {{ name: 'n1' type: 'LRN' bottom: 'c1' top: 'n1' lrn_param {{ local_size: 3 alpha: 1 beta: 0.75 }} }}
layer {{ name: 'p1' type: 'Pooling' bottom: 'n1' top: 'p1' pooling_param {{ pool: MAX kernel_size: 3 stride: 2 }} }}
layer {{ name: 'c2' type: 'Convolution' bottom: 'p1' top: 'c2'
        convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 group: 2 {GAUSS} }} }}
layer {{ name: 'spp' type: 'SPP' bottom: 'c2' top: 'spp' spp_param {{ bins: 3 bins: 2 bins: 1 }} }}
layer {{ name: 'caffe' type: 'SPP' bottom: 'c2' top: 'caffe' spp_param {{ pyramid_height: 2 pool: AVE }} }}
layer {{ name: 'both' type: 'Concat' bottom: 'spp' bottom: 'caffe' top: 'both' }}
layer {{ name: 'fc' type: 'InnerProduct' bottom: 'both' top: 'fc' inner_product_param {{ num_output: 5 {GAUSS} }} }}
layer {{ name: 'prob' type: 'Softmax' bottom: 'fc' top: 'prob' }}
""",
    "fully_convolutional": INPUT + f"""
layer {{ name: 'c1' type: 'Convolution' bottom: 'x' top: 'c1'
        convolution_param {{ num_output: 4 kernel_size: 3 pad: 9 dilation: 2 bias_term: false {GAUSS} }} }}
layer {{ name: 'b1' type: 'BatchNorm' bottom: 'c1' top: 'b1' batch_norm_param {{ use_global_stats: false }} }}
layer {{ name: 's1' type: 'Scale' bottom: 'b1' top: 'b1' scale_param {{ bias_term: true }} }}
layer {{ name: 'r1' type: 'PReLU' bottom: 'b1' top: 'b1' }}
layer {{ name: 'p1' type: 'Pooling' bottom: 'b1' top: 'p1' pooling_param {{ pool: AVE kernel_size: 3 stride: 2 }} }}
layer {{ name: 'half' type: 'Slice' bottom: 'p1' top: 'left' top: 'right' }}
layer {{ name: 'again' type: 'Concat' bottom: 'right' bottom: 'left' bottom: 'p1' top: 'again' }}
layer {{ name: 'up' type: 'Deconvolution' bottom: 'again' top: 'up'
        convolution_param {{ num_output: 3 kernel_size: 4 stride: 2 {GAUSS} }} }}
layer {{ name: 'cut' type: 'Crop' bottom: 'up' bottom: 'x' top: 'cut' crop_param {{ offset: 3 offset: 4 }} }}
layer {{ name: 'sum' type: 'Eltwise' bottom: 'cut' bottom: 'x' top: 'sum' }}
layer {{ name: 'pixels' type: 'Reshape' bottom: 'sum' top: 'pixels'
        reshape_param {{ shape {{ dim: 0 dim: 3 dim: -1 }} }} }}
layer {{ name: 'prob' type: 'Softmax' bottom: 'pixels' top: 'prob' }}
"""}
SIZES = [(2, 24, 30), (1, 41, 17), (3, 16, 16), (2, 24, 31), (2, 33, 64), (1, 90, 75), (2, 17, 50), (4, 24, 30),
         (1, 19, 81), (2, 24, 30)]
LARGEST = (4, 90, 81)

each_net = pytest.mark.parametrize("name", NETS)


def make(name, phase, size=None):
    """The net, of one seed; its input of the size, images x height x width, from the start."""
    text = NETS[name]
    if size:
        n, h, w = size
        text = text.replace("dim: 2 dim: 3 dim: 24 dim: 30", f"dim: {n} dim: 3 dim: {h} dim: {w}")
    return Net(parse_net(("force_backward: true " if phase == TRAIN else "") + text), phase, seed=2)


def image(size):
    n, h, w = size
    return np.random.default_rng(h * w).normal(size=(n, 3, h, w)).astype(np.float32)


def assert_same(result, expected, what):
    assert result.shape == expected.shape, what
    np.testing.assert_allclose(result, expected, 1e-5, 1e-6, err_msg=what)


@each_net
def test_a_net_of_many_sizes_is_like_a_fresh_one_of_each(name):
    net = make(name, TEST)
    for size in SIZES:
        fresh = make(name, TEST, size)
        expected = fresh.forward(x=image(size))["prob"]
        assert_same(net.forward(x=image(size))["prob"], expected, str(size))
        for blob in net.blobs:
            assert_same(net.blobs[blob].data, fresh.blobs[blob].data, f"{size} {blob}")


@each_net
def test_so_are_its_gradients(name):
    net = make(name, TRAIN)
    for size in SIZES:
        nets = net, make(name, TRAIN, size)
        for one in nets:
            shape = one.forward(x=image(size))["prob"].shape
            one.blobs["prob"].diff[...] = np.random.default_rng(1).normal(size=shape)
            one.clear_param_diffs()
            one.backward()
        assert_same(net.blobs["x"].diff, nets[1].blobs["x"].diff, f"{size} x")
        for mine, theirs in zip(net.learnable, nets[1].learnable):
            largest = np.abs(theirs.blob.diff).max()
            np.testing.assert_allclose(mine.blob.diff, theirs.blob.diff, 1e-4, 1e-5 * largest, err_msg=mine.name)


def test_an_input_shaped_by_hand_is_enough():
    net = make("spp", TEST)
    net.blobs["x"].reshape(1, 3, 41, 17)
    net.blobs["x"].data[...] = image((1, 41, 17))
    assert net.forward()["prob"].shape == (1, 5)
    assert_same(net.blobs["prob"].data, make("spp", TEST, (1, 41, 17)).forward(x=image((1, 41, 17)))["prob"], "prob")


def memory(array):
    """The array that owns the memory of another."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


@each_net
def test_memory_grows_to_the_largest_and_stays(name):
    net = make(name, TEST)
    owned = {blob: 0 for blob in net.blobs}
    for size in SIZES:
        net.forward(x=image(size))
        for blob, before in owned.items():
            owned[blob] = memory(net.blobs[blob].data).nbytes
            assert owned[blob] >= max(before, net.blobs[blob].count * 4)
    net.forward(x=image(LARGEST))
    largest = {blob: memory(net.blobs[blob].data) for blob in net.blobs}
    assert all(array.nbytes == net.blobs[blob].count * 4 for blob, array in largest.items())
    for size in SIZES:
        net.forward(x=image(size))
        assert all(memory(net.blobs[blob].data) is array for blob, array in largest.items()), size


@each_net
def test_more_images_take_no_more_memory(name):
    """Of layers' own buffers and the kernels' too."""
    net = make(name, TEST)
    images = [image(size) for size in (LARGEST, *SIZES)]
    tracemalloc.start()
    try:
        usage = []
        for _ in range(3):
            for x in images:
                net.forward(x=x)
            usage.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert usage[2] - usage[1] < 60_000, usage     # Python's own small objects; the largest input is 350,000


@each_net
def test_a_test_net_has_no_gradients(name):
    net = make(name, TEST)
    for size in SIZES:
        net.forward(x=image(size))
    own = [value for layer in net.layers for value in vars(layer).values() if isinstance(value, Blob)]
    params = [blob for blobs in net.params.values() for blob in blobs]
    assert not any(blob.has_diff for blob in [*net.blobs.values(), *params, *own])
