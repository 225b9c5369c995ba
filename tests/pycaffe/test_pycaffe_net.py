"""spp.pycaffe: Net, its blobs, parameters and callbacks."""
import gc
from collections import OrderedDict

import numpy as np
import pytest

import spp.pycaffe as caffe
from pycaffe_nets import DEPLOY, NET, X, write
from spp.errors import SppError


@pytest.fixture
def net(tmp_path):
    caffe_net = caffe.Net(write(tmp_path, NET % 13), caffe.TRAIN)
    caffe_net.blobs["label"].data[...] = np.random.default_rng(0).integers(0, 13, caffe_net.blobs["label"].shape)
    return caffe_net


@pytest.fixture
def deploy(tmp_path):
    return caffe.Net(write(tmp_path, DEPLOY, "deploy.prototxt"), caffe.TEST)


# --- Net

def test_arrays_outlive_the_net(net):
    params = [blob.data for blobs in net.params.values() for blob in blobs]
    diffs = [blob.diff for blob in net.blobs.values()]
    net.forward()
    values = [blob.data for blob in net.blobs.values()]
    sums = [float(a.sum()) for a in params + diffs + values]
    del net
    gc.collect()
    assert [float(a.sum()) for a in params + diffs + values] == sums
    params[0][...] = 1


def test_names_and_layers(net):
    assert list(net.layer_dict) == net._layer_names == ["data", "conv", "ip", "loss"]
    assert all(type(net.layer_dict[name]) is type(layer) for name, layer in zip(net._layer_names, net.layers))
    assert [layer.type for layer in net.layers] == ["DummyData", "Convolution", "InnerProduct", "SoftmaxWithLoss"]
    assert net.inputs == [] and net.outputs == ["loss"]
    assert net.top_names == OrderedDict([("data", ["data", "label"]), ("conv", ["conv"]), ("ip", ["ip_blob"]),
                                         ("loss", ["loss"])])
    assert net.bottom_names == OrderedDict([("data", []), ("conv", ["data"]), ("ip", ["conv"]),
                                            ("loss", ["ip_blob", "label"])])
    assert isinstance(net.blobs, OrderedDict) and list(net.blobs) == net._blob_names
    assert net._blob_names == ["data", "label", "conv", "ip_blob", "loss"]
    assert net._inputs == [] and net._outputs == [4] and net._blobs[4] is net.blobs["loss"]
    assert net.blob_loss_weights == OrderedDict([(name, float(name == "loss")) for name in net.blobs])
    assert list(net.params) == ["conv", "ip"] and len(net.params["conv"]) == len(net.layers[1].blobs) == 2
    assert net.name == "testnet"


def test_blobs(net):
    blob = net.blobs["data"]
    assert list(blob.shape) == [5, 2, 3, 4] and blob.count == 120 and blob.data.dtype == np.float32
    assert (blob.num, blob.channels, blob.height, blob.width) == (5, 2, 3, 4)
    added = net.params["conv"].add_blob(2, 7)
    assert added.data.shape == (2, 7) and len(net.params["conv"]) == 3


def test_forward_and_backward(net):
    outputs = net.forward()
    assert list(outputs) == ["loss"] and outputs["loss"] is net.blobs["loss"].data
    weight, bias = (blob.data for blob in net.params["ip"])
    scores = net.blobs["conv"].data.reshape(5, -1) @ weight.T + bias
    scores -= scores.max(1, keepdims=True)
    labels = net.blobs["label"].data.reshape(-1).astype(int)
    expected = (np.log(np.exp(scores).sum(1)) - scores[np.arange(5), labels]).mean()
    assert float(outputs["loss"]) == pytest.approx(expected, rel=1e-4)
    assert net.backward() == {}
    assert net.params["conv"][0].diff.any() and net.blobs["data"].diff.any()


def test_forward_of_a_part_uses_what_was_written(net):
    net.blobs["conv"].data[...] = np.random.default_rng(1).normal(size=net.blobs["conv"].shape)
    before = np.array(net.blobs["conv"].data)
    outputs = net.forward(start="ip", end="ip")
    assert list(outputs) == ["ip_blob"]
    weight, bias = (blob.data for blob in net.params["ip"])
    np.testing.assert_allclose(outputs["ip_blob"], before.reshape(5, -1) @ weight.T + bias, 1e-3, 1e-4)
    np.testing.assert_array_equal(net.blobs["conv"].data, before)


def test_forward_hands_out_other_blobs_too(net):
    outputs = net.forward(["conv", "data"], end="ip")
    assert sorted(outputs) == ["conv", "data", "ip_blob"] and outputs["data"] is net.blobs["data"].data


def test_backward_of_a_part(net):
    net.forward()
    net.blobs["ip_blob"].diff[...] = np.random.default_rng(2).normal(size=(5, 13))
    diffs = net.backward(start="ip", end="ip")
    assert list(diffs) == ["conv"]
    expected = net.blobs["ip_blob"].diff @ net.params["ip"][0].data
    np.testing.assert_allclose(diffs["conv"].reshape(5, -1), expected, 1e-3, 1e-4)
    assert set(net.backward(["data"], start="ip", end="conv")) == {"data"}


def test_clear_param_diffs(net):
    net.forward()
    net.backward()
    diff = net.params["conv"][0].diff
    assert diff.max() > 0
    net.clear_param_diffs()
    assert diff is net.params["conv"][0].diff and (diff == 0).all()


def test_low_level_forward_and_backward(net):
    loss = net._forward(0, 3)
    assert loss == pytest.approx(float(net.blobs["loss"].data)) and net._forward(0, 2) == 0
    net._backward(3, 0)
    assert net.params["conv"][0].diff.any()


def test_callbacks(net):
    seen = []
    for name in ("before_forward", "after_forward", "before_backward", "after_backward"):
        getattr(net, name)(lambda i, name=name: seen.append((name, i)))
    net.forward()
    del seen[4:]
    net.backward(start="loss", end="ip")
    assert seen == [("before_forward", 0), ("after_forward", 0), ("before_forward", 1), ("after_forward", 1),
                    ("before_backward", 3), ("after_backward", 3), ("before_backward", 2), ("after_backward", 2)]


def test_the_diff_of_a_loss_is_its_weight_until_it_is_set(net):
    net.forward()
    net.backward()
    once = np.array(net.params["ip"][0].diff)
    net.clear_param_diffs()
    net.backward(loss=np.full(1, 3, np.float32))
    np.testing.assert_allclose(net.params["ip"][0].diff, 3 * once, 1e-4, 1e-6)
    net.clear_param_diffs()
    net.blobs["loss"].diff[...] = 0.5
    net.backward()
    np.testing.assert_allclose(net.params["ip"][0].diff, 0.5 * once, 1e-4, 1e-6)


def test_a_loss_of_another_shape_gets_its_weight(tmp_path):
    text = DEPLOY.replace("'pool' pooling", "'pool' loss_weight: 2 pooling")
    caffe_net = caffe.Net(write(tmp_path, text), caffe.TEST)
    for size in (3, 6):
        caffe_net.blobs["data"].reshape(2, 2, size, 5)
        caffe_net.forward()
        caffe_net.backward()
        assert (caffe_net.blobs["pool"].diff == 2).all() and caffe_net.params["conv"][1].diff.any()


# --- inputs

def test_inputs_by_name(deploy):
    x = np.random.default_rng(3).normal(size=(4, 2, 3, 5)).astype(np.float32)
    pool = deploy.forward(data=x)["pool"]
    np.testing.assert_array_equal(deploy.blobs["data"].data, x)
    deploy.blobs["data"].data[...] = 0
    deploy.blobs["data"].data[1] = x[1]
    again = np.array(deploy.forward()["pool"])
    assert again[1] == pytest.approx(pool[1])
    assert deploy.forward(data=np.ones((4, 2, 7, 6)))["pool"].shape == (4, 3, 1, 1)
    assert deploy.blobs["conv"].shape == (4, 3, 6, 5)
    assert not any(blob.has_diff for blob in [*deploy.blobs.values(), *deploy.params["conv"]])


def test_reshape(deploy):
    deploy.blobs["data"].reshape(1, 2, 9, 8)
    deploy.reshape()
    assert deploy.blobs["conv"].shape == (1, 3, 8, 7)
    deploy.blobs["data"].reshape(2, 2, 4, 4)
    assert deploy.forward()["pool"].shape == (2, 3, 1, 1)


def test_forward_all_pads_the_last_batch(deploy):
    x = np.random.default_rng(4).normal(size=(10, 2, 3, 5)).astype(np.float32)
    outputs = deploy.forward_all(["conv"], data=x)
    assert outputs["pool"].shape == (10, 3, 1, 1) and outputs["conv"].shape == (10, 3, 2, 4)
    for i in (0, 5, 9):
        one = deploy.forward(data=np.repeat(x[i:i + 1], 4, 0))["pool"][0]
        np.testing.assert_allclose(outputs["pool"][i], one, 1e-5, 1e-6)


def test_forward_backward_all(deploy):
    rng = np.random.default_rng(5)
    x, diff = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 2, 3, 5), (6, 3, 1, 1)))
    outputs, diffs = deploy.forward_backward_all(["conv"], ["conv"], data=x, pool=diff)
    assert outputs["pool"].shape == (6, 3, 1, 1) and outputs["conv"].shape == diffs["conv"].shape == (6, 3, 2, 4)
    assert diffs["data"].shape == x.shape
    for i in (2, 5):
        deploy.forward(data=np.repeat(x[i:i + 1], 4, 0))
        one = deploy.backward(pool=np.repeat(diff[i:i + 1], 4, 0))["data"][0]
        np.testing.assert_allclose(diffs["data"][i], one, 1e-4, 1e-6)


def test_a_scalar_output_of_forward_all_has_a_value_a_batch(tmp_path):
    text = DEPLOY + "layer { name: 'sum' type: 'Reduction' bottom: 'pool' top: 'sum' }"
    caffe_net = caffe.Net(write(tmp_path, text), caffe.TEST)
    assert caffe_net.forward_all(data=np.ones((10, 2, 3, 5), np.float32))["sum"].shape == (3,)


@pytest.mark.parametrize("call, message", [
    (lambda n: n.forward(date=X), "Input blob arguments do not match net inputs. The inputs are 'data', the "
     "arguments 'date'"),
    (lambda n: n.forward(data=X[:3]), r"Input is not batch sized: 'data' has the shape \(3, 2, 3, 5\), the blob has "
     r"\(4, 2, 3, 5\)"),
    (lambda n: n.backward(data=X), "Top diff arguments do not match net outputs. The outputs are 'pool'"),
    (lambda n: n.backward(pool=X[:1]), "Diff is not batch sized: 'pool'"),
    (lambda n: n.forward(start="cnov"), "no layer 'cnov' in net 'deploy'; its layers are 'in', 'conv', 'relu', "
     "'pool'"),
    (lambda n: n.forward(["cnov"]), "no blob 'cnov' in net 'deploy'"),
    (lambda n: n.forward_all(), "Input blob arguments do not match net inputs. The inputs are 'data', the arguments "
     "none"),
    (lambda n: n.forward_all(date=X), "Input blob arguments do not match net inputs"),
    (lambda n: n.forward_backward_all(data=X, conv=X), "Input blob arguments do not match net inputs and outputs"),
    (lambda n: n.forward(data=np.zeros((4, 3, 3, 5))), "layer 'conv'"),
    (lambda n: n.copy_from("no.caffemodel"), "Could not open file no.caffemodel"),
    (lambda n: n.load_hdf5(__file__), "is no HDF5 file"),
    (lambda n: n.set_input_arrays(X, X), r"the first layer is a MemoryData layer; it is 'in' \(Input\)")])
def test_wrong_arguments(deploy, call, message):
    with pytest.raises(RuntimeError, match=message) as error:
        call(deploy)
    assert isinstance(error.value, SppError)


def test_backward_says_when_there_is_nothing_to_begin_with(deploy, tmp_path):
    deploy.forward(data=X + 1)
    with pytest.warns(RuntimeWarning, match=r"backward gave zeros: there is no loss here, and the diff of 'pool' is "
                      r"zero; set it first, as in net.blobs\['pool'\].diff\[...\] = 1"):
        deploy.backward()
    deploy.blobs["pool"].diff[...] = 1
    assert deploy.backward(["conv"])["conv"].any()
    other = caffe.Net(write(tmp_path, DEPLOY.replace("force_backward: true", "")), caffe.TEST)
    other.forward(data=X)
    with pytest.warns(RuntimeWarning, match="backward computed nothing.*write force_backward: true"):
        other.backward(pool=X[:, :1, :1, :1])


def test_memory_data(tmp_path):
    text = ("layer { name: 'm' type: 'MemoryData' top: 'x' top: 'y' memory_data_param { batch_size: 2 channels: 1 "
            "height: 2 width: 3 } }")
    caffe_net = caffe.Net(write(tmp_path, text), caffe.TEST)
    x = np.arange(24, dtype=np.float32).reshape(4, 1, 2, 3)
    caffe_net.set_input_arrays(x, np.array([3, 1, 4, 1], np.float32))
    for part in (slice(0, 2), slice(2, 4), slice(0, 2)):
        np.testing.assert_array_equal(caffe_net.forward()["x"], x[part])
    with pytest.raises(RuntimeError, match="layer 'm' .*multiple of batch_size 2"):
        caffe_net.set_input_arrays(x[:3], np.array([3, 1, 4], np.float32))


# --- making, loading, saving

def test_save_and_load(net, tmp_path):
    path, weights = write(tmp_path, NET % 13), str(tmp_path / "w.caffemodel")
    net.save(weights)
    with pytest.warns(DeprecationWarning, match=r"write Net\(file, phase, weights=weights\)"):
        old = caffe.Net(path, weights, caffe.TRAIN)
    new = caffe.Net(path, caffe.TRAIN, weights=weights)
    late = caffe.Net(network_file=path, phase=caffe.TEST, level=0, stages=["a"], weights=None)
    late.copy_from(weights)
    for other in (old, new, late):
        for name in net.params:
            for mine, theirs in zip(net.params[name], other.params[name]):
                np.testing.assert_array_equal(mine.data, theirs.data)


def test_save_and_load_hdf5(net, tmp_path):
    weights = str(tmp_path / "weights")       # of any name
    net.save_hdf5(weights)
    assert [f.name for f in tmp_path.iterdir() if f.name != "net.prototxt"] == ["weights"]
    other = caffe.Net(write(tmp_path, NET % 13), caffe.TRAIN)
    assert (other.params["ip"][0].data != net.params["ip"][0].data).all()
    other.load_hdf5(weights)
    for name in net.params:
        for mine, theirs in zip(net.params[name], other.params[name]):
            np.testing.assert_array_equal(mine.data, theirs.data)


def test_share_with(net, tmp_path):
    other = caffe.Net(write(tmp_path, NET % 13), caffe.TEST)
    other.share_with(net)
    net.params["conv"][0].data[1, 0] = 42
    assert (other.params["conv"][0].data[1, 0] == 42).all()


def test_missing_and_wrong_nets(tmp_path):
    with pytest.raises(RuntimeError, match="Could not open file nowhere.prototxt"):
        caffe.Net("nowhere.prototxt", caffe.TEST)
    with pytest.raises(RuntimeError, match="Could not open file nowhere.caffemodel"):
        caffe.Net(write(tmp_path, DEPLOY), caffe.TEST, weights="nowhere.caffemodel")
    with pytest.raises(RuntimeError, match="unknown layer type 'Inptu'; did you mean 'Input'"):
        caffe.Net(write(tmp_path, DEPLOY.replace("'Input'", "'Inptu'")), caffe.TEST)


LEVELS = """
layer { name: 'data' type: 'DummyData' top: 'data' dummy_data_param { shape { dim: 1 dim: 1 dim: 10 dim: 10 } } }
layer { name: 'zero' type: 'InnerProduct' bottom: 'data' top: 'zero' inner_product_param { num_output: 1 } }
layer { name: 'one' type: 'InnerProduct' bottom: 'data' top: 'one' include { min_level: 1 }
  inner_product_param { num_output: 1 } }
layer { name: 'low' type: 'InnerProduct' bottom: 'data' top: 'low' include { max_level: 0 }
  inner_product_param { num_output: 1 } }
layer { name: 'silence' type: 'Silence' bottom: 'zero' }
"""


@pytest.mark.parametrize("level, names", [(0, ["data", "zero", "low"]), (1, ["data", "zero", "one"])])
def test_levels(tmp_path, level, names):
    caffe_net = caffe.Net(write(tmp_path, LEVELS), caffe.TEST, level=level)
    assert [name for name in caffe_net.blobs if "split" not in name] == names


STAGES = """
layer { name: 'data' type: 'DummyData' top: 'data' dummy_data_param { shape { dim: 1 dim: 1 dim: 10 dim: 10 } } }
layer { name: 'A' type: 'InnerProduct' bottom: 'data' top: 'A' include { stage: 'A' }
  inner_product_param { num_output: 1 } }
layer { name: 'B' type: 'InnerProduct' bottom: 'data' top: 'B' include { stage: 'B' }
  inner_product_param { num_output: 1 } }
layer { name: 'either' type: 'InnerProduct' bottom: 'data' top: 'either' include { stage: 'A' } include { stage: 'B' }
  inner_product_param { num_output: 1 } }
layer { name: 'both' type: 'InnerProduct' bottom: 'data' top: 'both' include { stage: 'A' stage: 'B' }
  inner_product_param { num_output: 1 } }
"""


@pytest.mark.parametrize("stages, names", [(["A"], "A either"), (["B"], "B either"),
                                           (["A", "B"], "A B either both")])
def test_stages(tmp_path, stages, names):
    caffe_net = caffe.Net(write(tmp_path, STAGES), caffe.TEST, stages=stages)
    assert [name for name in caffe_net.blobs if "split" not in name] == ["data", *names.split()]


ALL_IN_ONE = """
layer { name: 'train' type: 'DummyData' top: 'data' top: 'label' include: { phase: TRAIN stage: 'train' }
  dummy_data_param { shape { dim: 1 dim: 1 dim: 10 dim: 10 } shape { dim: 1 dim: 1 dim: 1 dim: 1 } } }
layer { name: 'val' type: 'DummyData' top: 'data' top: 'label' include: { phase: TEST stage: 'val' }
  dummy_data_param { shape { dim: 1 dim: 1 dim: 10 dim: 10 } shape { dim: 1 dim: 1 dim: 1 dim: 1 } } }
layer { name: 'deploy' type: 'Input' top: 'data' include: { phase: TEST stage: 'deploy' }
  input_param { shape { dim: 1 dim: 1 dim: 10 dim: 10 } } }
layer { name: 'ip' type: 'InnerProduct' bottom: 'data' top: 'ip' inner_product_param { num_output: 2 } }
layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss'
  include: { phase: TRAIN stage: 'train' } include: { phase: TEST stage: 'val' } }
layer { name: 'pred' type: 'Softmax' bottom: 'ip' top: 'pred' include: { phase: TEST stage: 'deploy' } }
"""


@pytest.mark.parametrize("phase, stage, outputs", [(caffe.TRAIN, "train", ["loss"]), (caffe.TEST, "val", ["loss"]),
                                                   (caffe.TEST, "deploy", ["pred"])])
def test_one_file_for_training_validation_and_deployment(tmp_path, phase, stage, outputs):
    caffe_net = caffe.Net(write(tmp_path, ALL_IN_ONE), phase, stages=[stage])
    assert caffe_net.outputs == outputs and list(caffe_net.blobs["data"].shape) == [1, 1, 10, 10]
    assert caffe_net.forward()[outputs[0]].size == len(caffe_net.params["ip"][1].data) - (outputs == ["loss"])
