"""Every kernel of kernels.cu, run on the CPU by cuda_cpu, against the host's function of the same name."""
import importlib
from typing import Any

import numpy as np
import pytest

import cuda_cpu
import emulated_cupy
from spp.backend import host
from spp.ops import pooling, resize, roi, spp

pytestmark = pytest.mark.skipif(cuda_cpu.COMPILER is None, reason=cuda_cpu.MISSING)
RELATIVE = {np.float32: 1e-6, np.float64: 1e-13}        # of an array's largest element
TESTED: set[str] = set()


@pytest.fixture(scope="module", autouse=True)
def cuda():
    with emulated_cupy.installed():
        kernels: Any = importlib.import_module("spp.backend.cuda.kernels")
        kernels.MOST_BLOCKS = 3         # so that threads and blocks have more than one element
        launch = kernels._launch

        def recorded(name, *args):
            TESTED.add(name)
            launch(name, *args)

        kernels._launch = recorded
        yield importlib.import_module("spp.backend.cuda")


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


def random(shape, dtype, seed=0):
    """Distinct values, negative ones too, of a 4-D array in one of two orders of memory."""
    values = np.random.default_rng([seed, *shape]).permutation(int(np.prod(shape))).reshape(shape)
    values = (values / values.size - 0.4).astype(dtype)
    if len(shape) == 4 and seed % 2:
        return np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return values


def on(move, value):
    """A function's argument with `move` done to the arrays in it."""
    if isinstance(value, (list, tuple)):
        return type(value)(on(move, part) for part in value)
    return move(value) if isinstance(value, np.ndarray) or hasattr(value, "get") else value


def arrays(value):
    if isinstance(value, (list, tuple)):
        return [array for part in value for array in arrays(part)]
    return [value] if isinstance(value, (np.ndarray, np.generic)) else []


def compare(cuda, name, *args, exact=False):
    """Call both backends: what is returned, and every array after the call, must be the same."""
    args = tuple(args)
    here = on(lambda array: array.copy(order="K"), args)
    there = on(cuda.from_host, args)
    expected = getattr(host, name)(*here)
    found = on(cuda.to_host, getattr(cuda, name)(*there))
    pairs = list(zip(arrays([here, expected]), arrays([on(cuda.to_host, there), found]), strict=True))
    assert pairs
    for mine, its in pairs:
        assert its.dtype == mine.dtype and its.shape == mine.shape
        if exact or mine.dtype.kind != "f":
            np.testing.assert_array_equal(its, mine)
        else:
            largest = np.abs(mine[np.isfinite(mine)]).max(initial=0)
            np.testing.assert_allclose(its, mine, 0, RELATIVE[args_type(args)] * largest)


def args_type(args):
    """The type of the numbers that a function computes with."""
    return np.float32 if any(array.dtype == np.float32 for array in arrays(args)) else np.float64


# --- elementwise

@pytest.mark.parametrize("slope", [0, 0.25, -0.5])
def test_relu(cuda, dtype, slope):
    for seed, shape in enumerate([(2, 3, 13, 11), (2, 3, 13, 11), (1000,), (0, 3)]):
        x, dy = random(shape, dtype, seed), random(shape, dtype, 3)
        if x.size:
            x.flat[:4] = np.nan, -np.inf, np.inf, 0
        compare(cuda, "relu", x, np.empty_like(x), slope, exact=True)
        compare(cuda, "relu_backward", dy, x, np.empty_like(x), slope, exact=True)
    both = cuda.from_host(x)
    cuda.relu(both, both, slope)        # in place
    np.testing.assert_array_equal(cuda.to_host(both), np.where(x > 0, x, slope * x))


# --- dropout

def test_dropout_mask(cuda, dtype):
    first, second = (cuda.xp.empty((7, 30011), dtype) for _ in range(2))
    stream = np.random.default_rng(5)
    cuda.draw_mask(stream, 0.3, 1 / 0.7, first)
    cuda.draw_mask(stream, 0.3, 1 / 0.7, second)
    one, other = cuda.to_host(first), cuda.to_host(second)
    assert set(np.unique(one)) == {dtype(0), dtype(1 / 0.7)}
    kept = one != 0
    assert abs(kept.mean() - 0.7) < 0.004       # 4 standard deviations
    assert abs(kept.reshape(-1, 7).mean(0) - 0.7).max() < 0.012
    assert abs((kept & (other != 0)).mean() - 0.49) < 0.005         # independent of each other
    assert abs((kept[:, 1:] & kept[:, :-1]).mean() - 0.49) < 0.005
    again = cuda.xp.empty((7, 30011), dtype)
    cuda.draw_mask(np.random.default_rng(5), 0.3, 1 / 0.7, again)
    np.testing.assert_array_equal(cuda.to_host(again), one)


def test_philox_gives_its_published_numbers(cuda):
    """The known answers of the generator's authors (Random123) for counter and key 0; as ratios they are exact."""
    words = np.array([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8], np.uint64) >> np.uint64(8)

    class Zero:
        def integers(self, most):
            return 0

    drawn = (words / (1 << 24)).astype(np.float32)
    for k in range(4):
        for ratio, kept in ((drawn[k], 1), (np.nextafter(drawn[k], np.float32(1)), 0)):
            mask = cuda.xp.empty(5, np.float32)
            cuda.draw_mask(Zero(), ratio, 1.0, mask)
            assert cuda.to_host(mask)[k] == kept


# --- pooling

TABLES: dict[str, Any] = {       # the shape of a map; counts, regions and areas
    "sliding": ((2, 5, 13, 10), pooling.sliding_regions((13, 10), (3, 2), (1, 0), (2, 2))),
    "overlapping": ((1, 3, 9, 14), pooling.sliding_regions((9, 14), (5, 4), (2, 1), (1, 2))),
    "line": ((2, 3, 41), pooling.sliding_regions((41,), (4,), (1,), (3,))),
    "volume": ((1, 2, 5, 6, 7), pooling.sliding_regions((5, 6, 7), (2, 3, 2), (1, 0, 1), (2, 1, 2))),
    "pyramid": ((2, 7, 13, 10), spp.pyramid_regions(13, 10, (6, 3, 2, 1))),
    "gaps": ((2, 3, 11, 8), pooling.sliding_regions((11, 8), (2, 1), (0, 0), (4, 3), ceil=False)),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("case", TABLES)
def test_pooling(cuda, dtype, case, seed):
    shape, (counts, regions, areas) = TABLES[case]
    out = shape[:2] + (tuple(counts) if case != "pyramid" else (len(regions),))
    x, dy = random(shape, dtype, seed), random(out, dtype, seed)
    y, argmax = np.empty_like(dy), np.empty_like(dy, np.int32)
    compare(cuda, "max_pool", x, regions, y, argmax, exact=True)
    compare(cuda, "average_pool", x, regions, areas, y)
    compare(cuda, "average_pool_backward", dy, regions, areas, np.empty_like(x))
    host.max_pool(x, regions, y, argmax)
    compare(cuda, "max_pool_backward", dy, argmax, regions, np.empty_like(x), exact=True)
    x = np.maximum(x, 0)
    uniform = np.random.default_rng(2).random(out).astype(dtype)
    compare(cuda, "sample_pool", x, regions, uniform, y, argmax, exact=True)


def test_pooling_of_equal_values_and_of_no_numbers(cuda):
    shape, (counts, regions, _) = TABLES["sliding"]
    x = np.random.default_rng(0).integers(0, 2, shape).astype(np.float32)
    y = np.empty(shape[:2] + counts, np.float32)
    compare(cuda, "max_pool", x, regions, y, y.astype(np.int32), exact=True)
    x[0, :, 4:6, 3:5] = np.nan
    compare(cuda, "max_pool", x, regions, y, y.astype(np.int32), exact=True)
    compare(cuda, "sample_pool", x, regions, np.zeros_like(y), y, y.astype(np.int32), exact=True)


@pytest.mark.parametrize("channels", [6, 32, 70])
def test_pooling_of_thousands_of_windows_at_once(cuda, dtype, channels):
    rng = np.random.default_rng(0)
    regions = np.zeros((1501, 6), np.int32)
    regions[:, 1] = 1
    for axis, size in enumerate((12, 17)):
        ends = np.sort(rng.integers(0, size, (1501, 2)), 1)
        regions[:, 2 + 2 * axis], regions[:, 3 + 2 * axis] = ends[:, 0], ends[:, 1] + 1
    x, y = random((2, channels, 12, 17), dtype, channels), np.empty((2, channels, 1501), dtype)
    argmax = np.empty(y.shape, np.int32)
    TESTED.discard("max_pool_by_tile")
    compare(cuda, "max_pool", x, regions, y, argmax, exact=True)
    assert "max_pool_by_tile" in TESTED
    x[:, ::2, 3:5, 6:9] = np.nan
    compare(cuda, "max_pool", x, regions, y, argmax, exact=True)
    x = random(x.shape, dtype)
    host.max_pool(x, regions, y, argmax)
    compare(cuda, "max_pool_backward", y, argmax, regions, np.empty_like(x))


def test_a_cover_lives_as_long_as_its_table(cuda):
    kept = importlib.import_module("spp.backend.cuda.pooling")._covers
    shape, (counts, regions, areas) = TABLES["sliding"]
    table, divisors = cuda.from_host(regions), cuda.from_host(areas)
    before = len(kept)
    dy, dx = cuda.xp.ones(shape[:2] + counts, np.float32), cuda.xp.empty(shape, np.float32)
    for _ in range(2):
        cuda.average_pool_backward(dy, table, divisors, dx)
        assert len(kept) == before + 1
    del table
    assert len(kept) == before


def rois(size, images):
    """Regions (image, x1, y1, x2, y2) of which some leave the map, and its numbers of bins."""
    rng = np.random.default_rng(4)
    corners = np.sort(rng.uniform(-10, 16 * max(size), (9, 2, 2)), 1).reshape(9, 4)
    corners[0] = 0, 0, 3, 2         # smaller than a bin
    corners[1] = np.array([30, 30, 40, 40]) * 16        # outside
    return np.column_stack([rng.integers(0, images, 9), corners])


@pytest.mark.parametrize("seed", [0, 1])
def test_regions_of_interest(cuda, dtype, seed):
    x = random((3, 4, 13, 10), dtype, seed)
    boxes = rois(x.shape[2:], 3).astype(dtype)
    image, (rows, columns) = boxes[:, 0].astype(np.int32), roi.max_bins(boxes, (3, 2), 1 / 16, x.shape[2:])
    y = random((9, 4, 3, 2), dtype, seed)
    argmax = np.empty_like(y, np.int32)
    compare(cuda, "roi_max_pool", x, image, rows, columns, y, argmax, exact=True)
    host.roi_max_pool(x, image, rows, columns, y.copy(), argmax)
    assert (argmax == -1).any()
    compare(cuda, "roi_max_pool_backward", y, argmax, image, np.empty_like(x))
    x[:, :, 1::3, 1::3] = np.nan
    compare(cuda, "roi_max_pool", x, image, rows, columns, y, argmax, exact=True)


@pytest.mark.parametrize("levels", [(6, 3, 2, 1), (1, 4), (2, 5)])
def test_pyramids_of_windows(cuda, dtype, levels):
    x = random((3, 4, 13, 10), dtype, 0)
    windows = np.array([[0, 13, 0, 10], [3, 4, 5, 6], [2, 9, 1, 10], [12, 13, 0, 7]])
    image, y = np.array([0, 2, 1, 0], np.int32), np.empty((4, 4, sum(n * n for n in levels)), dtype)
    compare(cuda, "roi_max_pyramid", x, image, *spp.window_bins(windows, levels), levels, y, exact=True)


@pytest.mark.parametrize("seed", [0, 1])
def test_regions_of_interest_by_groups(cuda, dtype, seed):
    x = random((2, 5 * 9, 13, 10), dtype, seed)
    boxes = rois(x.shape[2:], 2).astype(dtype)
    image, (rows, columns) = boxes[:, 0].astype(np.int32), roi.group_bins(boxes, 3, 1 / 16, x.shape[2:])
    y = random((9, 5, 3, 3), dtype, seed)
    compare(cuda, "roi_group_average", x, image, rows, columns, y)
    compare(cuda, "roi_group_average_backward", y, image, rows, columns, np.empty_like(x))


# --- local response normalisation

@pytest.mark.parametrize("size, beta", [(5, 0.75), (3, 0.6), (1, 0.75), (99, 0.5)])
@pytest.mark.parametrize("shape, seed", [((2, 19, 5, 7), 0), ((2, 19, 5, 7), 1), ((3, 6), 0), ((1, 9, 2, 3, 4), 0)])
def test_lrn_across(cuda, dtype, shape, seed, size, beta):
    x, dy = random(shape, dtype, seed), random(shape, dtype, seed + 2)
    compare(cuda, "lrn_across", x, np.empty_like(x), size, 1.0, beta, 2.0)
    compare(cuda, "lrn_across_backward", dy, x, np.empty_like(x), size, 1.0, beta, 2.0)


@pytest.mark.parametrize("size, beta", [(3, 0.75), (5, 0.6), (99, 0.75)])
@pytest.mark.parametrize("seed", [0, 1])
def test_lrn_within(cuda, dtype, seed, size, beta):
    x, dy = random((2, 3, 9, 7), dtype, seed), random((2, 3, 9, 7), dtype, seed + 2)
    compare(cuda, "lrn_within", x, np.empty_like(x), size, 1.0, beta)
    compare(cuda, "lrn_within_backward", dy, x, np.empty_like(x), size, 1.0, beta)


# --- bilinear resizing

@pytest.mark.parametrize("height, width", [(13, 22), (4, 5), (7, 1), (1, 9), (7, 9)])
@pytest.mark.parametrize("seed", [0, 1])
def test_bilinear(cuda, dtype, seed, height, width):
    x = random((2, 3, 7, 9), dtype, seed)
    rows, columns = resize.bilinear_axis(0, 7, height, dtype), resize.bilinear_axis(1, 8, width, dtype)
    y = random((2, 3, height, width), dtype, seed)
    compare(cuda, "bilinear", x, rows, columns, y)
    compare(cuda, "bilinear_backward", y, rows, columns, np.empty_like(x))


# --- channels

CHANNELS = [((3, 5, 7, 6), 1, 2), ((3, 5, 7, 6), 0, 2), ((3, 5, 7, 6), 2, 4), ((40, 9), 1, 2), ((40, 9), 1, 1),
            ((2, 3, 4, 5, 6), 1, 3), ((2, 2, 90, 60), 1, 2)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shape, first, last", CHANNELS)
def test_channels(cuda, dtype, shape, first, last, seed):
    x, z = random(shape, dtype, seed) + dtype(5), random(shape, dtype, seed + 2)
    compare(cuda, "channel_moments", x, first, last)
    compare(cuda, "channel_sums", x, first, last)
    compare(cuda, "channel_dots", x, z, first, last)
    a, shift, b, c = (np.random.default_rng(k).standard_normal(shape[first:last]) for k in range(4))
    y = np.empty_like(x)
    compare(cuda, "channel_affine", x, shift, a, b.astype(dtype), y, first, last)
    compare(cuda, "channel_affine", x, 0, a.astype(dtype), 0.5, y, first, last)
    compare(cuda, "channel_combine", x, a, z, shift, b, c, y, first, last)


def test_variance_far_from_zero(cuda):
    x = (1e4 + random((4, 2, 9, 8), np.float64)).astype(np.float32)
    _, variance = cuda.channel_moments(cuda.from_host(x), 1, 2)
    np.testing.assert_allclose(cuda.to_host(variance), x.astype(np.float64).var((0, 2, 3)), 1e-9)
    constant = cuda.xp.full((3, 2), 7, np.float32)
    assert not cuda.to_host(cuda.channel_moments(constant, 1, 2)[1]).any()
    assert not cuda.to_host(cuda.channel_sums(cuda.xp.empty((0, 2), np.float32), 1, 2)).any()


# --- softmax

@pytest.mark.parametrize("shape, axis", [((9, 1000), 1), ((3, 11, 5, 7), 1), ((3, 70, 2, 3), 1), ((5, 4, 3), 2),
                                         ((300, 7), 1), ((1, 7), 0), ((2, 3, 40, 30), 1)])
def test_softmax(cuda, dtype, shape, axis):
    rng = np.random.default_rng(0)
    x, dy = (3 * random(shape, dtype, seed) for seed in (1, 2))
    y = np.empty_like(x)
    compare(cuda, "softmax", x, y, axis)
    host.softmax(x, y, axis)
    compare(cuda, "softmax_backward", dy, y, np.empty_like(x), axis)
    samples = shape[:axis] + shape[axis + 1:]
    labels = rng.integers(0, shape[axis], samples)
    counted = rng.random(samples) < 0.8
    compare(cuda, "softmax_loss", y, labels, axis, counted, 1e-20)
    compare(cuda, "softmax_loss_backward", y, labels, axis, counted, 0.3, np.empty_like(x))


def test_softmax_loss_of_extremes(cuda):
    x = np.array([[1e4, 0, -1e4], [np.nan, 0, 0], [0, 1, 2], [np.inf, 0, 0]], np.float32)
    with np.errstate(invalid="ignore"):
        compare(cuda, "softmax", x, np.empty_like(x), 1)
    compare(cuda, "softmax", 1000 * np.eye(300, dtype=np.float32), np.empty((300, 300), np.float32), 1)
    prob, counted = np.array([[0, 1], [np.nan, 1]], np.float32), np.array([True, False])
    for rows, mask in ((slice(0, 1), counted[:1]), (slice(1, 2), counted[:1])):
        compare(cuda, "softmax_loss", prob[rows], np.zeros(1, np.int64), 1, mask, float(np.finfo(np.float32).tiny))


def test_the_scale_of_a_gradient_may_lie_on_the_gpu(cuda):
    prob = cuda.from_host(np.full((2, 2), 0.5, np.float32))
    dx, labels = cuda.xp.empty((2, 2), np.float32), cuda.xp.zeros(2, np.int64)
    scale = cuda.number(cuda.from_host(np.array([4.0])))
    cuda.softmax_loss_backward(prob, labels, 1, cuda.xp.ones(2, bool), scale, dx)
    assert cuda.to_host(dx).tolist() == [[-2, 2], [-2, 2]]


# --- non-maximum suppression

@pytest.mark.parametrize("threshold, eta", [(0.3, 1.0), (0.7, 0.8), (0.0, 1.0), (-1.0, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("count", [1, 150, 300])
def test_nms(cuda, dtype, count, threshold, eta):
    rng = np.random.default_rng(count)
    corners = rng.random((count, 2)).astype(dtype)
    boxes = np.concatenate([corners, corners + rng.random((count, 2)).astype(dtype) * dtype(0.4)], 1)
    boxes[::17] = boxes[0]
    boxes[5::29, 2] -= 1        # inside out
    compare(cuda, "nms", boxes, threshold, eta, np.zeros(count, bool))


# --- updates

RULES = {       # histories; numbers between the rates and the decays
    "sgd_update": (1, (0.9,)), "nesterov_update": (1, (0.9,)), "adagrad_update": (1, (0.01,)),
    "rmsprop_update": (1, (0.8, 0.01)), "adadelta_update": (2, (0.95, 0.01)), "adam_update": (2, (0.9, 0.99, 0.01))}


@pytest.mark.parametrize("l1", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_update(cuda, dtype, rule, l1):
    kinds, numbers = RULES[rule]
    sizes = [3, 0, 9001, 4096, 1, 4097, 700]
    data, diff, *histories = ([random((size,), dtype, 10 * i + k) for k, size in enumerate(sizes)]
                              for i in range(2 + kinds))
    histories = [[np.abs(array) for array in kind] for kind in histories]
    data[2][:3] = 0, np.nan, -0.0
    rates, decays = [0.1 * (i + 1) for i in range(len(sizes))], [0.01 * i for i in range(len(sizes))]
    compare(cuda, rule, data, diff, *histories, rates, *numbers, decays, l1, 0.5)


def test_the_table_of_an_update_is_made_once(cuda):
    update = importlib.import_module("spp.backend.cuda.update")
    data, diff, history = ([cuda.xp.ones(5, np.float32)] for _ in range(3))
    update._table.cache_clear()
    for rate in (0.1, 0.2, 0.3):
        cuda.sgd_update(data, diff, history, [rate], 0.5, [0.0], False, 1.0)
    assert update._table.cache_info().misses == 1
    cuda.sgd_update([], [], [], [], 0.5, [], False, 1.0)


# --- windows of a convolution as columns

@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kernel, stride, pad, dilation", [
    ((3, 2), (1, 1), (0, 0), (1, 1)), ((3, 3), (2, 1), (1, 2), (1, 1)), ((2, 3), (1, 3), (2, 0), (3, 2)),
    ((1, 1), (2, 2), (0, 0), (1, 1)), ((9, 10), (4, 4), (0, 1), (1, 1))])
def test_im2col(cuda, dtype, seed, kernel, stride, pad, dilation):
    columns_of = importlib.import_module("spp.backend.cuda.im2col")
    x = random((2, 3, 8, 10), dtype, seed)
    out = [max(1, (size + 2 * p - (k - 1) * d - 1) // s + 1)
           for size, k, s, p, d in zip(x.shape[2:], kernel, stride, pad, dilation)]
    expected = np.zeros((3, *kernel, 2, *out), dtype)
    back = random(expected.shape, dtype)
    dx = np.zeros_like(x)
    for c, i, j, n, row, column in np.ndindex(expected.shape):
        h, w = row * stride[0] - pad[0] + i * dilation[0], column * stride[1] - pad[1] + j * dilation[1]
        if 0 <= h < 8 and 0 <= w < 10:
            expected[c, i, j, n, row, column] = x[n, c, h, w]
            dx[n, c, h, w] += back[c, i, j, n, row, column]
    columns, found = cuda.xp.empty(expected.shape, dtype), cuda.from_host(np.empty_like(x))
    columns_of.im2col(cuda.from_host(x), columns, stride, pad, dilation)
    columns_of.col2im(cuda.from_host(back), found, stride, pad, dilation)
    np.testing.assert_array_equal(cuda.to_host(columns), expected)
    np.testing.assert_allclose(cuda.to_host(found), dx, RELATIVE[dtype], RELATIVE[dtype])


# --- images

@pytest.mark.parametrize("mean_shape", [(3,), (11, 13, 3)])
def test_transform(cuda, dtype, mean_shape):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 11, 13, 3), np.uint8)
    top, left = np.array([0, 4, 2, 3, 1], np.int32), np.array([5, 0, 1, 2, 3], np.int32)
    mirrored = np.array([True, False, True, False, True])
    mean = rng.uniform(90, 120, mean_shape).astype(np.float32)
    compare(cuda, "transform", images, top, left, mirrored, mean, 1 / 255, np.empty((5, 3, 7, 8), dtype), exact=True)


# --- what all of this rests on

def test_every_kernel_was_run(request, cuda):
    if len(request.session.items) < 100:
        pytest.skip("only after the tests of all kernels")
    source = importlib.import_module("spp.backend.cuda.kernels").source()
    assert TESTED == set(cuda_cpu.kernel_names(source))


def test_division_of_large_indices():
    source = importlib.import_module("spp.backend.cuda.kernels").source()
    start = source.index("__device__ inline long long divide")
    kernel = cuda_cpu.Module(source[start:source.index("\n}\n", start) + 3] + """
extern "C" __global__ void divided(long long a, int b, long long *quotient, int *rest) {
    *quotient = divide(a, b, *rest);
}
""").get_function("divided")
    for a in (0, 5, 2 ** 31 - 1, 2 ** 31, 2 ** 32 + 7, 2 ** 40 + 3):
        for b in (1, 3, 1000, 2 ** 31 - 1):
            quotient, rest = np.zeros(1, np.int64), np.zeros(1, np.int32)
            kernel((1,), (1,), (np.int64(a), np.int32(b), quotient, rest))
            assert (quotient[0], rest[0]) == divmod(a, b)


SUM = """
extern "C" __global__ void total(long long count, const real *x, real *out, int half_waits) {
    __shared__ real sums[BLOCK];
    sums[threadIdx.x] = threadIdx.x < count ? x[threadIdx.x] : real(0);
    if (half_waits && threadIdx.x % 2)
        return;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int i = 0; i < BLOCK; ++i)
            *out += sums[i];
}
"""


@pytest.fixture(scope="module")
def module():
    return cuda_cpu.Module(SUM, ("--std=c++17", "-Dreal=float", "-DBLOCK=64"))


@pytest.mark.parametrize("change, error, message", [
    ({}, None, None),
    ({0: 5}, None, None),                               # Python's integers are of 8 bytes, as with CuPy
    ({0: np.int32(5)}, TypeError, "total: parameter 0 is i8, and the argument i4"),
    ({1: np.ones(5)}, TypeError, r"parameter 1 is \*f4, and the argument \*f8"),
    ({2: np.float32(0)}, TypeError, r"parameter 2 is \*f4, and the argument f4"),
    ({3: np.int32(1)}, RuntimeError, "some threads of a block ended while others waited"),
    ({4: 0}, TypeError, "total takes 4 arguments, found 5"),
])
def test_a_launch_is_checked(module, change, error, message):
    x, out = np.arange(5, dtype=np.float32), np.zeros(1, np.float32)
    args = {0: np.int64(5), 1: x, 2: out, 3: np.int32(0), **change}
    if error:
        with pytest.raises(error, match=message):
            module.get_function("total")((1,), (64,), tuple(args.values()))
    else:
        module.get_function("total")((1,), (64,), tuple(args.values()))
        assert out == 10


@pytest.mark.parametrize("grid, block", [((0,), (64,)), ((1,), (2048,)), ((1, 65536), (1,)), ((2 ** 31,), (1,))])
def test_a_grid_is_checked(module, grid, block):
    with pytest.raises(ValueError, match="total: no GPU takes grid"):
        module.get_function("total")(grid, block, ())


def test_a_source_that_does_not_compile():
    with pytest.raises(RuntimeError, match="kernels.cu:1:.*nothing"):
        cuda_cpu.Module('extern "C" __global__ void f(int n) { nothing(n); }')
