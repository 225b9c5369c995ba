"""The bins of a spatial pyramid (SPP-net, Sec. 2.2, 2.3, Appendix A; Caffe's SPP) and their order in fc6."""
from typing import Iterator, Sequence

import numpy as np

from spp import backend
from spp.backend.types import Array, Bins, Geometry
from spp.errors import NetError
from spp.ops import pooling


def is_exact(a: int, n: int) -> bool:
    """Whether windows of ceil(a / n) with stride floor(a / n) tile a map of a: n of them, the last to a."""
    window, stride = -(-a // n), a // n
    return stride > 0 and (n - 1) * stride + window == a


def bins(a: int, n: int, rule: str = "AUTO") -> list[tuple[int, int]]:
    """The n bins, half-open (start, end), of one axis of a map of size a.

    SLIDING: windows of ceil(a / n) with stride floor(a / n), Sec. 2.3; they may end before the border.
    APPENDIX_A: bin i from floor(i a / n) to ceil((i + 1) a / n); never empty, also where a < n.
    AUTO: SLIDING if `is_exact`, else APPENDIX_A. The two rules agree wherever SLIDING is exact.
    Raises NetError if SLIDING does not give n windows.
    """
    if rule == "SLIDING" or rule == "AUTO" and is_exact(a, n):
        window, stride = -(-a // n), a // n
        count = (a - window) // stride + 1 if stride else 0
        if count != n:
            raise NetError(f"bin_rule SLIDING: {n} bins of a map of {a} mean windows of ceil({a}/{n}) = "
                           f"{window} with stride floor({a}/{n}) = {stride}; that gives {count} windows, not "
                           f"{n}; use bin_rule: AUTO")
        return [(i * stride, i * stride + window) for i in range(n)]
    return [(i * a // n, -(-(i + 1) * a // n)) for i in range(n)]


def pyramid_regions(height: int, width: int, levels: Sequence[int],
                    rule: str = "AUTO") -> tuple[list[int], np.ndarray, np.ndarray]:
    """The bins of all levels, n x n each, of a map: in the order of `levels`, and by rows within a level.

    Returns the number of bins of each level; the regions, int32 (B, 6); and their areas, int32 (B).
    """
    tables = [pooling.product_regions([bins(height, n, rule), bins(width, n, rule)]) for n in levels]
    regions = np.concatenate(tables)
    areas = (regions[:, 3] - regions[:, 2]) * (regions[:, 5] - regions[:, 4])
    return [len(table) for table in tables], regions, areas


def caffe_regions(height: int, width: int, pyramid_height: int) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Like `pyramid_regions` by Caffe's rule: level i has n = 2^i, windows and strides of ceil(size / n).

    The map is padded so that the windows fit; areas count the padding. Raises NetError if the map is too small.
    """
    levels = []
    for n in (2 ** i for i in range(pyramid_height)):
        kernel = -(-height // n), -(-width // n)
        pad = (kernel[0] * n - height + 1) // 2, (kernel[1] * n - width + 1) // 2
        for size, k, p in zip((height, width), kernel, pad):
            if p >= k:
                raise NetError(f"pyramid_height {pyramid_height}: {n} windows of {k} on a map of {size} need "
                               f"a pad of {p}, and a pad must be smaller than its window; use a lower "
                               f"pyramid_height, or bins, which suit any map")
        levels.append(pooling.sliding_regions((height, width), Geometry(kernel, kernel, pad)))
    return ([len(areas) for _, _, areas in levels], np.concatenate([regions for _, regions, _ in levels]),
            np.concatenate([areas for _, _, areas in levels]))


def window_bins(windows: np.ndarray, levels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, int32 (R, sum of levels, 2), of the bins of all levels of windows on a map.

    windows: integers (R, 4), y0, y1, x0, x1, half-open, inside the map and not empty. Appendix A's rule, as in `bins`.
    """
    first, end = windows[:, 0::2, None], windows[:, 1::2, None]
    n = np.repeat(levels, levels)
    i = np.concatenate([np.arange(level) for level in levels])
    edges = np.stack([first + i * (end - first) // n, first - -(i + 1) * (end - first) // n], -1).astype(np.int32)
    return np.ascontiguousarray(edges[:, 0]), np.ascontiguousarray(edges[:, 1])


def windows_forward(x: Array, bins: Bins, levels: Sequence[int], y: Array) -> None:
    """y (R x C x B) = the largest x of each bin of windows' pyramids, in the order of `pyramid_regions`.

    x: N x C x H x W; bins: each window's image, and rows and columns by `window_bins`, on the device. A NaN wins.
    """
    backend.of(x).roi_max_pyramid(x, bins, levels, y)


def flatten_forward(pooled: Array, counts: Sequence[int], y: Array) -> None:
    """y (N, C * B) = the levels one after the other, each in the order of Caffe's Flatten: channel, then bin.

    pooled: N x C x B, the bins of all levels; counts: the number of bins of each level.
    """
    for level, part in _levels(pooled, counts, y):
        part[...] = level


def flatten_backward(dy: Array, counts: Sequence[int], dpooled: Array) -> None:
    """dpooled (N x C x B) = the gradient of `flatten_forward`, from dy (N, C * B)."""
    for level, part in _levels(dpooled, counts, dy):
        level[...] = part


def _levels(pooled: Array, counts: Sequence[int], flat: Array) -> Iterator[tuple[Array, Array]]:
    """For each level its views, N x C x count, of the pooled and of the flattened array."""
    n, channels, _ = pooled.shape
    start = 0
    for count in counts:
        end = start + count
        yield pooled[:, :, start:end], flat[:, channels * start:channels * end].reshape(n, channels, count)
        start = end
