"""Python layers: how the user's class is found, made and called, and what comes through of its errors."""
import os
import subprocess
import sys

import numpy as np
import pytest

import python_layers
from folders import ROOT
from spp.errors import NetError, SppError
from spp.layers import TEST, TRAIN
from spp.net import Net
from spp.proto.text import parse_net

INPUT = "layer { name: 'in' type: 'Input' top: 'x' top: 'z' input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } } } "


def layer(cls, bottoms="bottom: 'x'", tops="top: 'y'", param_str="", name="p", module="python_layers", more=""):
    return (f"layer {{ name: '{name}' type: 'Python' {bottoms} {tops} {more} python_param {{ module: '{module}' "
            f"layer: '{cls}' param_str: '{param_str}' }} }} ")


def make(*layers, phase=TEST, **arguments):
    return Net(parse_net("force_backward: true " + INPUT + "".join(layers)), phase, **arguments)


def values(seed=0):
    return np.random.default_rng(seed).normal(size=(2, 3, 4, 5)).astype(np.float32)


def test_three_layers_in_a_row_and_in_place():
    net = make(layer("Times", param_str="10"), layer("Times", "bottom: 'y'", "top: 'y2'", "10", "q"),
               layer("Times", "bottom: 'y2'", "top: 'y2'", "10", "r"))
    net.forward(x=values())
    np.testing.assert_allclose(net.blobs["y2"].data, 1000 * values(), 1e-6)
    net.blobs["y2"].diff[...] = values(1)
    net.backward()
    np.testing.assert_allclose(net.blobs["x"].diff, 1000 * values(1), 1e-6)


def test_another_size():
    net = make(layer("Times", param_str="3"))
    x = np.arange(12.0).reshape(1, 2, 2, 3)
    np.testing.assert_array_equal(net.forward(x=x)["y"], 3 * x)


def test_parameters_are_learnt_saved_and_shared(tmp_path):
    text = layer("Affine", "bottom: 'x' bottom: 'z'")
    net = make(text)
    assert [entry.name for entry in net.learnable] == ["p[0]", "p[1]"]
    y = net.forward(x=values(), z=values(1))["y"]
    factor = np.array([0.5, 1.25, 2]).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(y, (values() + values(1)) * factor + 0.25, 1e-5)
    net.params["p"][1].data[...] = 7
    net.save(str(tmp_path / "m.caffemodel"))
    other = make(text)
    other.copy_from(str(tmp_path / "m.caffemodel"))
    assert other.params["p"][1].data == 7
    third = make(text)
    third.share_with(net)
    net.params["p"][1].data[...] = 8
    assert third.params["p"][1].data == 8 and third.layers[-1].user.blobs[1].data == 8


def test_a_loss():
    net = make(layer("Squares", "bottom: 'x' bottom: 'z'", more="loss_weight: 2"))
    net.forward(x=values(), z=values(1))
    difference = values() - values(1)
    np.testing.assert_allclose(net.loss, (difference ** 2).sum(), 1e-5)
    net.backward()
    np.testing.assert_allclose(net.blobs["x"].diff, 2 * difference, 1e-5)
    np.testing.assert_allclose(net.blobs["z"].diff, -2 * difference, 1e-5)


SOURCE = layer("Source", "", "top: 'data' top: 'phase'", "3")


def test_attributes_are_the_users_whatever_their_names():
    net = make(SOURCE, phase=TRAIN)
    source = net.layers[-1]
    assert source.made and source.name == "p" and source.type == "Python" and source.user.name == "mine"
    assert source.user.param == {"length": 3} and isinstance(source.user, python_layers.Source)
    source.set_roidb([1, 2])
    assert net.forward()["data"].shape == (2, 3) and net.blobs["phase"].shape == ()
    np.testing.assert_array_equal(np.floor(net.blobs["data"].data), [[1, 1, 1], [2, 2, 2]])
    assert net.blobs["phase"].data == 1
    source.roidb = [5]
    assert source.user.roidb == [5] and net.forward()["data"].shape == (1, 3)
    with pytest.raises(AttributeError, match="'Source' object has no attribute 'absent'"):
        source.absent
    net = make(SOURCE)
    net.layers[-1].set_roidb([1])
    assert net.forward()["phase"] == 0


def test_its_random_stream_is_the_nets(tmp_path):
    def run(net, count):
        net.layers[-1].set_roidb([0])
        return [float(net.forward()["data"][0, 0]) for _ in range(count)]
    net = make(SOURCE, seed=5)
    draws = run(net, 3)
    state = net.state()
    assert sorted(state) == ["p"] and len(set(draws)) == 3
    draws += run(net, 3)
    assert run(make(SOURCE, seed=5), 6) == draws != run(make(SOURCE, seed=6), 6)
    other = make(SOURCE, seed=6)
    run(other, 1)
    other.restore(state)
    assert run(other, 3) == draws[3:]


def test_a_state_of_its_own():
    text = layer("Counter", "", "top: 'n'")
    net = make(text)
    net.forward()
    net.forward()
    assert net.state() == {"p": {"count": 2}}
    other = make(text)
    other.restore(net.state())
    assert other.forward()["n"] == 3
    other.close()
    assert other.layers[-1].closed and not net.layers[-1].closed


def test_facts_that_a_class_states():
    with pytest.raises(NetError, match=r"layer 'p' \(Python\): takes exactly 0 bottom blob\(s\), found 1"):
        make(layer("Counter"))
    net = make(layer("Counter", "", "top: 'n'"), layer("Times", "bottom: 'n'", "top: 'n'", "2", "q"))
    assert (net.layers[-2].in_place, net.layers[-1].in_place) == (False, True)


# --- where the module is

MODULE = """
import {helper}
from spp.layers import Layer
class Add(Layer):
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top):
        import {late}
        top[0].data[...] = bottom[0].data + {helper}.VALUE + {late}.VALUE
"""


@pytest.fixture
def path(monkeypatch):
    """sys.path, set right afterwards."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", os.getcwd())])


@pytest.mark.parametrize("place", ["prototxt", "current", "package"])
def test_a_module_is_found_beside_the_prototxt_and_in_the_current_folder(tmp_path, monkeypatch, path, place):
    nets, current = tmp_path / "nets", tmp_path / "current"
    nets.mkdir()
    current.mkdir()
    monkeypatch.chdir(current)
    folder = current if place == "current" else nets
    name = {helper: f"{helper}_{place}" for helper in ("early", "late", "module")}
    (folder / f"{name['early']}.py").write_text("VALUE = 10")
    (folder / f"{name['late']}.py").write_text("VALUE = 200")
    if place == "package":
        folder = folder / "inner_package"
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        module = f"inner_package.{name['module']}"
    else:
        module = name["module"]
    (folder / f"{name['module']}.py").write_text(MODULE.format(helper=name["early"], late=name["late"]))
    (nets / "net.prototxt").write_text(INPUT + layer("Add", module=module))
    net = Net(str(nets / "net.prototxt"))
    x = np.arange(6).reshape(1, 1, 2, 3)
    np.testing.assert_array_equal(net.forward(x=x)["y"], x + 210)


def test_a_missing_module_says_where_it_was_looked_for(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "net.prototxt").write_text("name: 'n'\n" + INPUT + "\n" + layer("Add", module="no_module"))
    before = list(sys.path)
    with pytest.raises(NetError, match=r"nets/net.prototxt:3: layer 'p' \(Python\): python_param: there is no module "
                                       r"'no_module' on Python's path, nor in .*/nets or .*; put its file there"):
        Net("nets/net.prototxt")
    assert sys.path == before
    with pytest.raises(NetError, match="there is no module 'python_layers.inner' on Python's path"):
        make(layer("Times", module="python_layers.inner"))


def test_a_module_that_misses_another_says_so_itself(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "needs_caffe.py").write_text("import caffe\nclass A(caffe.Layer): pass")
    (tmp_path / "needs_more.py").write_text("import no_such_package")
    (tmp_path / "is_wrong.py").write_text("1 / 0")
    monkeypatch.setitem(sys.modules, "caffe", None)
    with pytest.raises(ModuleNotFoundError, match="caffe") as error:
        make(layer("A", module="needs_caffe"))
    assert not notes(error) or notes(error)[-1].startswith("write `import spp.pycaffe as caffe`, or start by ")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        make(layer("A", module="needs_more"))
    with pytest.raises(ZeroDivisionError) as wrong:
        make(layer("A", module="is_wrong"))
    assert notes(wrong) in ([], ["raised in layer 'p' (Python: is_wrong.A), __init__"])


# --- errors

def notes(error):
    """The notes of a caught exception; none before Python 3.11."""
    return getattr(error.value, "__notes__", [])


@pytest.mark.parametrize("method", ["setup", "reshape", "forward", "backward"])
def test_the_users_exceptions_come_through_with_a_note(method):
    with pytest.raises(KeyError) as error:
        net = make(layer("Bad", param_str=method))
        net.forward()
        net.backward()
    assert error.value.args == ("my own words",)
    expected = [f"raised in layer 'p' (Python: python_layers.Bad), {method}"]
    assert notes(error) == (expected if sys.version_info >= (3, 11) else [])


def test_exceptions_before_python_3_11(monkeypatch):
    class Old(Exception):
        def __getattribute__(self, name):
            if name == "add_note":
                raise AttributeError(name)
            return super().__getattribute__(name)

    def fail(self, method):
        raise Old("words")
    monkeypatch.setattr(python_layers.Bad, "fail", fail)
    with pytest.raises(Old, match="^words$") as error:
        make(layer("Bad"))
    assert not notes(error)


@pytest.mark.parametrize("text, message", [
    (layer("Times", module=""), "python_param needs module and layer, the names of a Python module and of a"),
    (layer(""), "python_param needs module and layer, the names of a Python module and of a class in it"),
    (layer("Tims"), r"python_param: 'Tims' is missing in .*python_layers.py; write class Tims\(Layer\) with"),
    (layer("NoLayer"), r"python_param: 'NoLayer' does not derive from spp.pycaffe.Layer \(spp.layers.Layer\) in .*;"),
    (layer("np"), r"python_param: 'np' does not derive from spp.pycaffe.Layer"),
    (layer("NoForward"), r"python_param: class 'NoForward' in .*python_layers.py has no forward\(self, bottom, top\)"),
    (layer("OnlyForward"), r"class OnlyForward has no backward\(self, top, propagate_down, bottom\), and a bottom "
                           "needs a gradient; write it, or say propagate_down: false in the prototxt")])
def test_what_is_wrong_with_a_class(text, message):
    with pytest.raises(NetError, match=r"layer 'p' \(Python\): " + message) as error:
        net = make(text)
        net.forward()
        net.backward()
    assert "\n" not in str(error.value)


def test_errors_of_ours_that_a_user_raises_get_their_place(monkeypatch):
    def fail(self, method):
        raise SppError("too many cats")
    monkeypatch.setattr(python_layers.Bad, "fail", fail)
    with pytest.raises(SppError, match=r"^layer 'p' \(Python\): too many cats$"):
        make(layer("Bad"))


def test_a_solver_trains_through_a_python_layer(tmp_path):
    (tmp_path / "net.prototxt").write_text(
        "layer { name: 'd' type: 'DummyData' top: 'x' top: 't' dummy_data_param { shape { dim: 4 dim: 2 } "
        "data_filler { type: 'constant' value: 1 } data_filler { type: 'constant' value: 3 } } } "
        "layer { name: 'ip' type: 'InnerProduct' bottom: 'x' top: 'y' inner_product_param { num_output: 2 } } "
        + layer("Squares", "bottom: 'y' bottom: 't'", "top: 'loss'", more="loss_weight: 1"))
    (tmp_path / "solver.prototxt").write_text("net: 'net.prototxt' base_lr: 0.05 lr_policy: 'fixed' max_iter: 60 "
                                              "random_seed: 1 snapshot_after_train: false")
    program = ("from spp.solver import Solver\nsolver = Solver('solver.prototxt')\nsolver.solve()\n"
               "print(float(solver.net.loss))")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "support"), os.getcwd()])}
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True,
                         text=True)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 1e-6
