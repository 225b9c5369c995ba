"""spp.pycaffe: Net, its blobs, parameters and callbacks; the solvers; what is set for the whole process."""
import gc
import io as text_io
import logging
import sys
from collections import OrderedDict

import numpy as np
import pytest

import spp.pycaffe as caffe
from spp.errors import SppError

# single quotes, the old form of DummyData's sizes, and a param after convolution_param: all this is read
NET = """
name: 'testnet' force_backward: true
layer { type: 'DummyData' name: 'data' top: 'data' top: 'label'
  dummy_data_param { num: 5 channels: 2 height: 3 width: 4 num: 5 channels: 1 height: 1 width: 1
    data_filler { type: 'gaussian' std: 1 } data_filler { type: 'constant' } } }
layer { type: 'Convolution' name: 'conv' bottom: 'data' top: 'conv'
  convolution_param { num_output: 11 kernel_size: 2 pad: 3 weight_filler { type: 'gaussian' std: 1 }
    bias_filler { type: 'constant' value: 2 } } param { decay_mult: 1 } param { decay_mult: 0 } }
layer { type: 'InnerProduct' name: 'ip' bottom: 'conv' top: 'ip_blob'
  inner_product_param { num_output: %d weight_filler { type: 'gaussian' std: 0.05 }
    bias_filler { type: 'constant' value: -3 } } }
layer { type: 'SoftmaxWithLoss' name: 'loss' bottom: 'ip_blob' bottom: 'label' top: 'loss' }
"""
DEPLOY = """
name: 'deploy' force_backward: true
layer { type: 'Input' name: 'in' top: 'data' input_param { shape { dim: 4 dim: 2 dim: 3 dim: 5 } } }
layer { type: 'Convolution' name: 'conv' bottom: 'data' top: 'conv'
  convolution_param { num_output: 3 kernel_size: 2 weight_filler { type: 'gaussian' std: 1 }
    bias_filler { type: 'constant' value: 20 } } }
layer { type: 'ReLU' name: 'relu' bottom: 'conv' top: 'conv' }
layer { type: 'Pooling' name: 'pool' bottom: 'conv' top: 'pool' pooling_param { pool: AVE global_pooling: true } }
"""


def write(folder, text, name="net.prototxt"):
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.fixture
def net(tmp_path):
    made = caffe.Net(write(tmp_path, NET % 13), caffe.TRAIN)
    made.blobs["label"].data[...] = np.random.default_rng(0).integers(0, 13, made.blobs["label"].shape)
    return made


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
    made = caffe.Net(write(tmp_path, DEPLOY.replace("'pool' pooling", "'pool' loss_weight: 2 pooling")), caffe.TEST)
    for size in (3, 6):
        made.blobs["data"].reshape(2, 2, size, 5)
        made.forward()
        made.backward()
        assert (made.blobs["pool"].diff == 2).all() and made.params["conv"][1].diff.any()


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
    found = deploy.forward_all(["conv"], data=x)
    assert found["pool"].shape == (10, 3, 1, 1) and found["conv"].shape == (10, 3, 2, 4)
    for i in (0, 5, 9):
        one = deploy.forward(data=np.repeat(x[i:i + 1], 4, 0))["pool"][0]
        np.testing.assert_allclose(found["pool"][i], one, 1e-5, 1e-6)


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
    made = caffe.Net(write(tmp_path, text), caffe.TEST)
    assert made.forward_all(data=np.ones((10, 2, 3, 5), np.float32))["sum"].shape == (3,)


X = np.zeros((4, 2, 3, 5), np.float32)


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
    made = caffe.Net(write(tmp_path, text), caffe.TEST)
    x = np.arange(24, dtype=np.float32).reshape(4, 1, 2, 3)
    made.set_input_arrays(x, np.array([3, 1, 4, 1], np.float32))
    for part in (slice(0, 2), slice(2, 4), slice(0, 2)):
        np.testing.assert_array_equal(made.forward()["x"], x[part])
    with pytest.raises(RuntimeError, match="layer 'm' .*multiple of batch_size 2"):
        made.set_input_arrays(x[:3], np.array([3, 1, 4], np.float32))


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
    made = caffe.Net(write(tmp_path, LEVELS), caffe.TEST, level=level)
    assert [name for name in made.blobs if "split" not in name] == names


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
    made = caffe.Net(write(tmp_path, STAGES), caffe.TEST, stages=stages)
    assert [name for name in made.blobs if "split" not in name] == ["data", *names.split()]


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
    made = caffe.Net(write(tmp_path, ALL_IN_ONE), phase, stages=[stage])
    assert made.outputs == outputs and list(made.blobs["data"].shape) == [1, 1, 10, 10]
    assert made.forward()[outputs[0]].size == len(made.params["ip"][1].data) - (outputs == ["loss"])


# --- solvers

SOLVER = """
net: '%s' test_iter: 3 test_interval: 10 base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: 'inv'
gamma: 0.0001 power: 0.75 display: 50 max_iter: 100 snapshot_after_train: false snapshot_prefix: 'model'
"""


@pytest.fixture
def solver_file(tmp_path):
    return write(tmp_path, SOLVER % write(tmp_path, NET % 13), "solver.prototxt")


@pytest.mark.parametrize("make", [caffe.SGDSolver, caffe.get_solver])
def test_solve(solver_file, make):
    solver = make(solver_file)
    assert type(solver) is caffe.SGDSolver and solver.iter == 0 and solver.lr == pytest.approx(0.01)
    assert solver.param.max_iter == 100 and solver.param.display == 50 and solver.param.layer_wise_reduce
    solver.solve()
    assert solver.iter == 100 and solver.lr == pytest.approx(0.01 * (1 + 0.0001 * 100) ** -0.75)


@pytest.mark.parametrize("name", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_every_solver(tmp_path, name):
    momentum = "" if name in ("AdaGrad", "RMSProp") else "momentum: 0.9"
    net_file = write(tmp_path, NET % 13)
    path = write(tmp_path, f"net: '{net_file}' type: '{name}' base_lr: 0.01 lr_policy: 'fixed' {momentum} "
                 "delta: 0.0001", "s.prototxt")
    solver = caffe.get_solver(path)
    assert type(solver) is getattr(caffe, f"{name}Solver")
    before = np.array(solver.net.params["ip"][0].data)
    solver.step(2)
    assert solver.iter == 2 and (solver.net.params["ip"][0].data != before).any()
    if momentum:
        assert caffe.SGDSolver(path).param.type == "SGD"        # whatever the file says


def test_settings_of_the_solver_can_be_changed(solver_file):
    solver = caffe.SGDSolver(solver_file)
    solver.param.max_iter, solver.param.base_lr = 3, 0.5
    assert solver.lr == 0.5
    solver.solve()
    assert solver.iter == 3


def test_apply_update(solver_file):
    solver = caffe.SGDSolver(solver_file)
    weight = solver.net.params["conv"][0]
    weight.data[...], weight.diff[...] = 0, 1
    solver.apply_update()
    np.testing.assert_allclose(weight.data, -0.01, 1e-6)
    assert solver.iter == 1


def test_nets_outlive_the_solver(solver_file):
    solver = caffe.SGDSolver(solver_file)
    nets = [solver.net, *solver.test_nets]
    assert len(nets) == 2
    del solver
    gc.collect()
    for net in nets:
        assert all(np.isfinite(blob.data.sum()) for blob in [*net.blobs.values(), *net.params["ip"]])
        assert net.forward()["loss"] > 0


def test_snapshot_and_restore(solver_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    solver = caffe.SGDSolver(solver_file)
    solver.snapshot()
    assert {f.name for f in tmp_path.glob("model*")} == {"model_iter_0.caffemodel", "model_iter_0.solverstate"}
    solver.step(4)
    solver.snapshot()
    for resume in (lambda s: s.restore("model_iter_4.solverstate"), lambda s: s.solve("model_iter_4.solverstate")):
        other = caffe.SGDSolver(solver_file)
        other.param.max_iter = 4
        resume(other)
        assert other.iter == 4
        np.testing.assert_array_equal(other.net.params["ip"][0].data, solver.net.params["ip"][0].data)
    with pytest.raises(RuntimeError, match="Could not open file model_iter_5.solverstate"):
        solver.restore("model_iter_5.solverstate")


def test_solver_callbacks_and_sharing(solver_file, tmp_path):
    solver = caffe.SGDSolver(solver_file)
    other = caffe.Net(write(tmp_path, NET % 13), caffe.TEST)
    solver.share_weights(other)
    seen = []

    def start():
        seen.append(("start", solver.iter, bool(solver.net.params["ip"][0].diff.any())))

    def ready():
        seen.append(("ready", solver.iter, bool(solver.net.params["ip"][0].diff.any())))
        for blobs in solver.net.params.values():
            for blob in blobs:
                blob.diff[...] = 0

    solver.param.weight_decay = 0
    solver.add_callback(start, ready)
    before = np.array(other.params["ip"][0].data)
    solver.step(2)
    assert seen == [("start", 0, False), ("ready", 0, True), ("start", 1, False), ("ready", 1, True)]
    np.testing.assert_array_equal(other.params["ip"][0].data, before)
    solver.net.params["ip"][0].data[0, 0] = 77
    assert other.params["ip"][0].data[0, 0] == 77


def test_a_solver_finds_its_net_from_another_folder(tmp_path, monkeypatch):
    write(tmp_path, NET % 13)
    path = write(tmp_path, SOLVER % "net.prototxt", "solver.prototxt")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert caffe.SGDSolver(path).net.outputs == ["loss"]


@pytest.mark.parametrize("text, message", [
    (None, "Could not open file .*solver.prototxt"),
    ("net: 'nowhere.prototxt' base_lr: 1 lr_policy: 'fixed'", "File not found: nowhere.prototxt"),
    ("base_lr: 1 lr_policy: 'fixed'", "exactly one of net, net_param, train_net, train_net_param; found none")])
def test_wrong_solvers(tmp_path, text, message):
    path = write(tmp_path, text, "solver.prototxt") if text else str(tmp_path / "solver.prototxt")
    for make in (caffe.SGDSolver, caffe.get_solver):
        with pytest.raises(RuntimeError, match=message):
            make(path)


# --- Python layers

MODULE = '''
import spp.pycaffe as caffe


class Times10(caffe.Layer):
    def setup(self, bottom, top):
        self.factor = float(self.param_str or 10)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.factor * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.factor * top[0].diff


class Broken(caffe.Layer):
    def setup(self, bottom, top):
        raise RuntimeError("broken by design")

    def forward(self, bottom, top):
        pass


class WithParameter(caffe.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = 0

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        pass


class Phase(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def set_roidb(self, roidb):
        self.roidb = roidb

    def reshape(self, bottom, top):
        top[0].reshape()

    def forward(self, bottom, top):
        top[0].data[()] = self.phase
'''
PYTHON = ("layer {{ name: '{0}' type: 'Python' bottom: '{1}' top: '{0}' python_param {{ module: 'pycaffe_test_layers' "
          "layer: '{2}' {3} }} }}\n")
INPUT = "force_backward: true input: 'data' input_shape { dim: 10 dim: 9 dim: 8 dim: 3 }\n"


@pytest.fixture
def python_net(tmp_path):
    (tmp_path / "pycaffe_test_layers.py").write_text(MODULE)
    yield lambda text, phase=caffe.TEST: caffe.Net(write(tmp_path, text, "python.prototxt"), phase)
    sys.modules.pop("pycaffe_test_layers", None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


@pytest.mark.parametrize("rest, factor", [("", 1000), ("param_str: '2'", 8)])
def test_python_layers(python_net, rest, factor):
    made = python_net(INPUT + "".join(PYTHON.format(name, bottom, "Times10", rest) for name, bottom in
                                      (("one", "data"), ("two", "one"), ("three", "two"))))
    made.blobs["data"].data[...] = 7
    assert (made.forward()["three"] == 7 * factor).all()
    made.blobs["three"].diff[...] = 3
    assert (made.backward()["data"] == 3 * factor).all()
    made.blobs["data"].reshape(4, 4, 4, 4)
    made.forward()
    assert [blob.shape for blob in made.blobs.values()] == [(4, 4, 4, 4)] * 4


def test_errors_of_python_layers_come_through(python_net):
    with pytest.raises(RuntimeError, match="^broken by design"):
        python_net(INPUT + PYTHON.format("one", "data", "Broken", ""))


def test_parameters_of_python_layers(python_net, tmp_path):
    text = INPUT + PYTHON.format("layer", "data", "WithParameter", "")
    made, weights = python_net(text), str(tmp_path / "w.caffemodel")
    assert made.params["layer"][0].data[0] == 0
    made.params["layer"][0].data[0] += 1
    made.save(weights)
    loaded, sharing = python_net(text), python_net(text)
    loaded.copy_from(weights)
    assert loaded.params["layer"][0].data[0] == 1
    sharing.share_with(made)
    made.params["layer"][0].data[0] = 5
    assert sharing.params["layer"][0].data[0] == 5


@pytest.mark.parametrize("phase", [caffe.TRAIN, caffe.TEST])
def test_python_layers_know_the_phase(python_net, phase):
    text = ("layer { name: 'layer' type: 'Python' top: 'phase' python_param { module: 'pycaffe_test_layers' "
            "layer: 'Phase' } }")
    made = python_net(text, phase)
    assert made.forward()["phase"] == phase and made.blobs["phase"].shape == ()
    made.layers[0].set_roidb([1, 2])          # as py-faster-rcnn does
    assert made.layers[0].roidb == [1, 2]


# --- the process

def test_layer_types():
    assert {"Data", "Convolution", "InnerProduct", "Python"} <= set(caffe.layer_type_list())


def test_random_seed(tmp_path):
    path = write(tmp_path, NET % 13)
    weights = []
    for seed in (1, 1, 2):
        caffe.set_random_seed(seed)
        weights += [np.array(caffe.Net(path, caffe.TRAIN).params["conv"][0].data) for _ in range(2)]
    assert (weights[0] != weights[1]).all() and (weights[0] != weights[4]).all()
    np.testing.assert_array_equal(weights[:2], weights[2:4])


def test_settings():
    assert (caffe.TRAIN, caffe.TEST, caffe.__version__) == (0, 1, "1.0.0")
    assert caffe.solver_count() == 1 and caffe.solver_rank() == 0
    caffe.set_solver_count(2)
    caffe.set_solver_rank(1)
    caffe.set_multiprocess(True)
    assert caffe.solver_count() == 2 and caffe.solver_rank() == 1
    caffe.set_solver_count(1)
    caffe.set_solver_rank(0)
    caffe.set_multiprocess(False)
    assert not caffe.has_nccl()
    with pytest.raises(RuntimeError, match="needs NCCL"):
        caffe.NCCL(None, "uid")


def test_modes(monkeypatch, tmp_path):
    def no_gpu(device):
        raise SppError(f"no {device}")
    monkeypatch.setattr("spp.backend.select", no_gpu)
    caffe.set_device(2)
    with pytest.warns(RuntimeWarning, match="no GPU to be had, computing on the CPU: no cuda:2"):
        caffe.set_mode_gpu()
    monkeypatch.undo()
    caffe.set_device(0)
    caffe.set_mode_cpu()
    assert caffe.Net(write(tmp_path, DEPLOY), caffe.TEST).forward(data=X)["pool"].shape == (4, 3, 1, 1)


def test_log(solver_file, monkeypatch):
    logger, stream = logging.getLogger("spp"), text_io.StringIO()
    before = logger.level, list(logger.handlers)
    monkeypatch.setattr(sys, "stderr", stream)
    try:
        caffe.init_log()
        caffe.log("hello")
        solver = caffe.SGDSolver(solver_file)
        solver.param.max_iter = 1
        solver.solve()
        monkeypatch.setenv("GLOG_minloglevel", "2")
        caffe.log("not shown")
        caffe.init_log(0)
        caffe.log("shown again")
        caffe.init_log(0, False)
        caffe.log("nowhere")
        with pytest.raises(ValueError, match="level must be 0"):
            caffe.init_log(4)
    finally:
        caffe.init_log(0, False)
        logger.setLevel(before[0])
        assert logger.handlers == before[1]
    lines = stream.getvalue().splitlines()
    assert all(line[0] == "I" and line[1:5].isdigit() and "] " in line for line in lines)
    told = [line.split("] ", 1)[1] for line in lines]
    assert told[:3] == ["hello", "Solving testnet", "Learning Rate Policy: inv"]
    assert told[-1] == "shown again" and "Optimization Done." in told and "not shown" not in told
    assert any(line.startswith("    Train net output #0: loss = ") for line in told)


def test_timer():
    timer = caffe.Timer()
    timer.start()
    sum(range(10000))
    timer.stop()
    assert 0 < timer.ms < 10000
    first = timer.ms
    assert timer.ms == first
