"""Winograd's convolution: against single products, and float64 at the shapes of real nets; which kernel is chosen."""
import os
import subprocess
import sys

import numpy as np
import pytest

from convolutions import arrays, assert_near, computed, expected, identity, scaled
from spp.backend.host.convolution import choose, winograd
from spp.backend.host.onednn import library as onednn_library
from spp.backend.types import Geometry
from spp.ops import convolution

CASES = [       # as in convolutions.py: input N x C x ..., outputs, kernel, stride, pad, dilation, group
    ((2, 3, 9, 7), 4, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((1, 2, 13, 6), 3, (3, 3), (1, 1), (0, 0), (1, 1), 1),
    ((3, 2, 5, 8), 3, (3, 3), (1, 1), (2, 0), (1, 1), 1),
    ((1, 2, 3, 4), 2, (3, 3), (1, 1), (6, 5), (1, 1), 1),           # pads larger than the kernel
    ((1, 2, 3, 3), 2, (3, 3), (1, 1), (0, 0), (1, 1), 1),           # one pixel of output
    ((2, 3, 11, 14), 2, (5, 5), (2, 2), (1, 1), (1, 1), 1),
    ((1, 2, 12, 9), 3, (5, 5), (2, 2), (0, 3), (1, 1), 1),
    ((2, 1, 8, 7), 3, (5, 5), (2, 2), (2, 4), (1, 1), 1),
    ((1, 2, 6, 8), 2, (5, 5), (2, 2), (0, 0), (1, 1), 1),           # a last row and column that no window sees
    ((2, 3, 11, 8), 2, (5, 5), (1, 1), (2, 1), (1, 1), 1),
    ((1, 2, 5, 9), 3, (5, 5), (1, 1), (0, 6), (1, 1), 1),
    ((2, 6, 9, 7), 4, (3, 3), (1, 1), (1, 1), (1, 1), 2),           # groups
    ((1, 6, 12, 9), 9, (5, 5), (2, 2), (1, 0), (1, 1), 3),
    ((2, 4, 10, 7), 6, (5, 5), (1, 1), (2, 2), (1, 1), 2),
]
REAL = [
    ((2, 96, 55, 55), 256, (5, 5), (2, 2), (1, 1), (1, 1), 1),
    ((4, 256, 13, 13), 384, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((16, 384, 10, 13), 256, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((4, 96, 27, 27), 256, (5, 5), (1, 1), (2, 2), (1, 1), 2),      # AlexNet's conv2
]
TOLERANCE = 2e-5
each_case = pytest.mark.parametrize("case", CASES, ids=identity)


@pytest.fixture(autouse=True)
def without_onednn(monkeypatch):
    """oneDNN would compute some of the shapes."""
    monkeypatch.setattr(onednn_library, "_load", lambda: None)


@pytest.fixture
def always(monkeypatch):
    """Winograd's algorithm wherever possible; the list of its calls."""
    calls: list[str] = []
    monkeypatch.setattr(choose, "EXACT", False)
    monkeypatch.setitem(choose.WINOGRAD_IF, "blas", choose.Threshold(0, -10**9))
    for name in ("forward", "backward_data", "backward_weights"):
        monkeypatch.setattr(winograd, name, recording(calls, name, getattr(winograd, name)))
    return calls


def recording(calls, name, kernel):
    def recorded(*args):
        calls.append(name)
        kernel(*args)
    return recorded


@each_case
def test_against_single_products(case, always):
    inputs = arrays(case, np.float32)
    assert_near(computed(case, *inputs), expected(case, *inputs), TOLERANCE)
    assert always == ["forward", "backward_data", "backward_weights"]


@each_case
def test_scale_and_shift_in_the_same_pass(case, always):
    inputs = arrays(case, np.float32)
    for relu in (False, True):
        results, reference = scaled(case, inputs, relu)
        assert_near([results], [reference], TOLERANCE)
    assert always == ["forward"] * 2


@each_case
def test_several_blocks_and_batches_give_the_same(case, always, monkeypatch):
    case = ((9, case[0][1], 35, 42), *case[1:])         # more tiles than the least block and batch
    inputs = arrays(case, np.float32)
    whole = computed(case, *inputs)
    monkeypatch.setattr(winograd, "PART_BYTES", 1)
    monkeypatch.setattr(winograd, "BATCH_BYTES", 1)
    assert_near(computed(case, *inputs), whole, 1e-5)
    again = computed(case, *inputs)
    for a, b in zip(again, computed(case, *inputs)):
        np.testing.assert_array_equal(a, b)             # to the bit
    assert len(always) == 12


@pytest.mark.parametrize("case", REAL, ids=identity)
def test_error_at_the_shapes_of_real_nets(case, monkeypatch):
    monkeypatch.setattr(choose, "EXACT", False)
    inputs = arrays(case, np.float32)
    exact = computed(case, *(a.astype(np.float64) for a in inputs))
    results = computed(case, *inputs)
    assert_near(results, exact, TOLERANCE)
    monkeypatch.setattr(choose, "EXACT", True)
    plain = computed(case, *inputs)
    assert_near(plain, exact, TOLERANCE / 2)
    assert all((f != p).any() for f, p in zip(results[:3], plain))       # another algorithm was at work


@pytest.mark.parametrize("case", [CASES[0], CASES[5]], ids=identity)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_stay_visible(case, value, always):
    x, weight, bias, dy = arrays(case, np.float32)
    for target, index in ((x, (1, 2, 4, 5)), (weight, (1, 0, 2, 1)), (dy, (0, 1, 2, 3)), (bias, (1,))):
        before, target[index] = target[index], value
        with np.errstate(invalid="ignore"):
            reference = expected(case, x, weight, bias, dy)
        for f, w in zip(computed(case, x, weight, bias, dy), reference):
            assert (np.isfinite(f) <= np.isfinite(w)).all()
        target[index] = before
    assert_near(computed(case, x, weight, bias, dy), expected(case, x, weight, bias, dy), TOLERANCE)


def chosen(shape, outputs, kernel=3, stride=1, pad=1, dilation=1, group=1, dtype=np.float32):
    """Whether Winograd is chosen for an N x C x H x W input."""
    count, channels, height, width = shape
    sizes = [convolution.output_size(size, kernel, stride, pad, dilation) for size in (height, width)]
    geometry = Geometry((kernel, kernel), (stride, stride), (pad, pad), (dilation, dilation), group)
    kernels = choose.choose("backward_data", np.empty((count, height, width, channels), dtype),
                            np.empty((count, *sizes, outputs), dtype),
                            np.empty((outputs, channels // group, kernel, kernel), dtype), geometry, False)
    return kernels[0] == choose.WINOGRAD


def test_it_is_chosen_where_it_is_faster(monkeypatch):
    monkeypatch.setattr(choose, "EXACT", False)
    assert chosen((32, 256, 13, 13), 384) and not chosen((1, 256, 13, 13), 384)
    assert chosen((2, 96, 55, 55), 256, 5, 2) and not chosen((1, 96, 55, 55), 256, 5, 2)
    assert chosen((1, 64, 56, 56), 64) and not chosen((1, 512, 14, 14), 512)
    assert not chosen((32, 16, 27, 27), 64) and not chosen((32, 64, 27, 27), 16)
    assert not chosen((0, 256, 13, 13), 384)


def test_it_is_not_chosen_for_what_it_cannot_do(monkeypatch):
    monkeypatch.setattr(choose, "EXACT", False)
    large = (32, 128, 28, 28)
    assert chosen(large, 128)
    for other in ({"group": 16}, {"dilation": 2}, {"stride": 2}, {"kernel": 7}, {"kernel": 1}, {"dtype": np.float64}):
        assert not chosen(large, 128, **other)
    monkeypatch.setattr(choose, "EXACT", True)
    assert not chosen(large, 128)


def test_the_order_of_the_kernels(monkeypatch):
    """The choice, and the next one if oneDNN declines."""
    monkeypatch.setattr(choose, "EXACT", False)

    def kernels(kind, channels, outputs, kernel=3, group=1, onednn=True, batch=8, y=None, weight=None):
        x, whole = (np.empty((batch, 28, 28, c), np.float32) for c in (channels, outputs))
        plain = np.empty((outputs, channels // group, kernel, kernel), np.float32)
        geometry = Geometry((kernel, kernel), (1, 1), (kernel // 2,) * 2, (1, 1), group)
        return choose.choose(kind, x, whole if y is None else y, plain if weight is None else weight, geometry, onednn)

    for kind in ("forward", "backward_data", "backward_weights"):
        assert kernels(kind, 128, 128) == ("winograd", "winograd")
        assert kernels(kind, 128, 128, onednn=False) == ("winograd", "winograd")
        assert kernels(kind, 64, 64, 3, 64) == ("onednn", "depthwise")
        assert kernels(kind, 64, 64, 3, 64, False) == ("depthwise", "depthwise")
        assert kernels(kind, 64, 64, 1, 2) == ("onednn", "im2row")
    assert kernels("forward", 128, 128, 1) == kernels("backward_data", 128, 128, 1) == ("onednn", "im2row")
    assert kernels("backward_weights", 128, 128, 1) == ("im2row", "im2row")
    assert kernels("backward_weights", 128, 128, group=2) == ("onednn", "winograd")
    assert kernels("forward", 128, 128, 1, batch=0) == ("im2row", "im2row")
    part = np.empty((8, 28, 28, 160), np.float32)[..., :128]
    assert kernels("forward", 128, 128, 1, y=part) == ("im2row", "im2row")      # oneDNN writes whole images only
    weight = np.asfortranarray(np.empty((128, 64, 1, 1), np.float32))
    assert kernels("forward", 64, 128, 1, weight=weight) == ("im2row", "im2row")


@pytest.mark.parametrize("value, exact", [(None, False), ("", False), ("0", False), ("1", True)])
def test_the_environment_turns_it_off(value, exact):
    environment = {name: setting for name, setting in os.environ.items() if name != "SPP_EXACT"}
    if value is not None:
        environment["SPP_EXACT"] = value
    code = "from spp.backend.host.convolution import choose; print(choose.EXACT)"
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) == f"{exact}\n"
