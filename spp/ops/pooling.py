"""Pooling (Caffe's Pooling): the regions that sliding windows cover, and MAX, AVE and STOCHASTIC over them.

Regions are tables, int32 (B, 6), on the device; spp.backend.host.pooling describes them. Maps have one floating dtype.
"""
from typing import Sequence

import numpy as np

from spp import backend
from spp.backend import host
from spp.backend.types import Array, Geometry, Numbers
from spp.errors import NetError


def output_size(size: int, kernel: int, pad: int, stride: int, ceil: bool = True, clip: bool = False) -> int:
    """The number of windows along an axis: ceil (or floor) of (size + 2 pad - kernel) / stride, plus 1.

    With `clip` (Caffe: if any axis is padded) a last window that would start beyond the input and its left
    padding is dropped. As in Caffe, a kernel larger than the padded input by less than a stride gives one
    window in ceil mode. Raises NetError where there is no window, or where one would hold no input at all.
    """
    slack = size + 2 * pad - kernel
    count = (-(-slack // stride) if ceil else slack // stride) + 1
    if clip and (count - 1) * stride >= size + pad:
        count -= 1
    if count < 1:
        raise NetError(f"kernel {kernel} is larger than the input of {size} with pad {pad}; use a smaller "
                       f"kernel, or global_pooling: true")
    if (count - 1) * stride - pad >= size:
        raise NetError(f"kernel {kernel} and stride {stride} put the last window wholly outside the input of "
                       f"{size}; use round_mode: FLOOR")
    return count


def sliding_regions(shape: Numbers, geometry: Geometry, ceil: bool = True) -> tuple[Numbers, np.ndarray, np.ndarray]:
    """The windows of a kernel that slides over a map of 1 to 3 spatial axes of these sizes.

    Returns the number of windows along each axis; the windows' parts inside the map, int32 (B, 6); and their
    areas for averages, int32 (B): these count padding, but not what is beyond the padding. Raises NetError like
    `output_size`, and for a kernel or stride of 0 or a pad that is not smaller than the kernel.
    """
    kernel, stride, pad = geometry[:3]
    for k, p, s in zip(kernel, pad, stride):
        if k < 1 or s < 1:
            raise NetError(f"kernel and stride must be at least 1, found kernel {k} and stride {s}")
        if p >= k:
            raise NetError(f"pad must be smaller than the kernel, found pad {p} and kernel {k}")
    counts, inside, areas = [], [], np.ones((), np.int32)
    for size, k, p, s in zip(shape, kernel, pad, stride):
        counts.append(output_size(size, k, p, s, ceil, any(pad)))
        start = np.arange(counts[-1]) * s - p
        end = np.minimum(start + k, size + p)
        areas = np.multiply.outer(areas, end - start)
        inside.append(np.stack([start, end], 1).clip(0, size))
    return tuple(counts), product_regions(inside), areas.ravel().astype(np.int32)


def product_regions(axes: Sequence[Sequence[tuple[int, int]] | np.ndarray]) -> np.ndarray:
    """The table of regions, int32 (B, 6), that combines the intervals (start, end) of the axes, last axis fastest."""
    intervals = [np.array([(0, 1)])] * (3 - len(axes)) + [np.asarray(axis) for axis in axes]
    table = np.empty([len(axis) for axis in intervals] + [6], np.int32)
    for i, axis in enumerate(intervals):
        table[..., 2 * i:2 * i + 2] = axis.reshape([-1 if j == i else 1 for j in range(3)] + [2])
    return table.reshape(-1, 6)


def max_forward(x: Array, regions: Array, y: Array, argmax: Array | None) -> None:
    """y = the largest x of each region; argmax (int32) = its position in the map, (z * H + y) * W + x.

    x: N x C x (1 to 3 spatial axes); y, argmax: N x C x (any axes, one element per region). The first of equal values
    wins, and NaN wins over all. Without `argmax` (None) it is faster.
    """
    backend.of(x).max_pool(x, regions, y, argmax)


def max_backward(dy: Array, argmax: Array, regions: Array, dx: Array) -> None:
    """dx = the sum of dy over the regions whose argmax is this position."""
    backend.of(dy).max_pool_backward(dy, argmax, regions, dx)


def average_forward(x: Array, regions: Array, areas: Array, y: Array) -> None:
    """y = the sum of x over each region / its area (int32)."""
    backend.of(x).average_pool(x, regions, areas, y)


def average_backward(dy: Array, regions: Array, areas: Array, dx: Array) -> None:
    """dx = the sum of dy / area over the regions that contain a position."""
    backend.of(dy).average_pool_backward(dy, regions, areas, dx)


def stochastic_forward(x: Array, regions: Array, uniform: Array, y: Array, argmax: Array) -> None:
    """In training: y = one x of each region, drawn with probability x / sum x; argmax for `max_backward`.

    uniform: random numbers 0 <= u < 1 with the shape and dtype of y. x must not be negative; a region of zeros gives
    0. Source: Zeiler and Fergus, Stochastic Pooling, 2013.
    """
    backend.of(x).sample_pool(x, regions, uniform, y, argmax)


def expected_forward(x: Array, regions: Array, areas: Array, y: Array) -> None:
    """In testing, after training with `stochastic_forward`: y = sum x^2 / sum x of each region; zeros give 0."""
    means = _means(x, regions, areas, y)
    device = backend.of(x)
    squares = device.scratch_like("pooling.squares", x)
    device.xp.multiply(x, x, out=squares)
    average_forward(squares, regions, areas, y)
    y /= means


def expected_backward(dy: Array, x: Array, y: Array, regions: Array, areas: Array, dx: Array) -> None:
    """dx = the sum of dy * (2 x - y) / sum x over the regions that contain a position."""
    device = backend.of(x)
    share, other = device.scratch_like("pooling.share", y), device.scratch_like("pooling.other", dx)
    device.xp.divide(dy, _means(x, regions, areas, y), out=share)
    average_backward(share, regions, areas, dx)
    device.xp.multiply(x, 2, out=other)
    dx *= other
    share *= y
    average_backward(share, regions, areas, other)
    dx -= other


def _means(x: Array, regions: Array, areas: Array, y: Array) -> Array:
    """The mean of x over each region, or 1 if it is 0, in a scratch buffer."""
    device = backend.of(x)
    means, empty = device.scratch_like("pooling.means", y), device.scratch_like("pooling.empty", y, bool)
    average_forward(x, regions, areas, means)
    device.xp.equal(means, 0, out=empty)
    device.xp.copyto(means, 1, where=empty)
    return means


def draw_uniform(stream: np.random.Generator, y: Array) -> Array:
    """Random numbers 0 <= u < 1 of y's shape and dtype, on y's device, for `stochastic_forward`."""
    single, numbers = (host.scratch("pooling.drawn", y.shape, dtype) for dtype in (np.float32, y.dtype))
    stream.random(dtype=np.float32, out=single)
    numbers[...] = single
    return backend.of(y).from_host(numbers)
