"""The windows of a convolution over any number of spatial axes, as indices and copies for arrays of any device.

Images are ... x C x spatial axes, columns ... x C x kernel x windows; `geometry` has one number per spatial axis.
"""
import itertools
from typing import Iterator

from spp.backend.types import Array, Geometry, Numbers


def padded_size(size: Numbers, windows: Numbers, geometry: Geometry) -> Numbers:
    """The spatial size of an image with its padding, enlarged to what the last windows reach."""
    kernel, stride, pad, dilation, _ = geometry
    return tuple(max(n + 2 * p, (w - 1) * s + (k - 1) * d + 1)
                 for n, w, k, s, p, d in zip(size, windows, kernel, stride, pad, dilation))


def inside(size: Numbers, geometry: Geometry) -> tuple:
    """The index of the image in the padded image."""
    return (..., *(slice(p, p + n) for n, p in zip(size, geometry.pad)))


def taps(windows: Numbers, geometry: Geometry) -> Iterator[tuple[tuple, tuple]]:
    """The index of each tap in the weights, and of the pixels of the padded image that it meets in all windows."""
    for tap in itertools.product(*map(range, geometry.kernel)):
        yield (..., *tap), (..., *(slice(t * d, t * d + (w - 1) * s + 1, s)
                                   for t, d, w, s in zip(tap, geometry.dilation, windows, geometry.stride)))


def im2col(x: Array, columns: Array, geometry: Geometry, padded: Array) -> None:
    """Write to `columns` the pixels under each tap of each window; `padded`: zeros of `padded_size`, overwritten."""
    windows = _windows(columns, geometry)
    padded[inside(x.shape[x.ndim - len(windows):], geometry)] = x
    for tap, pixels in taps(windows, geometry):
        columns[_in_columns(tap)] = padded[pixels]


def col2im(columns: Array, x: Array, geometry: Geometry, padded: Array) -> None:
    """Write to `x` the sum of all columns' values at each pixel; `padded`: zeros of `padded_size`, overwritten."""
    windows = _windows(columns, geometry)
    for tap, pixels in taps(windows, geometry):
        padded[pixels] += columns[_in_columns(tap)]
    x[...] = padded[inside(x.shape[x.ndim - len(windows):], geometry)]


def _windows(columns: Array, geometry: Geometry) -> Numbers:
    return columns.shape[columns.ndim - len(geometry.kernel):]


def _in_columns(tap: tuple) -> tuple:
    """The index in the columns, whose windows follow the taps."""
    return *tap, *[slice(None)] * (len(tap) - 1)
