"""SPP: the paper's bins and Caffe's, against loops, the reference and the layers they stand for."""
import numpy as np
import pytest

from one_layer import OneLayer, assert_golden, assert_gradient, distinct, in_orders
from spp.backend.types import Bins
from spp.errors import NetError
from spp.ops import pooling, spp
from spp.proto.text import parse_net

# map: {n: (window, stride, number of windows they give, cells they cover)} (Sec. 2.3)
SLIDING = {
    13: {6: (3, 2, 6, 13), 4: (4, 3, 4, 13), 3: (5, 4, 3, 13), 2: (7, 6, 2, 13), 1: (13, 13, 1, 13)},
    18: {6: (3, 3, 6, 18), 4: (5, 4, 4, 17), 3: (6, 6, 3, 18), 2: (9, 9, 2, 18), 1: (18, 18, 1, 18)},
    10: {6: (2, 1, 9, 10), 4: (3, 2, 4, 9), 3: (4, 3, 3, 10), 2: (5, 5, 2, 10), 1: (10, 10, 1, 10)},
}


def appendix_a(a, n):
    """Bins with 1-based i as the paper writes them, in exact arithmetic of their own."""
    return [((i - 1) * a // n, i * a // n + (i * a % n > 0)) for i in range(1, n + 1)]


def text(levels, more=""):
    return f"type: 'SPP' spp_param {{ {' '.join(f'bins: {n}' for n in levels)} {more} }}"


@pytest.mark.parametrize("a, n", [(a, n) for a in SLIDING for n in SLIDING[a]])
def test_windows_of_the_papers_maps(a, n):
    window, stride, count, covered = SLIDING[a][n]
    starts = range(0, a - window + 1, stride)
    assert (-(-a // n), a // n, len(starts), starts[-1] + window) == (window, stride, count, covered)
    sliding = [(start, start + window) for start in starts]
    assert spp.is_exact(a, n) == (count == n and covered == a)
    if spp.is_exact(a, n):
        assert spp.bins(a, n) == spp.bins(a, n, "SLIDING") == spp.bins(a, n, "APPENDIX_A") == sliding
    else:
        assert spp.bins(a, n) == spp.bins(a, n, "APPENDIX_A") != sliding
        assert (a, n) in {(18, 4), (10, 6), (10, 4)}


def test_figure_4():
    # 13 x 13 map: pool3x3 sizeX 5 stride 4, pool2x2 sizeX 7 stride 6, pool1x1 sizeX 13 stride 13
    assert spp.bins(13, 3) == [(0, 5), (4, 9), (8, 13)]
    assert spp.bins(13, 2) == [(0, 7), (6, 13)]
    assert spp.bins(13, 1) == [(0, 13)]


def test_sliding_windows_are_appendix_a_bins_wherever_they_are_exact():
    exact = 0
    for a in range(1, 65):
        for n in range(1, 9):
            rule = appendix_a(a, n)
            assert spp.bins(a, n, "APPENDIX_A") == spp.bins(a, n, "AUTO") == rule
            window, stride = -(-a // n), a // n
            sliding = [(s, s + window) for s in range(0, a - window + 1, stride)] if stride else []
            assert spp.is_exact(a, n) == (len(sliding) == n and sliding[-1][1] == a)
            if spp.is_exact(a, n):
                exact += 1
                assert sliding == rule == spp.bins(a, n, "SLIDING")
    assert exact == 64 + 63 + sum(a % n in (0, 1) and a >= n for a in range(1, 65) for n in range(3, 9))


def test_bins_cover_the_map_and_are_never_empty():
    for a in range(1, 65):
        for n in range(1, 9):
            intervals = spp.bins(a, n)
            assert len(intervals) == n and intervals[0][0] == 0 and intervals[-1][1] == a
            assert all(start < end for start, end in intervals)
            assert all(left[0] <= right[0] <= left[1] <= right[1] for left, right in zip(intervals, intervals[1:]))
    assert spp.bins(4, 6) == [(0, 1), (0, 2), (1, 2), (2, 3), (2, 4), (3, 4)]
    assert spp.bins(1, 3) == [(0, 1)] * 3


@pytest.mark.parametrize("a, n, numbers", [
    (10, 6, r"ceil\(10/6\) = 2 with stride floor\(10/6\) = 1; that gives 9 windows, not 6"),
    (7, 4, r"ceil\(7/4\) = 2 with stride floor\(7/4\) = 1; that gives 6 windows, not 4"),
    (4, 6, r"ceil\(4/6\) = 1 with stride floor\(4/6\) = 0; that gives 0 windows, not 6")])
def test_sliding_windows_that_are_not_n(a, n, numbers):
    message = f"bin_rule SLIDING: {n} bins of a map of {a} mean windows of {numbers}; use bin_rule: AUTO"
    with pytest.raises(NetError, match=message):
        spp.bins(a, n, "SLIDING")
    with pytest.raises(NetError, match=f"{n} bins of a map of {a}"):
        OneLayer(text([n], "bin_rule: SLIDING"), (1, 2, 12 * n, a))


def test_sliding_windows_that_end_before_the_border():
    assert spp.bins(18, 4, "SLIDING") == [(0, 5), (4, 9), (8, 13), (12, 17)]
    x = distinct((1, 1, 18, 18))
    x[0, 0, 17, 17] = 99
    assert OneLayer(text([4], "bin_rule: SLIDING"), x.shape).forward(x).max() < 99
    assert OneLayer(text([4]), x.shape).forward(x).max() == 99


@pytest.mark.parametrize("levels, total", [
    ((6, 3, 2, 1), 50), ((4, 3, 2, 1), 30), ((3, 2, 1), 14), ((4, 2, 1), 21)])
def test_numbers_of_bins(levels, total):
    for height, width in (13, 13), (10, 10), (18, 18), (5, 17), (2, 3):
        one = OneLayer(text(levels), (2, 3, height, width))
        assert one.top[0].shape == (2, 3 * total)
        counts, regions, areas = spp.pyramid_regions(height, width, levels)
        assert counts == [n * n for n in levels] and len(regions) == len(areas) == total


@pytest.mark.parametrize("levels", [(6, 3, 2, 1), (1, 2, 3, 6), (4,), (1,)])
@pytest.mark.parametrize("height, width", [(13, 13), (10, 7), (4, 9), (1, 2)])
@pytest.mark.parametrize("method, pool, dtype, tolerance", [
    ("MAX", np.max, np.float64, 0), ("AVE", np.mean, np.float64, 1e-13), ("MAX", np.max, np.float32, 1e-7)])
def test_layer_against_loops(levels, height, width, method, pool, dtype, tolerance):
    x = distinct((2, 3, height, width))
    dy = distinct((2, 3 * sum(n * n for n in levels)), seed=1)
    expected: list[list[float]] = [[] for _ in x]
    dx = np.zeros(x.shape)
    for image in range(2):
        for n in levels:
            for c in range(3):
                for top, bottom in appendix_a(height, n):
                    for left, right in appendix_a(width, n):
                        part = x[image, c, top:bottom, left:right]
                        gradient = dy[image, len(expected[image])]
                        share = part == part.max() if method == "MAX" else np.full(part.shape, 1 / part.size)
                        dx[image, c, top:bottom, left:right] += gradient * share
                        expected[image].append(pool(part))
    one = OneLayer(text(levels, f"pool: {method}"), x.shape, dtype=dtype)
    np.testing.assert_allclose(one.forward(x), expected, tolerance, tolerance)
    np.testing.assert_allclose(one.backward(dy), dx, max(tolerance, 1e-12), 20 * max(tolerance, 1e-14))


def pooling_layers(sizes):
    """The prototxt of what an SPP layer stands for: a Pooling and a Flatten for each size, and a Concat."""
    parts = [f"""layer {{ name: 'p{i}' type: 'Pooling' bottom: 'x' top: 'p{i}'
                          pooling_param {{ pool: METHOD kernel_size: {kernel} stride: {stride} }} }}
                 layer {{ name: 'f{i}' type: 'Flatten' bottom: 'p{i}' top: 'f{i}' }}"""
             for i, (kernel, stride) in enumerate(sizes)]
    bottoms = " ".join(f"bottom: 'f{i}'" for i in range(len(sizes)))
    return "\n".join(parts) + f" layer {{ name: 'c' type: 'Concat' {bottoms} top: 'y' }}"


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("size, levels, sizes", [
    (13, (3, 2, 1), [(5, 4), (7, 6), (13, 13)]),                # Fig. 4
    (13, (6, 3, 2, 1), [(3, 2), (5, 4), (7, 6), (13, 13)]),
    (18, (6, 3, 2, 1), [(3, 3), (6, 6), (9, 9), (18, 18)]),
    (10, (1, 2, 3), [(10, 10), (5, 5), (4, 3)])])
def test_equals_pooling_layers_and_a_concat(method, size, levels, sizes):
    from spp.net import Net
    start = (f"force_backward: true layer {{ name: 'in' type: 'Input' top: 'x' "
             f"input_param {{ shape {{ dim: 2 dim: 5 dim: {size} dim: {size} }} }} }} ")
    pyramid = start + f"layer {{ name: 's' bottom: 'x' top: 'y' {text(levels, f'pool: {method}')} }}"
    composed = start + pooling_layers(sizes).replace("METHOD", method)
    x, results = distinct((2, 5, size, size)), []
    for net in (Net(parse_net(source), dtype=np.float64) for source in (pyramid, composed)):
        y = net.forward(x=x)["y"].copy()
        net.blobs["y"].diff[...] = distinct(y.shape, seed=1)
        net.backward()
        results.append((y, net.blobs["x"].diff))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_allclose(results[0][1], results[1][1], 1e-12, 1e-14)


@pytest.mark.parametrize("case", ["1", "2", "3", "ave"])
def test_golden(case):
    assert_golden(f"spp_caffe_{case}")


@pytest.mark.parametrize("height, shape", [(1, (2, 3, 1, 1)), (2, (2, 15)), (3, (2, 63)), (4, (2, 255))])
def test_shape_of_caffes_pyramid(height, shape):
    one = OneLayer(f"type: 'SPP' spp_param {{ pyramid_height: {height} }}", (2, 3, 16, 15))
    assert one.top[0].shape == shape


def test_caffes_windows_are_its_own():
    # 13 in 4: windows of 4 with stride 4, padded by 2; Appendix A overlaps instead
    counts, regions, areas = spp.caffe_regions(13, 13, 3)
    assert counts == [1, 4, 16]
    np.testing.assert_array_equal(regions[5:9, 4:], [(0, 2), (2, 6), (6, 10), (10, 13)])
    assert areas.tolist() == [169] + [49] * 4 + [16] * 16


@pytest.mark.parametrize("spp_param, shape", [
    ("bins: 3 bins: 2", (2, 2, 5, 7)), ("bins: 6 bins: 1", (1, 2, 4, 5)),
    ("bins: 2 bins: 1 pool: AVE", (2, 2, 5, 4)), ("bins: 2 bin_rule: SLIDING", (1, 2, 5, 6)),
    ("pyramid_height: 3", (1, 2, 7, 6)), ("pyramid_height: 2 pool: AVE", (1, 2, 5, 6)),
    ("pyramid_height: 1", (2, 2, 3, 2))])
def test_gradient(spp_param, shape):
    assert_gradient(OneLayer(f"type: 'SPP' spp_param {{ {spp_param} }}", shape), distinct(shape))


def test_one_vector_length_for_maps_of_all_sizes():
    one = OneLayer(text((6, 3, 2, 1)), (2, 4, 13, 13))
    for shape in (2, 4, 10, 10), (3, 4, 11, 17), (1, 4, 3, 2), (2, 4, 13, 13):
        x = distinct(shape)
        y = one.forward(x)
        assert y.shape == (shape[0], 200)
        np.testing.assert_array_equal(y[:, -4:], x.max((2, 3)))
        dx = one.backward(np.ones(y.shape))
        assert dx.shape == shape
        np.testing.assert_allclose(dx.sum((2, 3)), 50)


def test_nan_is_seen():
    for method in "MAX", "AVE":
        x = distinct((1, 2, 13, 13))
        x[0, 1, 6, 6] = np.nan
        y = OneLayer(text((2, 1), f"pool: {method}"), x.shape).forward(x)
        np.testing.assert_array_equal(np.isnan(y[0]), [False] * 4 + [True] * 4 + [False, True])


def test_windows_of_one_map_in_one_call():
    # what detection does: the regions of many windows' pyramids in one table, in any order of memory
    x, tables, expected = distinct((1, 3, 9, 11)), [], []
    for top, left, height, width in (0, 0, 9, 11), (2, 3, 4, 5), (8, 10, 1, 1), (1, 0, 7, 2):
        _, regions, _ = spp.pyramid_regions(height, width, (3, 1))
        tables.append(regions + [0, 0, top, top, left, left])
        window = x[:, :, top:top + height, left:left + width]
        y = OneLayer(text((3, 1)), window.shape).forward(window)
        expected.append(np.concatenate([y[:, :27].reshape(1, 3, 9), y[:, 27:].reshape(1, 3, 1)], 2))
    regions = np.concatenate(tables).astype(np.int32)
    for data in in_orders(x):
        y, argmax = np.empty((1, 3, 40)), np.empty((1, 3, 40), np.int32)
        pooling.max_forward(data, regions, y, argmax)
        np.testing.assert_array_equal(y, np.concatenate(expected, 2))
        np.testing.assert_array_equal(np.take_along_axis(x.reshape(1, 3, 99), argmax, 2), y)
        without = np.empty_like(y)
        pooling.max_forward(data, regions, without, None)
        np.testing.assert_array_equal(without, y)


def test_regions_in_any_order():
    """Of other rows, of the same rows again, and of rows that are the same but for their depth."""
    x = distinct((2, 5, 3, 6, 7))
    regions = np.array([(0, 1, 0, 2, 3, 5), (0, 1, 0, 2, 0, 7), (0, 1, 0, 3, 0, 1), (0, 1, 0, 2, 6, 7),
                        (0, 2, 0, 2, 1, 6), (1, 2, 0, 2, 1, 6), (1, 2, 5, 6, 2, 3), (0, 3, 0, 6, 0, 7)], np.int32)
    y, mean = np.empty((2, 2, 5, len(regions)))
    pooling.max_forward(x, regions, y, None)
    pooling.average_forward(x, regions, np.arange(1, 9, dtype=np.int32), mean)
    for b, (z0, z1, y0, y1, x0, x1) in enumerate(regions):
        region = x[:, :, z0:z1, y0:y1, x0:x1]
        np.testing.assert_array_equal(y[..., b], region.max((2, 3, 4)))
        np.testing.assert_allclose(mean[..., b], region.sum((2, 3, 4)) / (b + 1), 1e-13)


@pytest.mark.parametrize("spp_param, message", [
    ("", "spp_param needs either bins .* or Caffe's pyramid_height, found neither"),
    ("bins: 2 pyramid_height: 2", "spp_param needs either bins .* or Caffe's pyramid_height, found both"),
    ("bins: 3 bins: 0", "bins must be at least 1, found 3, 0"),
    ("pyramid_height: 0", "pyramid_height must be at least 1, found 0"),
    ("pyramid_height: 2 bin_rule: AUTO", "bin_rule goes with bins; pyramid_height has Caffe's own rule"),
    ("bins: 2 pool: STOCHASTIC", "spp_param's pool must be MAX or AVE, found STOCHASTIC"),
    ("pyramid_height: 3", "pyramid_height 3: 4 windows of 2 on a map of 5 need a pad of 2, and a pad must be "
                          "smaller than its window; use a lower pyramid_height, or bins"),
])
def test_errors(spp_param, message):
    with pytest.raises(NetError, match=message):
        OneLayer(f"type: 'SPP' spp_param {{ {spp_param} }}", (1, 2, 5, 7))


def test_needs_a_map():
    with pytest.raises(NetError, match=r"needs a bottom of N x C x H x W, found shape \(2, 3, 4\)"):
        OneLayer(text([2]), (2, 3, 4))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("levels", [(6, 3, 2, 1), (1,), (2, 6, 4, 12), (3, 5)])
def test_windows_are_pooled_as_maps_of_their_size(levels, dtype):
    rng = np.random.default_rng(0)
    x = rng.permutation(2 * 5 * 19 * 23).reshape(2, 5, 19, 23).astype(dtype)
    corners = np.sort(rng.integers(0, (20, 24), (40, 2, 2)), 1)
    windows = np.stack([corners[:, 0, 0], corners[:, 1, 0], corners[:, 0, 1], corners[:, 1, 1]], 1)
    windows = windows[(windows[:, 1] > windows[:, 0]) & (windows[:, 3] > windows[:, 2])]
    windows[:2] = [[0, 19, 0, 23], [18, 19, 22, 23]]
    image = rng.integers(0, 2, len(windows)).astype(np.int32)
    rows, columns = spp.window_bins(windows, levels)
    shape = len(windows), 5, sum(n * n for n in levels)
    for x_, y in zip(in_orders(x), in_orders(np.full((*shape, 1), np.nan, dtype))):
        spp.windows_forward(x_, Bins(image, rows, columns), levels, y[..., 0])
        for r, (y0, y1, x0, x1) in enumerate(windows):
            window = x[image[r], :, y0:y1, x0:x1]
            _, regions, _ = spp.pyramid_regions(y1 - y0, x1 - x0, levels)
            maxima = [window[:, top:bottom, left:right].max((1, 2)) for _, _, top, bottom, left, right in regions]
            np.testing.assert_array_equal(y[r, :, :, 0], np.transpose(maxima))


def test_a_nan_wins_all_bins_of_a_window_that_it_is_in():
    x = np.zeros((1, 2, 12, 12))
    x[0, 1, 7, 2] = np.nan
    levels = 6, 3, 2, 1
    y = np.empty((1, 2, 50))
    bins = Bins(np.zeros(1, np.int32), *spp.window_bins(np.array([[0, 12, 0, 12]]), levels))
    spp.windows_forward(x, bins, levels, y)
    assert not np.isnan(y[0, 0]).any()
    assert np.flatnonzero(np.isnan(y[0, 1])).tolist() == [3 * 6 + 1, 36 + 3, 45 + 2, 49]
