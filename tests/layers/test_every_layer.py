"""One battery over a table of all layer types: gradients, reshaping, in-place, accumulation, images one by one."""
import numpy as np
import pytest

import gradients
from every_layer_rows import ROWS, WITHOUT_GRADIENT, WITHOUT_ROW, Row
from spp.errors import SppError
from spp.layers import layer_class, types
from spp.net import Net
from spp.proto.text import parse_net


def text(row, bottoms=None, tops=None):
    shapes = " ".join("shape { %s }" % " ".join(f"dim: {d}" for d in shape) for shape in row.shapes)
    inputs = [f"x{i}" for i in range(len(row.shapes))]
    return (f"force_backward: true layer {{ name: 'in' type: 'Input' {' '.join(f'top: {i!r}' for i in inputs)} "
            f"input_param {{ {shapes} }} }} layer {{ name: 'l' type: '{row.type}' "
            + " ".join(f"bottom: {b!r}" for b in bottoms or inputs) + " "
            + " ".join(f"top: {t!r}" for t in tops or [f"y{i}" for i in range(row.tops)]) + f" {row.params} }}")


def values(row, index, shape, seed=0):
    """Distinct values (no ties, none near 0), in a random order; or class indices."""
    rng = np.random.default_rng([seed, index])
    if index in row.labels:
        return rng.integers(0, row.labels[index], shape)
    count = int(np.prod(shape))
    found = np.linspace(0.11 if row.positive else -1.93, 2.17, count)
    return rng.permutation(found + 0.0013 * index).reshape(shape)     # distinct between bottoms too


def fill(net, row, shapes=None, seed=0):
    for i, shape in enumerate(shapes or row.shapes):
        net.blobs[f"x{i}"].reshape(shape)
        net.blobs[f"x{i}"].data[...] = values(row, i, shape, seed)


def make(row, dtype=np.float64, **names):
    net = Net(parse_net(text(row, **names)), row.phase, dtype=dtype, seed=3)
    fill(net, row)
    return net


def outputs(net):
    return {name: np.array(net.blobs[name].data) for name in net.outputs if name.startswith("y")}


def learnt(net):
    """The parameters that a solver learns: not BatchNorm's statistics."""
    return [entry for entry in net.learnable if entry.lr_mult]


each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)


def test_every_type_has_a_row():
    assert set(types()) - {row.type for row in ROWS} == set(WITHOUT_ROW)


@each_row
def test_gradient(row):
    if row.type in WITHOUT_GRADIENT:
        net = make(row)
        net.forward()
        net.backward()
        assert all(not net.blobs[f"x{i}"].diff.any() for i in range(len(row.shapes)))
        return
    net = make(row)
    blobs = {f"x{i}": net.blobs[f"x{i}"] for i in range(len(row.shapes)) if i not in row.labels}
    blobs |= {entry.name: entry.blob for entry in learnt(net)}
    assert gradients.check(net, blobs) == sum(blob.count for blob in blobs.values())


@each_row
def test_parameter_gradients_accumulate(row):
    net = make(row)
    net.forward()
    for name in net.outputs:
        net.blobs[name].diff[...] = 0.7
    net.backward()
    once = [np.array(entry.blob.diff) for entry in learnt(net)]
    net.backward()
    for entry, first in zip(learnt(net), once):
        assert first.any()
        np.testing.assert_allclose(entry.blob.diff, 2 * first, 1e-12)


@each_row
def test_other_size_and_back(row):
    net = make(row)
    state = net.state()
    net.forward()
    before = outputs(net)
    other = row.other
    if other is None:
        other = [(s[0] + 1, *s[1:2], *(d + 2 for d in s[2:])) for s in row.shapes]
    fill(net, row, other, seed=1)
    net.forward()
    larger = outputs(net)
    fresh = Net(parse_net(text(Row(row.type, row.params, other, row.tops))), row.phase, dtype=np.float64, seed=3)
    fresh.restore(state)
    fill(fresh, row, other, seed=1)
    for mine, theirs in zip(net.params.get("l", []), fresh.params.get("l", [])):
        theirs.data[...] = mine.data
    if not net.state():
        fresh.forward()
        for name, found in outputs(fresh).items():
            np.testing.assert_array_equal(found, larger[name])
    fill(net, row)
    net.restore(state)
    net.forward()
    for name, found in outputs(net).items():
        np.testing.assert_array_equal(found, before[name])


@each_row
def test_in_place_where_allowed(row):
    if len(row.shapes) != 1 or row.tops != 1:
        return
    if not layer_class(row.type).in_place:
        with pytest.raises(SppError, match="layer 'l' .*cannot work in place"):
            make(row, tops=["x0"])
        return
    apart, same = make(row), make(row, tops=["x0"])
    apart.forward()
    same.forward()
    np.testing.assert_array_equal(same.blobs["x0"].data, apart.blobs["y0"].data)
    if row.type in WITHOUT_GRADIENT:
        return
    apart.blobs["y0"].diff[...] = same.blobs["x0"].diff[...] = values(row, 5, apart.blobs["y0"].shape)
    apart.backward()
    same.backward()
    np.testing.assert_allclose(same.blobs["x0"].diff, apart.blobs["x0"].diff, 1e-12)


@each_row
def test_a_batch_is_its_images(row):
    if not row.by_image:
        return
    net = make(row)
    net.forward()
    whole = outputs(net)
    for n in range(row.shapes[0][0]):
        for i, shape in enumerate(row.shapes):
            net.blobs[f"x{i}"].reshape(1, *shape[1:])
            net.blobs[f"x{i}"].data[...] = values(row, i, shape)[n:n + 1]
        net.forward()
        for name, found in outputs(net).items():
            np.testing.assert_allclose(found, whole[name][n:n + 1], 1e-12, 1e-14)


@each_row
def test_single_precision_agrees(row):
    single, double = make(row, np.float32), make(row)
    for net in (single, double):
        net.forward()
    for name, found in outputs(single).items():
        assert single.blobs[name].data.dtype == np.float32
        np.testing.assert_allclose(found, outputs(double)[name], 1e-4, 1e-5)


@each_row
def test_unknown_parameter_is_an_error(row):
    with pytest.raises(SppError, match="no_such_thing"):
        parse_net(text(row).replace("name: 'l'", "name: 'l' no_such_thing: 1"))


def test_the_checker_finds_a_gradient_wrong_by_a_thousandth():
    net = make(Row("Power", "power_param { power: 1 scale: 2 }"))
    layer = net.layers[1]
    right = layer.backward

    def wrong(top, propagate_down, bottom):
        right(top, propagate_down, bottom)
        bottom[0].diff[1, 2, 3, 0] *= 1.001

    gradients.check(net, {"x0": net.blobs["x0"]})
    layer.backward = wrong
    with pytest.raises(AssertionError, match=r"gradient of x0\[1, 2, 3, 0\]"):
        gradients.check(net, {"x0": net.blobs["x0"]})
