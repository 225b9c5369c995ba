"""The checks of spp.testing over a table of all layer types; and that the checks find what is wrong."""
import importlib
import re
import sys

import pytest

import python_layers
from every_layer_rows import ROWS, Row, without_row
from folders import ROOT
from spp import testing
from spp.errors import SppError
from spp.layers import Layer, types


def test_every_type_has_a_row():
    assert without_row(types()) == []
    assert without_row(["ReLU", "Input", "NoSuchType"]) == [
        "layer type 'NoSuchType' has no test: add Row('NoSuchType', '... its parameters ...', [shape of each bottom]) "
        "to ROWS in tests/support/every_layer_rows.py, or to WITHOUT_ROW the file that tests it"]


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_layer(row, check):
    check(row)


# --- layers that are wrong in one way each

class Double(Layer):
    in_place = True

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = 2 * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 2 * top[0].diff


class WrongByAThousandth(Double):
    def backward(self, top, propagate_down, bottom):
        super().backward(top, propagate_down, bottom)
        bottom[0].diff[1, 2, 3, 0] *= 1.001


class WithoutGradient(Double):
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 0


class OverwritesParameterGradients(python_layers.Affine):
    def backward(self, top, propagate_down, bottom):
        for blob in self.blobs:
            blob.diff[...] = 0
        super().backward(top, propagate_down, bottom)


class AddsToBottomGradients(Double):
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] += 2 * top[0].diff


class CannotResize(Double):
    def setup(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def reshape(self, bottom, top):
        pass


class KeepsTheFirstSize(Double):
    def forward(self, bottom, top):
        self.first = getattr(self, "first", bottom[0].num)
        top[0].data[...] = 2 * bottom[0].data + (bottom[0].num - self.first)


class NotInPlace(Double):
    def forward(self, bottom, top):
        top[0].data[...] = 1
        top[0].data[...] += 2 * bottom[0].data - 1


class MixesImages(Double):
    def forward(self, bottom, top):
        top[0].data[...] = 2 * bottom[0].data + bottom[0].num


class InHalfPrecision(Double):
    def forward(self, bottom, top):
        data = bottom[0].data
        top[0].data[...] = 2 * (data.astype("float16") if data.dtype == "float32" else data)


AFFINE = [(2, 3, 5, 4)] * 2


@pytest.mark.parametrize("layer, param, shapes", [
    (Double, "", [(2, 3, 5, 4)]), (python_layers.Times, "python_param { param_str: '3' }", [(2, 3)]),
    (python_layers.Affine, "", AFFINE), ("Power", "power_param { power: 1 scale: 2 }", [(2, 3)]),
    (type(Row("ReLU").net().layers[1]), "", [(2, 7)])])
def test_a_layer_that_is_right(layer, param, shapes):
    testing.check_layer(layer, param, shapes)


@pytest.mark.parametrize("layer, shapes, message", [
    (WrongByAThousandth, [(2, 3, 5, 4)], r"gradient of bottom 0 at \[1, 2, 3, 0\] is [\d.-]+ by backward, [\d.-]+ by "
                                         "central differences"),
    (WithoutGradient, [(2, 3)], r"gradient of bottom 0 at \[0, 0\] is 0 by backward, [\d.-]+ by central differences"),
    (OverwritesParameterGradients, AFFINE, r"accumulation after two backwards: gradient of parameter 0 at \[0\] is "
                                           r"[\d.-]+, expected [\d.-]+"),
    (AddsToBottomGradients, [(2, 3)], r"a second backward must overwrite: gradient of bottom 0 at \[0, 0\] is 2.8, "
                                      r"expected 1.4"),
    (CannotResize, [(2, 3)], r"check_other_size: ValueError: .*"),
    (KeepsTheFirstSize, [(2, 3, 5, 4)], r"other size: top 0 at \[0, 0, 0, 0\] is [\d.-]+, expected [\d.-]+"),
    (NotInPlace, [(2, 3)], r"in place: top 0 at \[0, 0\] is 2, expected [\d.-]+"),
    (MixesImages, [(2, 3)], r"image 0 alone: top 0 at \[0, 0\] is [\d.-]+, expected [\d.-]+"),
    (InHalfPrecision, [(2, 3)], r"single precision: top 0 at \[0, 0\] is [\d.-]+, expected [\d.-]+"),
])
def test_a_layer_that_is_wrong(layer, shapes, message):
    where = rf"layer Python python_param {{ module: \"{__name__}\" layer: \"{layer.__name__}\" }}"
    with pytest.raises(AssertionError, match=f"^{where}: {message}$"):
        testing.check_layer(layer, "", shapes)


def test_a_layer_that_has_a_gradient_nevertheless():
    with pytest.raises(AssertionError, match=r"no gradient: gradient of bottom 0 at \[0, 0\] is [\d.-]+, expected 0"):
        testing.check_layer(python_layers.Times, "loss_weight: 1 python_param { param_str: '2' }", [(2, 3)],
                            gradient=False)


def test_a_layer_in_a_function_is_refused():
    class Inside(Double):
        pass

    with pytest.raises(SppError, match="Inside is not at the top level of its module; move it there"):
        testing.check_layer(Inside)


def test_the_example_of_the_docstring(run_module):
    lines = [line[4:] for line in (testing.__doc__ or "").splitlines() if line.startswith("    ") or not line]
    run_module("my_doubles", "\n".join(lines)).test_double()


def test_the_example_of_the_documentation(run_module):
    text = (ROOT / "docs" / "layers.md").read_text()
    layers, tests = re.findall(r"```python\n# \w+\.py[^\n]*\n(.*?)```", text, re.S)
    run_module("my_layers", layers)
    run_module("test_my_layers", tests).test_soft_clip()


@pytest.fixture
def run_module(tmp_path, monkeypatch):
    """A function that writes a module and imports it."""
    def run(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    monkeypatch.syspath_prepend(tmp_path)
    return run
