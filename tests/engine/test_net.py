"""Net: building, sharing, losses, variable sizes, weights; and the message of everything that can be wrong."""
import numpy as np
import pytest

import golden
from spp.errors import NetError, ProtoError, SppError
from spp.net import Net
from spp.proto import binary, caffe_pb2
from spp.proto.text import parse_net

INPUT = "layer { name: 'in' type: 'Input' top: 'x' input_param { shape { dim: 2 dim: 3 } } }\n"
IP = ("layer { name: '%s' type: 'InnerProduct' bottom: '%s' top: '%s' %s inner_product_param { num_output: %d "
      "weight_filler { type: 'gaussian' std: 1 } bias_filler { type: 'gaussian' std: 1 } } }\n")
X = np.array([[1, -2, 3], [0.5, 4, -1]], np.float32)


def net(text, phase=0, **arguments):
    return Net(parse_net(text), phase, **arguments)


def test_forward_by_hand():
    network = net(INPUT + IP % ("ip", "x", "y", "", 2))
    weight, bias = network.params["ip"]
    assert network.inputs == ["x"] and network.outputs == ["y"] and list(network.params) == ["ip"]
    result = network.forward(x=X)["y"]
    np.testing.assert_allclose(result, X @ weight.data.T + bias.data, 1e-6)
    assert result is network.blobs["y"].data


def test_an_input_of_another_size_reshapes_the_net():
    network = Net(golden.path("layers", "pool_max_ceil", "net.prototxt"))
    shapes = [network.forward(x=np.zeros((1, 2, *size)))["y"].shape for size in ((7, 9), (20, 5), (7, 9))]
    assert shapes == [(1, 2, 3, 4), (1, 2, 10, 2), (1, 2, 3, 4)]


def test_an_inference_net_has_no_gradients():
    network = net(INPUT + IP % ("ip", "x", "y", "", 2), phase=1)
    network.forward(x=X)
    assert not any(blob.has_diff for blob in [*network.blobs.values(), *network.params["ip"]])


def test_one_seed_one_net_and_a_layer_more_changes_no_other():
    first, second = (net(INPUT + IP % ("a", "x", "a", "", 3) + IP % ("b", "a", "b", "", 3), seed=5) for _ in range(2))
    other = net(INPUT + IP % ("new", "x", "new", "", 4) + IP % ("a", "x", "a", "", 3), seed=5)
    different = net(INPUT + IP % ("a", "x", "a", "", 3), seed=6)
    weight = first.params["a"][0].data
    np.testing.assert_array_equal(weight, second.params["a"][0].data)
    np.testing.assert_array_equal(weight, other.params["a"][0].data)
    assert (weight != different.params["a"][0].data).all()
    assert (weight != first.params["b"][0].data).all()


SHARED = INPUT + IP % ("a", "x", "a", "param { name: 'w' lr_mult: 2 } param { name: 'b' }", 3) + \
    IP % ("b", "a", "b", "param { name: 'w' } param { name: 'b' decay_mult: 0 }", 3)


def test_shared_parameters_are_one():
    network = net("force_backward: true " + SHARED)
    assert [entry.name for entry in network.learnable] == ["a[0]", "a[1]"]
    assert [(entry.lr_mult, entry.decay_mult) for entry in network.learnable] == [(2, 1), (1, 0)]
    weight = network.params["a"][0]
    weight.data[0, 1] = 42
    assert network.params["b"][0].data[0, 1] == 42
    network.forward(x=X)
    network.blobs["b"].diff[...] = 1
    network.clear_param_diffs()
    network.backward()
    hidden, outer = network.blobs["a"].data, np.ones((2, 3), np.float32)
    np.testing.assert_allclose(weight.diff, outer.T @ hidden + (outer @ weight.data).T @ X, 1e-5)


@pytest.mark.parametrize("second, message", [
    ("param { name: 'w' lr_mult: 3 }", "shared param 'w' has mismatched lr_mult: 3 here, 2 in its owner, layer 'a'"),
    ("param { name: 'b' } param { name: 'w' }", r"cannot share param 'b' owned by layer 'a': shape mismatch, the "
     r"owner's shape is \(3,\), this layer's is \(3, 3\)"),
    ("param { } param { } param { }", r"too many param blocks: 3 for 2 parameter\(s\)")])
def test_sharing_errors(second, message):
    with pytest.raises(NetError, match=f"layer 'b' \\(InnerProduct\\): {message}"):
        net(SHARED.replace("param { name: 'w' } param { name: 'b' decay_mult: 0 }", second))


def test_permissive_sharing_asks_for_the_count_only():
    text = INPUT + IP % ("a", "x", "a", "param { name: 'w' }", 4) + \
        IP % ("b", "a", "b", "param { name: 'w' share_mode: PERMISSIVE }", 3)
    network = net(text)
    network.params["a"][0].data[...] = np.arange(12).reshape(4, 3)
    np.testing.assert_array_equal(network.params["b"][0].data, np.arange(12).reshape(3, 4))


def test_loss_weights_anywhere():
    text = INPUT + IP % ("ip", "x", "y", "loss_weight: 0.5", 2) + \
        "layer { name: 'p' type: 'Power' bottom: 'y' top: 'z' power_param { power: 2 } loss_weight: 3 }"
    network = net("force_backward: true " + text)
    network.forward(x=X)
    network.backward()
    y = network.blobs["y"].data
    assert network.loss == pytest.approx(0.5 * y.sum() + 3 * (y ** 2).sum(), rel=1e-5)
    np.testing.assert_allclose(network.blobs["y"].diff, 0.5 + 6 * y, 1e-5)


LOSS = ("layer { name: 'in' type: 'Input' top: 'x' top: 't' input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }"
        "layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'x' bottom: 't' %s }")


@pytest.mark.parametrize("rest", ["top: 'loss' top: 'prob'", "top: 'loss' top: 'prob' loss_weight: 1 loss_weight: 0",
                                  "top: 'loss'", ""])
def test_softmax_loss_takes_no_one_or_two_tops(rest):
    network = net(LOSS % rest)
    network.forward(x=X, t=np.array([2, 0]))
    prob = np.exp(X) / np.exp(X).sum(1, keepdims=True)
    assert network.loss == pytest.approx(-np.log(prob[[0, 1], [2, 0]]).mean(), rel=1e-5)
    if "prob" in rest:
        np.testing.assert_allclose(network.blobs["prob"].data, prob, 1e-5)
    assert network.outputs == [name for name in ("loss", "prob") if name in rest]


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_that_is_no_class(label):
    network = net(LOSS % "top: 'loss'")
    with pytest.raises(NetError, match=rf"layer 'loss' \(SoftmaxWithLoss\): label {label} is no class of the 3 that"):
        network.forward(x=X, t=np.array([1, label]))


def test_a_label_that_learns_is_an_error_unless_told():
    text = INPUT + IP % ("ip", "x", "y", "", 2) + IP % ("t", "x", "t", "", 1) + \
        "layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'y' bottom: 't' top: 'loss' %s }"
    with pytest.raises(NetError, match=r"layer 'loss' \(SoftmaxWithLoss\): has no gradient for its bottom 't', which "
                       "depends on a parameter that learns; if that is meant, add propagate_down: true "
                       "propagate_down: false"):
        net(text % "")
    assert net(text % "propagate_down: true propagate_down: false").outputs == ["loss"]


def test_dummy_data_fills_constants_once_and_others_each_time():
    network = net("layer { name: 'd' type: 'DummyData' top: 'a' top: 'b' dummy_data_param { shape { dim: 2 dim: 3 } "
                  "data_filler { type: 'constant' value: 4 } data_filler { type: 'gaussian' std: 1 } } }")
    assert (network.blobs["a"].data == 4).all()
    network.blobs["a"].data[0, 0] = 9
    before = np.array(network.blobs["b"].data)
    network.forward()
    assert network.blobs["a"].data[0, 0] == 9 and (network.blobs["b"].data != before).all()


def test_legacy_dummy_data_and_input_fields():
    network = net("layer { name: 'd' type: 'DummyData' top: 'a' top: 'b' dummy_data_param { num: 2 num: 4 channels: 3 "
                  "height: 5 width: 6 } }")
    assert [network.blobs[n].shape for n in "ab"] == [(2, 3, 5, 6), (4, 3, 5, 6)]
    network = net("input: 'x' input_dim: 2 input_dim: 3 input_dim: 1 input_dim: 1 " + IP % ("ip", "x", "y", "", 2))
    assert network.inputs == ["x"] and network.blobs["x"].shape == (2, 3, 1, 1)
    network = net("input: 'x' input_shape { dim: 7 dim: 3 } " + IP % ("ip", "x", "y", "", 2))
    assert network.blobs["y"].shape == (7, 2)


@pytest.mark.parametrize("suffix", [".caffemodel", ".caffemodel.h5"])
def test_weights_round_trip(tmp_path, suffix):
    path = str(tmp_path / f"w{suffix}")
    text = INPUT + IP % ("conv1/bn", "x", "a", "", 4) + IP % ("conv1", "a", "b", "", 3)
    first, second = net(text, seed=1), net(text, seed=2)
    first.save(path)
    second.copy_from(path)
    for name in ("conv1/bn", "conv1"):
        for mine, theirs in zip(first.params[name], second.params[name]):
            np.testing.assert_array_equal(mine.data, theirs.data)
    assert net(text, weights=path).params["conv1"][0].data[0, 0] == first.params["conv1"][0].data[0, 0]


def test_weights_by_name_others_keep_theirs(tmp_path, caplog):
    path = str(tmp_path / "w.caffemodel")
    source = net(INPUT + IP % ("a", "x", "a", "", 4) + IP % ("gone", "a", "b", "", 3), seed=1)
    source.save(path)
    target = net(INPUT + IP % ("a", "x", "a", "", 4) + IP % ("new", "a", "b", "", 5), seed=2)
    before = np.array(target.params["new"][0].data)
    with caplog.at_level("INFO", "spp.net"):
        target.copy_from(path)
    np.testing.assert_array_equal(target.params["a"][0].data, source.params["a"][0].data)
    np.testing.assert_array_equal(target.params["new"][0].data, before)
    assert "Ignoring source layer gone" in caplog.text


def test_legacy_four_axis_and_double_weights():
    network = net(INPUT + IP % ("ip", "x", "y", "", 2))
    model = caffe_pb2.NetParameter()
    layer = model.layer.add(name="ip")
    layer.blobs.add(num=1, channels=1, height=2, width=3, data=range(6))
    layer.blobs.add(num=1, channels=1, height=1, width=2, double_data=[0.25, -8])
    network.copy_from(model)
    np.testing.assert_array_equal(network.params["ip"][0].data, [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(network.params["ip"][1].data, [0.25, -8])


def test_weights_inside_the_prototxt_are_used():
    network = net(INPUT + (IP % ("ip", "x", "y", "", 1)).replace(
        "bottom:", "blobs { shape { dim: 1 dim: 3 } data: 5 data: 6 data: 7 } blobs { shape { dim: 1 } data: 2 } "
        "bottom:"))
    np.testing.assert_allclose(network.forward(x=X)["y"], X @ [[5], [6], [7]] + 2)


def test_too_few_weights_inside_the_prototxt():
    text = INPUT + (IP % ("ip", "x", "y", "", 1)).replace("bottom:", "blobs { shape { dim: 1 dim: 3 } } bottom:")
    with pytest.raises(NetError, match="0 values do not fit the shape 1 x 3"):
        net(text)
    text = text.replace("dim: 1 dim: 3 }", "dim: 1 dim: 3 } data: 1 data: 2 data: 3")
    with pytest.raises(NetError, match=r"has 2 parameter\(s\), its blobs in the prototxt are 1"):
        net(text)


def damaged(tmp_path, kind):
    path = str(tmp_path / "w.caffemodel")
    network = net(INPUT + IP % ("ip", "x", "y", "", {"shape": 4, "names": 2}.get(kind, 2)))
    network.save(path)
    if kind == "truncated":
        with open(path, "rb+") as file:
            file.truncate(file.seek(0, 2) - 9)
    if kind == "names":
        model = binary.read_net_binary(path)
        for layer in model.layer:
            layer.name = "other_" + layer.name
        binary.write_binary(model, path)
    if kind == "values":
        model = binary.read_net_binary(path)
        del model.layer[1].blobs[0].data[-1]
        binary.write_binary(model, path)
    if kind == "count":
        model = binary.read_net_binary(path)
        del model.layer[1].blobs[1]
        binary.write_binary(model, path)
    return path


@pytest.mark.parametrize("kind, message", [
    ("shape", "layer 'ip': param 0: the file's shape is 4 x 3, the net's is 2 x 3; rename the layer in the prototxt "
     "to learn it from scratch"),
    ("names", r"none of its layers has the name of a layer with parameters in net '' \(ip\); is it the weights of "
     "another net?"),
    ("values", "param 0: 5 values do not fit the shape 2 x 3; the file is damaged"),
    ("count", r"layer 'ip' has 1 parameter\(s\), the net's layer has 2"),
    ("truncated", "truncated")])
def test_damaged_weights(tmp_path, kind, message):
    path = damaged(tmp_path, kind)
    with pytest.raises(SppError, match=message) as error:
        net(INPUT + IP % ("ip", "x", "y", "", 2)).copy_from(path)
    assert path in str(error.value) and "\n" not in str(error.value)


def test_missing_weights():
    with pytest.raises(ProtoError, match="cannot read weights nowhere.caffemodel: No such file or directory"):
        net(INPUT + IP % ("ip", "x", "y", "", 2)).copy_from("nowhere.caffemodel")


@pytest.mark.parametrize("text, message", [
    ("layer { name: 'c' type: 'Convolutoin' bottom: 'x' top: 'y' }",
     "layer 'c' (Convolutoin): unknown layer type 'Convolutoin'; did you mean 'Convolution'?"),
    ("layer { name: 'r' type: 'ReLU' bottom: 'z' top: 'y' }", "unknown bottom blob 'z' (layer 'r', bottom index 0)"),
    ("layer { name: 'r' type: 'ReLU' top: 'y' }", "layer 'r' (ReLU): takes exactly 1 bottom blob(s), found 0"),
    ("layer { name: 'r' type: 'ReLU' bottom: 'x' top: 'y' top: 'z' }",
     "layer 'r' (ReLU): takes exactly 1 top blob(s), found 2"),
    ("layer { name: 'c' type: 'Concat' top: 'y' }", "layer 'c' (Concat): takes at least 1 bottom blob(s), found 0"),
    ("layer { name: 'r' type: 'ReLU' bottom: 'x' top: 'y' } layer { name: 's' type: 'ReLU' bottom: 'x' top: 'y' }",
     "layer 's' (ReLU): top blob 'y' is made by an earlier layer already"),
    ("layer { name: 'f' type: 'Flatten' bottom: 'x' top: 'x' }",
     "layer 'f' (Flatten): cannot work in place: give its top another name than its bottom 'x'"),
    ("layer { name: 'r' type: 'ReLU' bottom: 'x' top: 'y' loss_weight: 1 loss_weight: 2 }",
     "layer 'r' (ReLU): loss_weight must be unspecified, or specified once for each of the 1 tops; found 2"),
    ("layer { name: 'r' type: 'ReLU' bottom: 'x' top: 'y' propagate_down: true propagate_down: true }",
     "layer 'r' (ReLU): propagate_down must be given not at all, or once for each of the 1 bottoms; found 2"),
    ("layer { name: 'f' type: 'Flatten' bottom: 'x' top: 'y' flatten_param { axis: 3 } }",
     "layer 'f' (Flatten): axis 3 is out of range for a blob of 2 axes"),
    ("layer { name: 'd' type: 'Dropout' bottom: 'x' top: 'y' dropout_param { dropout_ratio: 1 } }",
     "layer 'd' (Dropout): dropout_ratio must be at least 0 and below 1, found 1"),
    ("layer { name: 'e' type: 'Eltwise' bottom: 'x' bottom: 'x' top: 'y' eltwise_param { coeff: 1 } }",
     "layer 'e' (Eltwise): eltwise_param needs no coeff, or one for each of the 2 bottoms; found 1"),
    ("layer { name: 'a' type: 'Accuracy' bottom: 'x' bottom: 'x' top: 'y' }",
     "layer 'a' (Accuracy): needs one label for each prediction: scores 2 x 3 with class axis 1 want 2 labels, the "
     "label blob is 2 x 3")])
def test_wrong_nets_say_where_and_what(tmp_path, text, message):
    path = tmp_path / "net.prototxt"
    path.write_text("# a net\n" + INPUT + "\n" + text)
    with pytest.raises(SppError) as error:
        Net(str(path))
    assert str(error.value).startswith(str(path)) and message in str(error.value)
    if "layer '" in message[:7]:
        assert f"{path}:4: {message}" in str(error.value)


@pytest.mark.parametrize("layer, message", [
    ("type: 'Softmax' bottom: 'x' top: 'y'", "axis 1 of the bottom is empty: its shape is (2, 0, 3)"),
    ("type: 'SoftmaxWithLoss' bottom: 'x' bottom: 't' top: 'y'", "the scores 2 x 0 x 3 have no classes on axis 1")])
def test_no_classes(layer, message):
    text = ("layer { name: 'in' type: 'Input' top: 'x' top: 't' input_param { shape { dim: 2 dim: 0 dim: 3 } "
            "shape { dim: 2 dim: 3 } } } layer { name: 'l' %s }" % layer)
    with pytest.raises(NetError) as error:
        net(text)
    assert message in str(error.value)


@pytest.mark.parametrize("region", ["ACROSS_CHANNELS", "WITHIN_CHANNEL"])
def test_an_lrn_window_larger_than_the_map_sees_all_of_it(region):
    x = np.arange(1, 61, dtype=np.float64).reshape(1, 3, 4, 5) / 30

    def lrn(size, alpha):
        network = net(
            "layer { name: 'in' type: 'Input' top: 'x' input_param { shape { dim: 1 dim: 3 dim: 4 dim: 5 } } } "
            "layer { name: 'l' type: 'LRN' bottom: 'x' top: 'y' lrn_param { local_size: %d alpha: %r "
            "norm_region: %s } }" % (size, alpha, region), dtype=np.float64)
        return network.forward(x=x)["y"]

    small, power = 11, 1 if region == "ACROSS_CHANNELS" else 2
    np.testing.assert_allclose(lrn(10001, float(10001 / small) ** power), lrn(small, 1.0), 1e-6)


def test_unknown_blob():
    with pytest.raises(NetError, match="no blob 'y' in net ''; its blobs are x"):
        net(INPUT).forward(y=X)


@pytest.mark.parametrize("device, message", [("tpu", "unknown device 'tpu': expected auto, cpu, cuda or cuda:<index>"),
                                             ("cuda:99", "device 'cuda:99'")])
def test_devices(device, message):
    with pytest.raises(SppError, match=message):
        net(INPUT, device=device)
