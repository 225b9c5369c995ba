"""The nets and solvers in prototxt/: map sizes of the paper's Table 1, settings of its Section 3.1."""
import math

import pytest

from folders import PROTOTXT
from spp import paths
from spp.training import policies
from spp.errors import NetError
from spp.graph import filter_net
from spp.layers import TEST, TRAIN
from spp.net import Net
from spp.proto import caffe_pb2, text

NETS = ("zf5_spp", "zf5")
MAPS = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5")
CHANNELS = (96, 96, 256, 256, 384, 384, 256)


def read_net(name: str) -> caffe_pb2.NetParameter:
    return text.read_net(PROTOTXT / f"{name}.prototxt")


@pytest.fixture(scope="module", params=NETS)
def deploy(request):
    """Name and net, built once: its 90 or 106 million parameters take a moment."""
    with Net(str(PROTOTXT / f"{request.param}_deploy.prototxt"), TEST, device="cpu") as net:
        yield request.param, net


def reshape(net: Net, height: int, width: int) -> None:
    net.blobs["data"].reshape(1, 3, height, width)
    net.reshape()


def maps(net: Net) -> list[tuple[int, ...]]:
    return [net.blobs[blob].shape for blob in MAPS]


def test_map_sizes_of_table_1(deploy):
    name, net = deploy
    reshape(net, 224, 224)
    assert maps(net) == [(1, c, side, side) for c, side in zip(CHANNELS, (110, 55, 27, 13, 13, 13, 13))]
    if name == "zf5":
        assert net.blobs["pool5"].shape == (1, 256, 6, 6)
    else:
        reshape(net, 180, 180)
        assert maps(net) == [(1, c, side, side) for c, side in zip(CHANNELS, (88, 44, 21, 10, 10, 10, 10))]


def test_the_pyramid_takes_every_size_and_the_baseline_one(deploy):
    name, net = deploy
    for height, width in ((180, 180), (256, 341), (512, 300)):
        if name == "zf5":
            with pytest.raises(NetError, match="layer 'fc6'"):
                reshape(net, height, width)
            continue
        reshape(net, height, width)
        assert net.blobs["spp"].count == 256 * (36 + 9 + 4 + 1) == 12800
        assert net.blobs["prob"].shape == (1, 1000)


def test_parameter_shapes(deploy):
    name, net = deploy
    weights = [(96, 3, 7, 7), (256, 96, 5, 5), (384, 256, 3, 3), (384, 384, 3, 3), (256, 384, 3, 3),
               (4096, 12800 if name == "zf5_spp" else 9216), (4096, 4096), (1000, 4096)]
    assert {layer: [blob.shape for blob in blobs] for layer, blobs in net.params.items()} == {
        layer: [shape, shape[:1]]
        for layer, shape in zip(("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"), weights)}


@pytest.mark.parametrize("name", NETS)
def test_the_deploy_net_is_the_trained_net(name):
    """Layer for layer, so that weights load and mean the same; only inputs, losses and learning differ."""
    def bare(net: caffe_pb2.NetParameter) -> list[caffe_pb2.LayerParameter]:
        layers = []
        for layer in filter_net(net, TEST).layer:
            if layer.type in ("Data", "Input", "SoftmaxWithLoss", "Softmax", "Accuracy"):
                continue
            del layer.param[:]
            for param in (layer.convolution_param, layer.inner_product_param):
                param.ClearField("weight_filler")
                param.ClearField("bias_filler")
            layers.append(layer)
        return layers
    trained, deployed = bare(read_net(f"{name}_train_val")), bare(read_net(f"{name}_deploy"))
    assert len(trained) == 22
    assert [str(layer) for layer in trained] == [str(layer) for layer in deployed]


def test_the_two_nets_differ_in_the_pyramid_and_the_sizes_only():
    def layers(name: str) -> dict[str, str]:
        return {f"{layer.name} {list(layer.include)}": str(layer) for layer in read_net(name).layer}
    spp, plain = layers("zf5_spp_train_val"), layers("zf5_train_val")
    differing = {key.split()[0] for key in spp.keys() | plain.keys() if spp.get(key) != plain.get(key)}
    assert differing == {"data", "spp", "pool5", "fc6"}


@pytest.mark.parametrize("name", NETS)
def test_training_settings_of_the_paper(name):
    net = filter_net(read_net(f"{name}_train_val"), TRAIN)
    data = net.layer[0]
    assert (data.data_param.source, data.data_param.batch_size) == ("data/ilsvrc12_train_lmdb", 128)
    transform = data.transform_param
    assert (transform.resize_short, transform.crop_size, transform.mirror) == (256, 224, True)
    assert transform.crop_mode == transform.CORNERS and transform.mean_mode == transform.WARP
    assert transform.color_param.std == pytest.approx(0.1)
    assert list(transform.size_param.size) == ([224, 180] if name == "zf5_spp" else [])
    by_name = {layer.name: layer for layer in net.layer}
    for layer, bias in (("conv1", 0), ("conv2", 1), ("conv3", 0), ("conv4", 1), ("conv5", 1),
                        ("fc6", 1), ("fc7", 1), ("fc8", 0)):
        param = by_name[layer].convolution_param if "conv" in layer else by_name[layer].inner_product_param
        assert (param.weight_filler.type, param.weight_filler.std) == ("gaussian", pytest.approx(0.01))
        assert (param.bias_filler.type, param.bias_filler.value) == ("constant", bias)
        assert [(spec.lr_mult, spec.decay_mult) for spec in by_name[layer].param] == [(1, 1), (2, 0)]
    for layer in ("norm1", "norm2"):
        lrn = by_name[layer].lrn_param
        assert lrn.norm_region == lrn.WITHIN_CHANNEL and lrn.local_size == 3
        assert (lrn.alpha, lrn.beta) == (pytest.approx(5e-5), 0.75)
    assert by_name["drop6"].dropout_param.dropout_ratio == by_name["drop7"].dropout_param.dropout_ratio == 0.5


@pytest.mark.parametrize("name", NETS)
def test_solver_settings_of_the_paper(name, tmp_path, monkeypatch):
    path = str(PROTOTXT / f"{name}_solver.prototxt")
    solver = text.read_solver(path)
    policies.check(solver)
    monkeypatch.chdir(tmp_path)     # the net is found from anywhere
    assert paths.find(solver.net, path) == str(PROTOTXT / f"{name}_train_val.prototxt")
    assert solver.base_lr == pytest.approx(0.01) and solver.gamma == pytest.approx(0.1)
    assert (solver.lr_policy, solver.plateau_param.max_drops) == ("plateau", 2)
    assert (solver.momentum, solver.weight_decay) == (pytest.approx(0.9), pytest.approx(5e-4))
    images, batch = 1_281_167, 128
    assert solver.max_iter == math.ceil(70 * images / batch)
    assert solver.test_interval == math.ceil(images / batch)
    test = filter_net(read_net(f"{name}_train_val"), TEST).layer[0]
    assert list(solver.test_iter) == [50_000 // test.data_param.batch_size]


def test_the_pyramid_has_the_papers_levels_in_its_order():
    spp = next(layer for layer in read_net("zf5_spp_train_val").layer if layer.type == "SPP")
    assert list(spp.spp_param.bins) == [6, 3, 2, 1] and spp.spp_param.pool == spp.spp_param.MAX


@pytest.mark.parametrize("stages, batch, crop", [((), 50, 64), (("larger",), 50, 96), (("full",), 1, 0)])
def test_the_stages_of_the_demo_net_each_keep_one_data_layer(stages, batch, crop):
    data = [layer for layer in filter_net(read_net("demo_spp_train_val"), TEST, 0, stages).layer
            if layer.type == "Data"]
    sizes = [(layer.data_param.batch_size, layer.transform_param.crop_size) for layer in data]
    assert sizes == [(batch, crop)]
