"""Weights to torch's tensors and back: names, shapes, orders, sharing, batch normalisation; convert_weights."""
import sys

import numpy as np
import pytest

from every_layer_rows import GAUSS
from programs import error_of, run
from spp.convert import weights
from spp.convert.torch import state_dict
from spp.errors import ConvertError
from spp.net import Net
from spp.proto.text import parse_net

INPUT = "layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }"
CONV = ("layer { name: 'conv' type: 'Convolution' bottom: 'data' top: 'conv' convolution_param { num_output: 4 "
        f"kernel_size: 3 {GAUSS} }} }}")
BN = "layer { name: 'bn/1' type: 'BatchNorm' bottom: 'conv' top: 'conv' }"
SCALE = ("layer { name: 'scale' type: 'Scale' bottom: 'conv' top: 'conv' scale_param { bias_term: true "
         "filler { type: 'uniform' } bias_filler { type: 'uniform' } } }")
POOLED = ("layer { name: 'spp' type: 'SPP' bottom: 'conv' top: 'spp' spp_param { bins: 2 bins: 1 } }"
          "layer { name: 'fc' type: 'InnerProduct' bottom: 'spp' top: 'fc' "
          f"inner_product_param {{ num_output: 5 {GAUSS} }} }}")
TEXT = INPUT + CONV + BN + SCALE + POOLED


def make_net(text=TEXT, dtype=np.float32, seed=1):
    net = Net(parse_net(text), dtype=dtype, device="cpu", seed=seed)
    rng = np.random.default_rng(seed)
    for layer in net.layers:
        if layer.type == "BatchNorm":
            for blob in layer.blobs[:3]:
                blob.data[...] = rng.uniform(0.5, 3, blob.shape) * 333.3
    return net


def all_bytes(net):
    return {name: [blob.data.tobytes() for blob in blobs] for name, blobs in net.params.items()}


def test_names_and_shapes():
    arrays, metadata = state_dict.from_net(make_net())
    assert {key: array.shape for key, array in arrays.items()} == {
        "conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "bn_1.weight": (4,), "bn_1.bias": (4,),
        "bn_1.running_mean": (4,), "bn_1.running_var": (4,), "bn_1.num_batches_tracked": (),
        "fc.weight": (5, 20), "fc.bias": (5,)}
    assert set(metadata) == {"net", "batch_norm"} and set(metadata["batch_norm"]) == {"bn_1"}


def test_batch_norm_is_divided_by_its_weight_and_comes_back_bit_by_bit():
    text = TEXT.replace("num_output: 4", "num_output: 64")
    net = make_net(text)
    mean, variance, weight = (blob.data.astype(np.float64) for blob in net.params["bn/1"])
    arrays, metadata = state_dict.from_net(net)
    np.testing.assert_allclose(arrays["bn_1.running_mean"], mean / weight, 1e-7)
    np.testing.assert_allclose(arrays["bn_1.running_var"], variance / weight, 1e-7)
    np.testing.assert_array_equal(arrays["bn_1.weight"], net.params["scale"][0].data)
    other = make_net(text, seed=2)
    state_dict.into_net(other, arrays, metadata, "s")
    assert all_bytes(other) == all_bytes(net)
    # Multiplying back would not do: most sums would differ in their last bit.
    assert (arrays["bn_1.running_mean"] * np.float32(weight[0]) != net.params["bn/1"][0].data).any()


def test_changed_statistics_become_new_sums_that_divide_exactly():
    net = make_net()
    arrays, metadata = state_dict.from_net(net)
    arrays["bn_1.running_mean"] = arrays["bn_1.running_mean"] + np.float32(0.3)
    for net_metadata in (metadata, {}):
        state_dict.into_net(net, arrays, net_metadata, "s")
        again, _ = state_dict.from_net(net)
        np.testing.assert_array_equal(again["bn_1.running_mean"], arrays["bn_1.running_mean"])
        np.testing.assert_array_equal(again["bn_1.running_var"], arrays["bn_1.running_var"])
        assert net.params["bn/1"][2].data[0] == 1024      # that of a long training is 1 / (1 - 0.999)


@pytest.mark.parametrize("stored", [{"mean": 3}, {"mean": ["float32", "?"]}, [1]])
def test_damaged_metadata(stored):
    net = make_net()
    arrays, _ = state_dict.from_net(net)
    with pytest.raises(ConvertError, match="s: its metadata of 'bn_1' is damaged; convert the weights again, or rem"):
        state_dict.into_net(net, arrays, {"batch_norm": {"bn_1": stored}}, "s")


def test_a_batch_norm_without_scale_has_no_weight():
    net = make_net(INPUT + CONV + BN)
    arrays, _ = state_dict.from_net(net)
    keys = [key for key in arrays if key.startswith("bn")]
    assert keys == ["bn_1.running_mean", "bn_1.running_var", "bn_1.num_batches_tracked"]


@pytest.mark.parametrize("between", ["layer { name: 'r' type: 'ReLU' bottom: 'conv' top: 'conv' }",
                                     "layer { name: 't' type: 'TanH' bottom: 'conv' top: 'other' }"])
def test_a_scale_that_does_not_follow_alone_is_a_layer_of_its_own(between):
    net = make_net(INPUT + CONV + BN + between + SCALE.replace("top: 'conv'", "top: 'scaled'"))
    arrays, _ = state_dict.from_net(net)
    assert "scale.weight" in arrays and "bn_1.weight" not in arrays


def test_gates_and_biases_of_an_lstm():
    text = ("layer { name: 'x' type: 'Input' top: 'x' top: 'cont' input_param { shape { dim: 4 dim: 2 dim: 3 } "
            "shape { dim: 4 dim: 2 } } } layer { name: 'lstm' type: 'LSTM' bottom: 'x' bottom: 'cont' top: 'h' "
            f"recurrent_param {{ num_output: 2 {GAUSS} }} }}")
    net = make_net(text)
    net.params["lstm"][1].data[0] = -0.0       # adding a second bias of 0 would lose the sign
    arrays, metadata = state_dict.from_net(net)
    i, f, o, g = net.params["lstm"][0].data.reshape(4, 2, 3)
    np.testing.assert_array_equal(arrays["lstm.weight_ih_l0"], np.concatenate([i, f, g, o]))
    assert arrays["lstm.weight_hh_l0"].shape == (8, 2) and not arrays["lstm.bias_hh_l0"].any()
    other = make_net(text, seed=4)
    state_dict.into_net(other, arrays, metadata, "s")
    assert all_bytes(other) == all_bytes(net)
    arrays["lstm.bias_hh_l0"] = np.full(8, 0.5, np.float32)
    state_dict.into_net(other, arrays, metadata, "s")
    np.testing.assert_array_equal(other.params["lstm"][1].data, net.params["lstm"][1].data + np.float32(0.5))


def test_the_lstm_is_torchs():
    torch = pytest.importorskip("torch", reason="the peer of this test: pip install 'spp[torch]'")
    text = ("layer { name: 'x' type: 'Input' top: 'x' top: 'cont' input_param { shape { dim: 4 dim: 2 dim: 3 } "
            "shape { dim: 4 dim: 2 } } } layer { name: 'lstm' type: 'LSTM' bottom: 'x' bottom: 'cont' top: 'h' "
            f"recurrent_param {{ num_output: 5 {GAUSS} }} }}")
    net = make_net(text)
    arrays, _ = state_dict.from_net(net)
    lstm = torch.nn.LSTM(3, 5)
    lstm.load_state_dict({key.removeprefix("lstm."): torch.from_numpy(array) for key, array in arrays.items()})
    x, cont = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32), np.ones((4, 2))
    cont[0] = 0
    expected = lstm(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(net.forward(x=x, cont=cont)["h"], expected, 1e-5, 1e-6)


SHARED = INPUT + "".join(
    f"layer {{ name: '{name}' type: 'Convolution' bottom: 'data' top: '{name}' param {{ name: 'w' }} "
    f"convolution_param {{ num_output: 2 kernel_size: 3 bias_term: false {GAUSS} }} }}" for name in "ab")


def test_a_shared_parameter_has_both_names_and_one_value():
    net = make_net(SHARED)
    arrays, metadata = state_dict.from_net(net)
    np.testing.assert_array_equal(arrays["a.weight"], arrays["b.weight"])
    arrays["b.weight"] = arrays["b.weight"] + 1
    before = all_bytes(net)
    with pytest.raises(ConvertError) as caught:
        state_dict.into_net(net, arrays, metadata, "s.pt")
    assert str(caught.value) == ("s.pt: tensors 'a.weight' and 'b.weight' differ, but in net '' they are one shared "
                                 "parameter; make them equal, or give the layers parameters of their own")
    assert all_bytes(net) == before


def test_a_shared_parameter_is_one_in_the_module():
    pytest.importorskip("torch", reason="what this test converts to: pip install 'spp[torch]'")
    from spp.convert import torch_module
    module = torch_module(make_net(SHARED))
    assert module.a.weight is module.b.weight and len(list(module.parameters())) == 1


TWINS = INPUT + "".join(
    f"layer {{ name: 'bn_{i}' type: 'BatchNorm' bottom: 'data' top: 'bn_{i}' %s }} layer {{ name: 'scale_{i}' "
    f"type: 'Scale' bottom: 'bn_{i}' top: 'scale_{i}' param {{ name: 's' }} scale_param {{ filler {{ value: 2 }} }} }}"
    for i in (1, 2))
MEAN, ALL = (" ".join(f"param {{ name: '{name}' lr_mult: 0 }}" for name in names) for names in ("m", "mvn"))


def test_shared_statistics_are_one_too():
    pytest.importorskip("torch", reason="what this test converts to: pip install 'spp[torch]'")
    from spp.convert import torch_module
    module = torch_module(make_net(TWINS % (ALL, ALL)))
    assert module.bn_1.running_mean is module.bn_2.running_mean and module.bn_1.weight is module.bn_2.weight
    assert module.bn_1.running_var is module.bn_2.running_var
    with pytest.raises(ConvertError) as caught:
        torch_module(make_net(TWINS % (MEAN, MEAN)))
    assert str(caught.value) == ("layer 'bn_2' (BatchNorm) cannot be converted to torch: it shares some of its three "
                                 "statistics with another layer; share all, or none")


def test_two_layers_of_one_name():
    with pytest.raises(ConvertError, match="two layers are named 'conv'; give each a name of its own"):
        state_dict.from_net(make_net(INPUT + CONV + CONV.replace("top: 'conv'", "top: 'other'")))


@pytest.mark.parametrize("change, message", [
    (lambda s: s.pop("fc.bias"), "s: there is no tensor 'fc.bias'; it has conv.weight, conv.bias, bn_1.weight, "
     "bn_1.bias, bn_1.running_mean, bn_1.running_var and 2 more"),
    (lambda s: s.update({"x.weight": np.zeros(2)}),
     "s: no layer of net '' has a place for x.weight; are they the weights of another net?"),
    (lambda s: s.update({"fc.bias": np.zeros(6)}), "s: tensor 'fc.bias' is 6, the net needs 5"),
    (lambda s: s.update({"fc.bias": np.zeros(5, int)}), "s: tensor 'fc.bias' has the dtype int64; weights are floats"),
])
def test_what_does_not_fit_changes_nothing(change, message):
    net = make_net()
    arrays, metadata = state_dict.from_net(net)
    before = all_bytes(net)
    net.params["conv"][0].data[...] += 1
    changed = all_bytes(net)
    change(arrays)
    with pytest.raises(ConvertError) as caught:
        state_dict.into_net(net, arrays, metadata, "s")
    assert str(caught.value) == message and all_bytes(net) == changed != before


def test_a_bias_that_a_scale_has_no_place_for():
    text = SCALE.replace("bias_term: true", "").replace("bias_filler { type: 'uniform' }", "")
    net = make_net(INPUT + CONV + BN + text)
    arrays, metadata = state_dict.from_net(net)
    assert not arrays["bn_1.bias"].any()
    arrays["bn_1.bias"][1] = 1
    with pytest.raises(ConvertError, match="tensor 'bn_1.bias' is not 0, and layer 'scale' has no bias; set bias_"):
        state_dict.into_net(net, arrays, metadata, "s")


# --- the program

@pytest.fixture
def folder(tmp_path):
    """net.prototxt, net.caffemodel and net.caffemodel.h5."""
    (tmp_path / "net.prototxt").write_text(TEXT)
    net = make_net()
    net.save(str(tmp_path / "net.caffemodel"))
    net.save(str(tmp_path / "net.caffemodel.h5"))
    return tmp_path


def convert(folder, source, output, *more):
    result = run("convert_weights", "--model", "net.prototxt", "--weights", source, "--output", output, *more,
                 cwd=folder)
    assert result.returncode == 0, result
    return result.stdout


def loaded(folder, name, dtype=np.float32):
    return all_bytes(Net(str(folder / "net.prototxt"), weights=str(folder / name), device="cpu", dtype=dtype))


@pytest.mark.parametrize("source", ["net.caffemodel", "net.caffemodel.h5"])
@pytest.mark.parametrize("between", ["s.pt", "s.pth", "s.safetensors"])
@pytest.mark.parametrize("back", ["b.caffemodel", "b.h5"])
def test_there_and_back_is_bit_exact(folder, source, between, back):
    pytest.importorskip("safetensors" if between.endswith("s") else "torch", reason="pip install 'spp[torch]'")
    assert convert(folder, source, between) == f"Wrote {between}\n"
    assert (folder / between).stat().st_mode == (folder / source).stat().st_mode
    assert convert(folder, between, back) == f"Wrote {back}\n"
    assert loaded(folder, back) == loaded(folder, source)


def test_doubles_stay_doubles(folder):
    pytest.importorskip("safetensors", reason="pip install 'spp[torch]'")
    net = make_net(dtype=np.float64)
    net.save(str(folder / "d.caffemodel"))
    convert(folder, "d.caffemodel", "s.safetensors")
    convert(folder, "s.safetensors", "b.caffemodel")
    assert loaded(folder, "b.caffemodel", np.float64) == all_bytes(net)


def test_flipped_channels_means_and_scale(folder):
    torch = pytest.importorskip("torch", reason="pip install 'spp[torch]'")
    convert(folder, "net.caffemodel", "s.pt", "--flip-channels", "--mean", "104,117,123", "--scale", "0.5")
    net = Net(str(folder / "net.prototxt"), weights=str(folder / "net.caffemodel"), device="cpu")
    state = torch.load(folder / "s.pt", weights_only=True)
    np.testing.assert_array_equal(state["conv.weight"].numpy(), net.params["conv"][0].data[:, ::-1])
    from spp.convert import torch_module
    torch_module(net).load_state_dict(state)       # our metadata is in nobody's way
    assert convert(folder, "s.pt", "b.caffemodel", "--flip-channels") == (
        "s.pt says channels: reversed\ns.pt says mean: [104.0, 117.0, 123.0]\ns.pt says scale: 0.5\n"
        "Wrote b.caffemodel\n")
    assert loaded(folder, "b.caffemodel") == loaded(folder, "net.caffemodel")


@pytest.mark.parametrize("text, message", [
    (INPUT + "layer { name: 'p' type: 'PReLU' bottom: 'data' top: 'p' }", "channels not flipped: layer 'p' (PReLU) "
     "reads the image, and only convolutions without groups can take it in another order"),
    (INPUT.replace("dim: 3", "dim: 4"), "channels not flipped: no convolution of net '' reads an input of 3 channels"),
])
def test_channels_that_cannot_be_flipped(text, message):
    with pytest.raises(ConvertError) as caught:
        weights.flip_channels(make_net(text))
    assert str(caught.value) == message


def test_layers_that_the_prototxt_lacks_are_named(folder):
    pytest.importorskip("safetensors", reason="pip install 'spp[torch]'")
    make_net(TEXT + POOLED.replace("'fc'", "'aux'").replace("'spp'", "'spp2'")).save(str(folder / "more.caffemodel"))
    assert convert(folder, "more.caffemodel", "s.safetensors") == (
        "Left out, as the net has no such layers: aux\nWrote s.safetensors\n")


@pytest.mark.parametrize("arguments, message", [
    ("--weights net.caffemodel --output s.bin --model net.prototxt",
     "--output s.bin: its extension must be one of .caffemodel, .h5, .pt, .pth, .safetensors"),
    ("--weights net.caffemodel --output b.caffemodel --model net.prototxt",
     "net.caffemodel and b.caffemodel are both Caffe files; one of them must be the other's kind"),
    ("--weights net.caffemodel --output s.pt", "give the net: --model PROTOTXT, or --map"),
    ("--weights net.caffemodel --output s.pt --model net.prototxt --std 1,1,1", "--std goes with --map only"),
    ("--weights net.caffemodel --output s.pt --model net.prototxt --mean a",
     "argument --mean: 'a' is not a list of numbers, as 104,117,123; see convert_weights --help"),
    ("--weights bad.pt --output b.caffemodel --model net.prototxt --scale 2",
     "a caffemodel has no place for --mean and --scale; write them into transform_param"),
    ("--weights no.pt --output b.caffemodel --model net.prototxt",
     "cannot read no.pt: No such file or directory; check the path"),
    ("--weights bad.safetensors --output b.caffemodel --model net.prototxt",
     "bad.safetensors: no safetensors file of float16, float32 or float64 weights: "),
    ("--weights bad.pt --output b.caffemodel --model net.prototxt",
     "bad.pt: contains other things than tensors, or is damaged; save the module's state_dict() with torch.save ("),
    ("--weights part.caffemodel --output s.pt --model net.prototxt",
     "part.caffemodel has no weights for 'bn/1', 'scale', 'fc' of net.prototxt; give the prototxt that the weights "
     "were trained with"),
    ("--weights x.pth --output s.caffemodel --map torchvision:resnet19",
     "--map torchvision:resnet19 is not known; give one of torchvision:alexnet, "),
    ("--weights x.pth --output s.pt --map torchvision:resnet18",
     "--map makes a caffemodel and its prototxt out of a checkpoint, for BGR images of 0 to 255: leave out --model, "),
])
def test_mistakes_are_answered_with_one_line(folder, arguments, message):
    if "bad" in arguments or "no.pt" in arguments:
        pytest.importorskip("torch", reason="pip install 'spp[torch]'")
    (folder / "bad.pt").write_bytes(b"no zip file")
    (folder / "bad.safetensors").write_bytes(b"no tensors")
    make_net(INPUT + CONV).save(str(folder / "part.caffemodel"))
    before = sorted(folder.iterdir())
    result = run("convert_weights", *arguments.split(), cwd=folder)
    assert error_of(result).startswith(f"error: {message}")
    assert sorted(folder.iterdir()) == before


def test_a_checkpoint_with_more_around_the_state_dict(folder):
    torch = pytest.importorskip("torch", reason="pip install 'spp[torch]'")
    convert(folder, "net.caffemodel", "s.pt")
    state = torch.load(folder / "s.pt", weights_only=True)
    torch.save({"epoch": 3, "state_dict": {key: value.half() if value.is_floating_point() else value
                                           for key, value in state.items()}}, folder / "halves.pt")
    convert(folder, "halves.pt", "b.caffemodel")
    net = Net(str(folder / "net.prototxt"), weights=str(folder / "b.caffemodel"), device="cpu")
    np.testing.assert_array_equal(net.params["fc"][0].data, state["fc.weight"].half().float().numpy())
    broken = state.copy()
    broken._metadata = {"caffe": "["}
    torch.save(broken, folder / "broken.pt")
    result = run("convert_weights", "--model", "net.prototxt", "--weights", "broken.pt", "--output", "c.caffemodel",
                 cwd=folder)
    assert error_of(result) == ("error: broken.pt: its metadata 'caffe' is damaged; convert the weights again, or "
                                "remove it")
    torch.save([1, 2], folder / "list.pt")
    result = run("convert_weights", "--model", "net.prototxt", "--weights", "list.pt", "--output", "c.caffemodel",
                 cwd=folder)
    assert error_of(result) == "error: list.pt: contains no state_dict; save the module's state_dict() with torch.save"


def test_without_torch_the_extra_is_named(folder, monkeypatch):
    before = sorted(folder.iterdir())
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for program, more, missing in (("convert_net", ("--to", "torch", "--output", "net.py"), "torch"),
                                   ("convert_weights", ("--output", "net.pt"), "torch"),
                                   ("convert_weights", ("--output", "net.safetensors"), "safetensors")):
        result = run(program, "--model", "net.prototxt", "--weights", "net.caffemodel", *more, cwd=folder)
        assert error_of(result) == (f"error: this conversion needs {missing}, which is not installed; "
                                    "pip install 'spp[torch]'")
    assert sorted(folder.iterdir()) == before
