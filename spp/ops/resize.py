"""Resizing of maps: bilinear (DeepLab's Interp), by repeating pixels, and back to where Pooling found its maxima."""
from typing import Any

import numpy as np

from spp import backend


def bilinear_axis(first: int, size: int, count: int, dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `count` pixels the two that it lies between, int32, and the weight of the second.

    The input is `size` pixels from `first` on; its corners meet the output's corners. One pixel alone
    takes the first.
    """
    place = np.arange(count) * ((size - 1) / (count - 1) if count > 1 else 0.0)
    low = np.minimum(place.astype(np.int64), size - 1)
    high = np.minimum(low + 1, size - 1)
    return (first + low).astype(np.int32), (first + high).astype(np.int32), (place - low).astype(dtype)


def bilinear_forward(x: Any, rows: Any, columns: Any, y: Any) -> None:
    """y = x between the rows and columns that `bilinear_axis` gives."""
    backend.of(x).bilinear(x, rows, columns, y)


def bilinear_backward(dy: Any, rows: Any, columns: Any, dx: Any) -> None:
    """dx = the sum of dy by the weight that a pixel has in it."""
    backend.of(dy).bilinear_backward(dy, rows, columns, dx)


def repeat_forward(x: Any, y: Any) -> None:
    """Each pixel of x (N x C x h x w) as a block of y (N x C x H x W); H and W are multiples of h and w."""
    _by_block(y, x.shape)[...] = x[:, :, :, None, :, None]


def repeat_backward(dy: Any, dx: Any) -> None:
    """dx = the sum of dy over each block."""
    _by_block(dy, dx.shape).sum((3, 5), out=dx)


def _by_block(array: Any, shape: tuple[int, ...]) -> Any:
    """A view N x C x h x high x w x wide: to cut an axis in two needs no copy in any order of memory."""
    n, c, h, w = shape
    return array.reshape(n, c, h, array.shape[2] // h, w, array.shape[3] // w)


def unpool_forward(x: Any, place: Any, y: Any) -> None:
    """y = 0, and x at its place h * W + w (int64 of x's shape) in y's plane; of several for one place the last."""
    device = backend.of(x)
    planes = device.matrix(y, 2, "resize.large")
    planes[...] = 0
    index = _in_all_planes(place, planes.shape[1])
    device.put_last(device.load_matrix(x, 2, "resize.small").reshape(-1), index, planes.reshape(-1))
    device.store(planes.reshape(y.shape), y)


def unpool_backward(dy: Any, place: Any, dx: Any) -> None:
    """dx = dy at the place."""
    device = backend.of(dy)
    planes, out = device.load_matrix(dy, 2, "resize.large"), device.matrix(dx, 2, "resize.small")
    device.take_rows(planes.reshape(-1), _in_all_planes(place, planes.shape[1]), out.reshape(-1))
    device.store(out.reshape(dx.shape), dx)


def _in_all_planes(place: Any, size: int) -> Any:
    """Places in planes of `size` pixels as places in all planes one after the other, in a row."""
    device = backend.of(place)
    index = device.scratch("resize.index", (place.shape[0] * place.shape[1], place.shape[2] * place.shape[3]),
                           place.dtype)
    index.reshape(place.shape)[...] = place
    index += (device.xp.arange(len(index)) * size)[:, None]
    return index.reshape(-1)


def outside(place: Any, size: int) -> Any:
    """Which places are not 0 to size - 1: booleans in a scratch buffer."""
    device = backend.of(place)
    below, above = (device.scratch_like(f"resize.{name}", place, bool) for name in ("below", "above"))
    device.xp.less(place, 0, out=below)
    device.xp.greater_equal(place, size, out=above)
    below |= above
    return below
