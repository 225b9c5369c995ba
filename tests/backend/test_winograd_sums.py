"""Winograd's gradient of the weights with oneDNN's sums of products, in blocks for each thread or in large batches."""
import numba
import numpy as np
import pytest

from convolutions import arrays, computed, geometry_of, identity
from spp.backend.host import onednn
from spp.backend.host.convolution import choose, winograd
from spp.backend.host.scratch import scratch
from spp.backend.types import Geometry

pytestmark = pytest.mark.skipif(not onednn.available() or choose.EXACT,
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
    """The gradient added to 1; the buffers hold NaN before."""
    for name in ("v", "m", "u"):
        scratch(f"winograd.{name}", (1 << 20,), np.float32)[:] = np.nan
    dweight = np.ones_like(weight)
    winograd.backward_weights(last(x), last(dy), dweight, None, geometry_of(case))
    return dweight


def exact(case, inputs):
    """The gradient in float64, by the direct sums, added to 1."""
    return computed(case, *(array.astype(np.float64) for array in inputs))[2] + 1


@each_case
@pytest.mark.parametrize("sums, block, batch", [(1 << 30, 1, 1), (1 << 30, 1 << 30, 1), (0, 1, 1), (0, 1, 1 << 30)],
                         ids=["small blocks", "one block a thread", "small batches", "one batch"])
def test_values(case, sums, block, batch, monkeypatch):
    monkeypatch.setattr(winograd, "SUMS_BYTES", sums)
    monkeypatch.setattr(winograd, "BLOCK_BYTES", block)
    monkeypatch.setattr(winograd, "BATCH_BYTES", batch)
    shapes: list[tuple[int, ...]] = []
    real = onednn.prepare_sums

    def prepare_sums(*shape):
        shapes.append(shape)
        return real(*shape)

    monkeypatch.setattr(onednn, "prepare_sums", prepare_sums)
    x, weight, bias, dy = inputs = arrays(case, np.float32)
    reference = exact(case, inputs)
    result = gradient(case, x, weight, dy)
    np.testing.assert_allclose(result, reference, 0, 2e-5 * np.abs(reference).max())
    calls, count = (numba.get_num_threads(), 36) if sums else (36, 1)
    assert [shape[:2] for shape in shapes] == [(calls, count)] * case[-1]
    np.testing.assert_array_equal(gradient(case, x, weight, dy), result)     # to the bit


@pytest.mark.parametrize("sums", [0, 1 << 30])
def test_one_thread(sums, monkeypatch):
    monkeypatch.setattr(winograd, "SUMS_BYTES", sums)
    x, weight, bias, dy = inputs = arrays(CASES[0], np.float32)
    reference = exact(CASES[0], inputs)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        result = gradient(CASES[0], x, weight, dy)
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_allclose(result, reference, 0, 2e-5 * np.abs(reference).max())


def test_it_is_chosen_for_few_tiles_and_channels_too():
    def pays(count, channels, side, outputs, kind="backward_weights"):
        shape = count, side, side
        x, y, weight = (np.empty(size, np.float32) for size in (
            (*shape, channels), (*shape, outputs), (outputs, channels, 3, 3)))
        kernels = choose.choose(kind, x, y, weight, Geometry((3, 3), (1, 1), (1, 1), (1, 1)), True)
        return kernels[0] == choose.WINOGRAD

    assert pays(32, 512, 7, 512) and not pays(32, 512, 7, 512, "backward_data")
    assert pays(32, 16, 55, 64) and not pays(32, 16, 55, 64, "backward_data")
    assert not pays(1, 512, 7, 512) and not pays(32, 8, 55, 16)
