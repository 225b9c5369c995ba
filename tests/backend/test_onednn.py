"""oneDNN's convolutions and products: against our own kernels; weights that change."""
import gc
import threading
import tracemalloc
from typing import Any

import numba
import numpy as np
import pytest

import convolutions
import inner_products
from convolutions import arrays, assert_near, geometry_of, identity, scaled
from onednn_cases import CASE, CASES, GROUPED, needs_library, without
from spp.backend.host import convolution_forward, inner_product_forward, onednn
from spp.backend.host.cache import Cache
from spp.backend.host.convolution import choose, winograd
from spp.backend.host.onednn import convolution as onednn_convolution
from spp.backend.host.onednn import library as onednn_library
from spp.backend.host.onednn import weight_copies
from spp.backend.types import Epilogue, Geometry
from spp.ops import convolution


def has_avx512():
    image, weight = np.zeros((1, 9, 9, 16), np.float32), np.zeros((16, 16, 1, 1), np.float32)
    plan = onednn.plan("forward", image, image, weight, Geometry((1, 1), (1, 1), (0, 0), (1, 1)))
    return plan is not None and "avx512" in plan.onednn.implementation(plan.description)


# Another processor has other code, which may not do all of these shapes.
needs_avx512 = pytest.mark.skipif(not has_avx512(), reason='needs oneDNN (pip install "spp[onednn]") and AVX-512')


@pytest.fixture
def calls(monkeypatch):
    """The names of oneDNN's functions that were called; Winograd's algorithm is off."""
    names: list[str] = []
    monkeypatch.setattr(choose, "EXACT", True)
    for name in ("forward", "backward_data", "backward_weights"):
        monkeypatch.setattr(onednn.Plan, name, noting(names, name, getattr(onednn.Plan, name)))
    monkeypatch.setattr(onednn, "product", noting(names, "product", onednn.product))
    return names


def noting(names, name, function):
    def noted(*args, **more):
        names.append(name)
        return function(*args, **more)
    return noted


def last(array):
    """The same values, channels-last in memory."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def forward(case, x, weight, bias, **more):
    y = np.full(arrays(case)[3].shape, np.nan, np.float32)
    convolution_forward(last(x), weight, y, geometry_of(case), Epilogue(bias, **more))
    return y


@needs_library
@pytest.mark.parametrize("case", CASES, ids=identity)
def test_convolution_equals_our_kernels(case, calls, monkeypatch):
    inputs = arrays(case, np.float32)
    reference = without(monkeypatch, convolutions.computed, case, *inputs)
    assert not calls
    assert_near(convolutions.computed(case, *inputs), reference, 1e-5)


@needs_avx512
@pytest.mark.parametrize("case", CASES[-8:], ids=identity)
def test_onednn_computes_the_usual_shapes(case, calls):
    x, weight, bias, dy = arrays(case, np.float32)
    convolutions.computed(case, x, weight, bias, dy)
    assert calls[0] == "forward"
    assert ("backward_data" in calls) == (case[3][0] == case[3][1])     # not done for two strides
    assert ("backward_weights" in calls) == (case[6] > 1)


@needs_avx512
@pytest.mark.parametrize("case", CASES[-8:], ids=identity)
def test_relu_in_the_same_pass(case, calls):
    x, weight, bias, _ = arrays(case, np.float32)
    x[0, 0, 3, 3] = np.nan
    plain, rectified = forward(case, x, weight, bias), forward(case, x, weight, bias, relu=True)
    assert calls == ["forward", "forward"] and np.isnan(plain).any() and (plain < 0).any()
    np.testing.assert_array_equal(rectified, np.maximum(plain, 0))
    assert not np.signbit(rectified[rectified == 0]).any()
    bias[-1] = np.inf
    assert np.isposinf(forward(case, np.nan_to_num(x), weight, bias, relu=True)[:, -1]).all()


@needs_avx512
@pytest.mark.parametrize("case", CASES[-8:], ids=identity)
def test_scale_and_shift_in_the_same_pass(case, calls):
    x, weight, bias, dy = arrays(case, np.float32)
    x[0, 0, 3, 3] = np.nan
    for relu in (False, True):
        results, reference = scaled(case, (x, weight, bias, dy), relu)
        np.testing.assert_allclose(results, reference, 0, 1e-5 * np.nanmax(np.abs(reference)))
        assert np.isnan(reference).any() and np.isfinite(reference).any()
    assert calls == ["forward"] * 2


# as in convolutions.py; whether Winograd's algorithm computes it
SLICES = [
    (((2, 16, 21, 18), 64, (1, 1), (1, 1), (0, 0), (1, 1), 1), False),
    (((2, 16, 21, 18), 64, (3, 3), (1, 1), (1, 1), (1, 1), 1), True),
    (((1, 64, 13, 11), 48, (3, 3), (1, 1), (1, 1), (1, 1), 1), True),
    (((2, 20, 12, 19), 50, (5, 5), (3, 3), (0, 0), (1, 1), 1), False),
    (GROUPED, False),
    (CASES[-1], False),
]


@needs_avx512
@pytest.mark.parametrize("case, by_winograd", SLICES)
def test_a_slice_of_channels(case, by_winograd, monkeypatch):
    monkeypatch.setattr(choose, "EXACT", False)
    names: list[str] = []
    monkeypatch.setattr(winograd, "forward", noting(names, "winograd", winograd.forward))
    x, weight, bias, dy = arrays(case, np.float32)
    scale, shift = (np.linspace(first, last, len(weight), dtype=np.float32) for first, last in ((-1.3, 2), (3, -2)))
    variants: Any = {}, {"relu": True, "scale": scale, "shift": shift}
    for more in variants:
        reference = forward(case, x, weight, bias, **more)
        for before, after in ((3, 5), (0, 16), (16, 0)):
            names.clear()
            total = np.full((len(dy), *dy.shape[2:], before + len(weight) + after), 7, np.float32)
            y = total[..., before:before + len(weight)].transpose(0, 3, 1, 2)
            convolution_forward(last(x), weight, y, geometry_of(case), Epilogue(bias, **more))
            np.testing.assert_allclose(y, reference, 0, 2e-5 * np.abs(reference).max())
            assert (total[..., :before] == 7).all() and (total[..., before + len(weight):] == 7).all()
            assert names == ["winograd"] * by_winograd


@needs_avx512
def test_without_bias_and_any_order_of_memory(calls):
    x, weight, bias, _ = arrays(CASE, np.float32)
    reference = forward(CASE, x, weight, 0 * bias)
    np.testing.assert_array_equal(forward(CASE, x, weight, None), reference)
    fortran = np.asfortranarray(weight)
    np.testing.assert_allclose(forward(CASE, x, fortran, None), reference, 0, 1e-5 * np.abs(reference).max())
    assert calls == ["forward", "forward"]      # weights of another order are not


@needs_avx512
def test_gradients_of_parameters_are_added(calls):
    x, weight, bias, dy = arrays(GROUPED, np.float32)
    dweight, dbias = np.zeros_like(weight), np.zeros_like(bias)
    for total in (dbias, None):
        convolution.backward_weights(last(x), last(dy), dweight, total, geometry_of(GROUPED))
    once = convolutions.computed(GROUPED, x, weight, bias, dy)
    assert calls.count("backward_weights") == 3
    np.testing.assert_allclose(dweight, 2 * once[2], 0, 1e-5 * np.abs(dweight).max())
    np.testing.assert_allclose(dbias, once[3], 0, 1e-5 * np.abs(dbias).max())


@needs_avx512
def test_weights_changed_in_place_are_detected(calls, monkeypatch):
    x, weight, bias, _ = arrays(CASE, np.float32)
    reorders: list[str] = []
    monkeypatch.setattr(onednn_library.Primitive, "__call__", noting(reorders, "", onednn_library.Primitive.__call__))
    first = forward(CASE, x, weight, bias)
    assert len(reorders) == 2           # reorder and compute
    np.testing.assert_array_equal(forward(CASE, x, weight, bias), first)
    assert len(reorders) == 3           # compute alone
    weight[7, 3, 1, 2] += 1
    changed = forward(CASE, x, weight, bias)
    reference = without(monkeypatch, forward, CASE, x, weight, bias)
    np.testing.assert_allclose(changed, reference, 0, 1e-5 * np.abs(reference).max())
    assert np.abs(changed[:, 7] - first[:, 7]).max() > 0.1 and len(reorders) == 5
    weight *= -1
    np.testing.assert_allclose(forward(CASE, x, weight, -bias), -changed, 0, 1e-5 * np.abs(reference).max())


@needs_avx512
@pytest.mark.parametrize("is_slice", [False, True])
def test_changed_weights_are_detected_by_kernels_that_cache_them(is_slice, monkeypatch):
    """Winograd's transformed weights, and im2row's in another order, are cached too."""
    monkeypatch.setattr(choose, "EXACT", False)
    case: Any = ((1, 64, 28, 28), 64, *([(5, 3), (1, 2)] if is_slice else [(3, 3), (1, 1)]), (1, 1), (1, 1), 1)
    x, weight, bias, dy = arrays(case, np.float32)
    transforms: list[str] = []
    monkeypatch.setattr(weight_copies._Copy, "fill", noting(transforms, "", weight_copies._Copy.fill))
    y = np.empty((*dy.shape[:1], *dy.shape[2:], 64 + 16 * is_slice), np.float32)[..., :64].transpose(0, 3, 1, 2)
    for change, filled in ((0, 1), (0, 1), (1, 2), (0, 2)):
        weight[7, 3, 1, 2] += change
        convolution_forward(last(x), weight, y, geometry_of(case), Epilogue(bias))
        reference = without(monkeypatch, forward, case, x, weight, bias)
        np.testing.assert_allclose(y, reference, 0, 2e-5 * np.abs(reference).max())
        assert len(transforms) == filled


@needs_avx512
def test_one_copy_for_each_weight_as_long_as_it_exists(calls):
    x, weight, bias, _ = arrays(CASE, np.float32)
    other, wide = weight[::-1].copy(), np.concatenate([x, x], 3)
    copies = weight_copies._local.copies
    gc.collect()
    before = len(copies)
    one, two = forward(CASE, x, weight, bias), forward(CASE, x, other, bias[::-1].copy())
    np.testing.assert_allclose(two[:, ::-1], one, 0, 1e-5 * np.abs(one).max())
    larger = (wide.shape, *CASE[1:])
    np.testing.assert_allclose(forward(larger, wide, weight, bias)[..., :2], one, 0, 1e-4)
    np.testing.assert_array_equal(forward(CASE, x, weight, bias), one)
    assert len(copies) == before + 2
    del weight, other
    gc.collect()
    assert len(copies) == before


def test_any_change_of_the_weights_changes_their_hash():
    rng = np.random.default_rng(0)
    for size in (1, 2, 63, 64, 65, 321, 300001):
        weight = rng.normal(size=size).astype(np.float32)
        hashes = {weight_copies.content_hash(weight)}
        assert weight_copies.content_hash(weight.copy()) in hashes
        for i in {0, 1, size // 3, size // 2, size - 2, size - 1} & set(range(size)):
            changed = weight.copy()
            for bit in (0, 1, 22, 23, 31):
                changed.view(np.uint32)[i] = weight.view(np.uint32)[i] ^ np.uint32(1 << bit)
                hashes.add(weight_copies.content_hash(changed))
        bits = 5 * len({0, 1, size // 3, size // 2, size - 2, size - 1} & set(range(size)))
        assert len(hashes) == 1 + bits
        hashes.add(weight_copies.content_hash(-weight))
        hashes.add(weight_copies.content_hash(np.zeros_like(weight)))
        assert len(hashes) == 3 + bits - (size == 1)      # its sign was one of the bits
        if size > 1:
            assert weight_copies.content_hash(weight[::-1].copy()) not in hashes


@needs_avx512
def test_the_oldest_shape_is_dropped(calls, monkeypatch):
    plans: Any = Cache(2)
    monkeypatch.setattr(onednn_convolution, "_plans", plans)
    for width in (9, 10, 11, 9):
        case = (2, 16, 8, width), *CASE[1:3], (1, 1), (1, 1), (1, 1), 1
        inputs = arrays(case, np.float32)
        assert_near([forward(case, *inputs[:3])], without(monkeypatch, convolutions.computed, case, *inputs), 1e-5)
    assert [key[1][0][2] for key in plans.values] == [11, 9] and calls == ["forward"] * 4


@needs_library
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("n, inputs, outputs", inner_products.SIZES)
def test_inner_product_equals_our_kernels(n, inputs, outputs, transpose, calls, monkeypatch):
    operands = inner_products.arrays(n, inputs, outputs, transpose, np.float32)
    reference = without(monkeypatch, inner_products.computed, operands, transpose)
    assert not calls
    inner_products.assert_near(inner_products.computed(operands, transpose), reference, 1e-5)
    assert calls == ["product"] * ((n > 1) + ((inputs if transpose else outputs) > 1)) * (n * inputs > 0)


@needs_library
def test_onednn_never_computes_float64(calls):
    convolutions.computed(CASE, *arrays(CASE))
    inner_products.computed(inner_products.arrays(3, 5, 4, False), False)
    assert not calls


@needs_avx512
def test_results_repeat_whatever_the_python_thread_and_are_near_for_any_number_of_threads(calls):
    inputs = arrays(GROUPED, np.float32)
    several = convolutions.computed(GROUPED, *inputs)
    results = []
    workers = [threading.Thread(target=lambda: results.append(convolutions.computed(GROUPED, *inputs)))
               for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for again in (*results, convolutions.computed(GROUPED, *inputs)):
        assert all(np.array_equal(a, s) for a, s in zip(again, several))
    assert len(results) == 3 and calls.count("forward") == 5
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        assert_near(convolutions.computed(GROUPED, *inputs), several, 1e-5)
    finally:
        numba.set_num_threads(threads)


@needs_avx512
def test_a_second_call_allocates_nothing(calls):
    x, weight, bias, dy = arrays(GROUPED, np.float32)
    x, dy = last(x), last(dy)
    y, dx, dweight, dbias = dy.copy(order="K"), x.copy(order="K"), weight.copy(), bias.copy()

    def work():
        convolution.forward(x, weight, y, geometry_of(GROUPED), Epilogue(bias))
        convolution.backward_data(dy, weight, dx, geometry_of(GROUPED))
        convolution.backward_weights(x, dy, dweight, dbias, geometry_of(GROUPED))

    work()
    tracemalloc.start()
    try:
        work()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        work()
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert len(calls) == 9 and peak < 10_000


def test_inner_product_forward_is_not_computed_by_onednn(calls):
    x, weight, bias, dy = inner_products.arrays(3, 5, 4, False, np.float32)
    inner_product_forward(x, weight, dy, False, Epilogue(bias))
    assert not calls
