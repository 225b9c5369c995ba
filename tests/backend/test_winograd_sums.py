"""Winograd's gradient of the weights with oneDNN's sums of products, in blocks for each thread or in large batches."""
import numba
import numpy as np
import pytest

from convolutions import arrays, computed, identity
from spp.backend.host.onednn import products as onednn_products
from spp.backend.host.convolution import winograd
from spp.backend.host.onednn.library import library
from spp.backend.host.scratch import scratch

pytestmark = pytest.mark.skipif(library() is None or winograd.EXACT,
                                reason="oneDNN is not installed, or SPP_ONEDNN=0 or SPP_EXACT=1 is set")
CASES = [       # input N x C x H x W, outputs, kernel, stride, pad, dilation, group
    ((3, 24, 21, 18), 40, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((2, 17, 22, 19), 24, (5, 5), (2, 2), (2, 0), (1, 1), 1),
    ((2, 33, 13, 14), 31, (5, 5), (1, 1), (2, 1), (1, 1), 1),
    ((3, 48, 15, 13), 64, (3, 3), (1, 1), (0, 2), (1, 1), 2),
]
each_case = pytest.mark.parametrize("case", CASES, ids=identity)


def last(image):
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1))


def gradient(case, x, weight, dy):
    """Added to 1, with what was in the buffers before not a number."""
    for name in ("v", "m", "u"):
        scratch(f"winograd.{name}", (1 << 20,), np.float32)[:] = np.nan
    dweight = np.ones_like(weight)
    _, _, kernel, stride, pad, dilation, group = case
    winograd.backward_weights(last(x), last(dy), dweight, (*kernel, *stride, *pad, *dilation), group)
    return dweight


def exact(case, given):
    """The gradient in float64, by the direct sums, added to 1."""
    return computed(case, *(array.astype(np.float64) for array in given))[2] + 1


@each_case
@pytest.mark.parametrize("sums, block, batch", [(1 << 30, 1, 1), (1 << 30, 1 << 30, 1), (0, 1, 1), (0, 1, 1 << 30)],
                         ids=["small blocks", "one block a thread", "small batches", "one batch"])
def test_values(case, sums, block, batch, monkeypatch):
    monkeypatch.setattr(winograd, "SUMS_BYTES", sums)
    monkeypatch.setattr(winograd, "BLOCK_BYTES", block)
    monkeypatch.setattr(winograd, "BATCH_BYTES", batch)
    made: list[tuple[int, ...]] = []
    real = onednn_products.sums_of

    def sums_of(*shape):
        made.append(shape)
        return real(*shape)

    monkeypatch.setattr(onednn_products, "sums_of", sums_of)
    x, weight, bias, dy = given = arrays(case, np.float32)
    wanted = exact(case, given)
    found = gradient(case, x, weight, dy)
    np.testing.assert_allclose(found, wanted, 0, 2e-5 * np.abs(wanted).max())
    calls, count = (numba.get_num_threads(), 36) if sums else (36, 1)
    assert [shape[:2] for shape in made] == [(calls, count)] * case[-1]
    np.testing.assert_array_equal(gradient(case, x, weight, dy), found)     # to the bit


@pytest.mark.parametrize("sums", [0, 1 << 30])
def test_one_thread(sums, monkeypatch):
    monkeypatch.setattr(winograd, "SUMS_BYTES", sums)
    x, weight, bias, dy = given = arrays(CASES[0], np.float32)
    wanted = exact(CASES[0], given)
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        found = gradient(CASES[0], x, weight, dy)
    finally:
        numba.set_num_threads(before)
    np.testing.assert_allclose(found, wanted, 0, 2e-5 * np.abs(wanted).max())


def test_it_is_chosen_for_few_tiles_and_channels_too():
    def pays(count, channels, side, outputs, kind="backward_weights"):
        shape = count, side, side
        return winograd.pays(np.empty((*shape, channels), np.float32), np.empty((*shape, outputs), np.float32),
                             np.empty((outputs, channels, 3, 3), np.float32), (3, 3, 1, 1, 1, 1, 1, 1), 1, kind)

    assert pays(32, 512, 7, 512) and not pays(32, 512, 7, 512, "backward_data")
    assert pays(32, 16, 55, 64) and not pays(32, 16, 55, 64, "backward_data")
    assert not pays(1, 512, 7, 512) and not pays(32, 8, 55, 16)
