"""The kernels that pool over regions of maps and of windows, on the CPU, against the host."""
import importlib
from typing import Any

import numpy as np
import pytest

import cuda_kernels
from cuda_kernels import TESTED, compare, random
from spp.backend import host
from spp.backend.types import Bins, Geometry
from spp.ops import pooling, roi, spp

pytestmark = cuda_kernels.needs_compiler
cuda = cuda_kernels.cuda
dtype = cuda_kernels.dtype


# --- pooling

TABLES: dict[str, Any] = {       # the shape of a map; counts, regions and areas
    "sliding": ((2, 5, 13, 10), pooling.sliding_regions((13, 10), Geometry((3, 2), (2, 2), (1, 0)))),
    "overlapping": ((1, 3, 9, 14), pooling.sliding_regions((9, 14), Geometry((5, 4), (1, 2), (2, 1)))),
    "line": ((2, 3, 41), pooling.sliding_regions((41,), Geometry((4,), (3,), (1,)))),
    "volume": ((1, 2, 5, 6, 7), pooling.sliding_regions((5, 6, 7), Geometry((2, 3, 2), (2, 1, 2), (1, 0, 1)))),
    "pyramid": ((2, 7, 13, 10), spp.pyramid_regions(13, 10, (6, 3, 2, 1))),
    "gaps": ((2, 3, 11, 8), pooling.sliding_regions((11, 8), Geometry((2, 1), (4, 3), (0, 0)), ceil=False)),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("case", TABLES)
def test_pooling(cuda, dtype, case, seed):
    shape, (counts, regions, areas) = TABLES[case]
    out = shape[:2] + (tuple(counts) if case != "pyramid" else (len(regions),))
    x, dy = random(shape, dtype, seed), random(out, dtype, seed)
    y, argmax = np.empty_like(dy), np.empty_like(dy, np.int32)
    compare(cuda, "max_pool", x, regions, y, argmax, exact=True)
    compare(cuda, "max_pool", x, regions, y, None, exact=True)
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
    compare(cuda, "max_pool", x, regions, y, None, exact=True)
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
    compare(cuda, "max_pool", x, regions, y, None, exact=True)
    x = random(x.shape, dtype)
    host.max_pool(x, regions, y, argmax)
    compare(cuda, "max_pool_backward", y, argmax, regions, np.empty_like(x))


def test_a_cover_lives_as_long_as_its_table(cuda):
    covers = importlib.import_module("spp.backend.cuda.pooling")._covers
    shape, (counts, regions, areas) = TABLES["sliding"]
    table, divisors = cuda.from_host(regions), cuda.from_host(areas)
    before = len(covers)
    dy, dx = cuda.xp.ones(shape[:2] + counts, np.float32), cuda.xp.empty(shape, np.float32)
    for _ in range(2):
        cuda.average_pool_backward(dy, table, divisors, dx)
        assert len(covers) == before + 1
    del table
    assert len(covers) == before


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
    bins = Bins(boxes[:, 0].astype(np.int32), *roi.max_bins(boxes, (3, 2), 1 / 16, x.shape[2:]))
    y = random((9, 4, 3, 2), dtype, seed)
    argmax = np.empty_like(y, np.int32)
    compare(cuda, "roi_max_pool", x, bins, y, argmax, exact=True)
    host.roi_max_pool(x, bins, y.copy(), argmax)
    assert (argmax == -1).any()
    compare(cuda, "roi_max_pool_backward", y, argmax, bins, np.empty_like(x))
    x[:, :, 1::3, 1::3] = np.nan
    compare(cuda, "roi_max_pool", x, bins, y, argmax, exact=True)
    compare(cuda, "roi_max_pool", x, bins, y, None, exact=True)


@pytest.mark.parametrize("levels", [(6, 3, 2, 1), (1, 4), (2, 5)])
def test_pyramids_of_windows(cuda, dtype, levels):
    x = random((3, 4, 13, 10), dtype, 0)
    windows = np.array([[0, 13, 0, 10], [3, 4, 5, 6], [2, 9, 1, 10], [12, 13, 0, 7]])
    image, y = np.array([0, 2, 1, 0], np.int32), np.empty((4, 4, sum(n * n for n in levels)), dtype)
    compare(cuda, "roi_max_pyramid", x, Bins(image, *spp.window_bins(windows, levels)), levels, y, exact=True)


@pytest.mark.parametrize("seed", [0, 1])
def test_regions_of_interest_by_groups(cuda, dtype, seed):
    x = random((2, 5 * 9, 13, 10), dtype, seed)
    boxes = rois(x.shape[2:], 2).astype(dtype)
    bins = Bins(boxes[:, 0].astype(np.int32), *roi.group_bins(boxes, 3, 1 / 16, x.shape[2:]))
    y = random((9, 5, 3, 3), dtype, seed)
    compare(cuda, "roi_group_average", x, bins, y)
    compare(cuda, "roi_group_average_backward", y, bins, np.empty_like(x))
