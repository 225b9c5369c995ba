"""Resizing of N x C x H x W maps: bilinear (DeepLab's Interp), repeated pixels (Upsample), unpooling to positions."""
import numpy as np

from spp import backend
from spp.backend.types import Array, Interpolation


def bilinear_axis(first: int, size: int, count: int, dtype: Array) -> Interpolation:
    """The two input pixels, and the weight of the second, for each of `count` output pixels along an axis.

    The input is `size` pixels from `first` on; its corners are aligned with those of the output. A single output
    pixel is the first input pixel. NumPy arrays; the weights have this dtype.
    """
    place = np.arange(count) * ((size - 1) / (count - 1) if count > 1 else 0.0)
    low = np.minimum(place.astype(np.int64), size - 1)
    high = np.minimum(low + 1, size - 1)
    return Interpolation((first + low).astype(np.int32), (first + high).astype(np.int32), (place - low).astype(dtype))


def bilinear_forward(x: Array, rows: Interpolation, columns: Interpolation, y: Array) -> None:
    """y = x, interpolated between the rows and columns from `bilinear_axis`, which are on the device."""
    backend.of(x).bilinear(x, rows, columns, y)


def bilinear_backward(dy: Array, rows: Interpolation, columns: Interpolation, dx: Array) -> None:
    """dx = the sum of dy, each times the weight of this position in it."""
    backend.of(dy).bilinear_backward(dy, rows, columns, dx)


def repeat_forward(x: Array, y: Array) -> None:
    """Each pixel of x (N x C x h x w) becomes a block of y (N x C x H x W); H and W are multiples of h and w."""
    _by_block(y, x.shape)[...] = x[:, :, :, None, :, None]


def repeat_backward(dy: Array, dx: Array) -> None:
    """dx = the sum of dy over each block."""
    _by_block(dy, dx.shape).sum((3, 5), out=dx)


def _by_block(array: Array, shape: tuple[int, ...]) -> Array:
    """A view N x C x h x H/h x w x W/w: dividing an axis in two needs no copy in any order of memory."""
    n, c, h, w = shape
    return array.reshape(n, c, h, array.shape[2] // h, w, array.shape[3] // w)


def unpool_forward(x: Array, position: Array, y: Array) -> None:
    """y = 0, except for each x at its position (int64) h * W + w in y's plane; of several at one the last."""
    device = backend.of(y)
    planes = device.empty_matrix(y, 2, "resize.large")
    planes[...] = 0
    index = _in_all_planes(position, planes.shape[1])
    device.put_last(device.load_matrix(x, 2, "resize.small").reshape(-1), index, planes.reshape(-1))
    device.store(planes.reshape(y.shape), y)


def unpool_backward(dy: Array, position: Array, dx: Array) -> None:
    """dx = dy at the positions."""
    device = backend.of(dy)
    planes, out = device.load_matrix(dy, 2, "resize.large"), device.empty_matrix(dx, 2, "resize.small")
    device.take_rows(planes.reshape(-1), _in_all_planes(position, planes.shape[1]), out.reshape(-1))
    device.store(out.reshape(dx.shape), dx)


def _in_all_planes(position: Array, size: int) -> Array:
    """Positions in planes of `size` pixels as positions in all planes, one after the other, flattened."""
    device = backend.of(position)
    n, c, h, w = position.shape
    index = device.scratch("resize.index", (n * c, h * w), position.dtype)
    index.reshape(position.shape)[...] = position
    index += (device.xp.arange(len(index)) * size)[:, None]
    return index.reshape(-1)
