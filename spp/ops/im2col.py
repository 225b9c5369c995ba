"""The windows of a convolution laid out as columns (Caffe's Im2col), over any number of spatial axes.

x: batch axes x channels (at `axis`) x spatial axes; y: batch axes x (channels by taps) x windows. One float dtype.
"""
from spp import backend
from spp.backend import windows
from spp.backend.types import Array, Geometry


def forward(x: Array, y: Array, geometry: Geometry, axis: int = 1) -> None:
    """Write to `y`; pixels outside of `x` are zeros."""
    windows.im2col(x, _columns(x, y, geometry, axis), geometry, _zeros(x, y, geometry, axis))


def backward(dy: Array, dx: Array, geometry: Geometry, axis: int = 1) -> None:
    """Write to `dx` the sum of the gradients of all windows at each pixel."""
    windows.col2im(_columns(dx, dy, geometry, axis), dx, geometry, _zeros(dx, dy, geometry, axis))


def _columns(x: Array, y: Array, geometry: Geometry, axis: int) -> Array:
    """y as batch axes x channels x kernel x windows: a view, since one axis is split."""
    return y.reshape(*x.shape[:axis + 1], *geometry.kernel, *y.shape[axis + 1:])


def _zeros(x: Array, y: Array, geometry: Geometry, axis: int) -> Array:
    """A scratch buffer of zeros for `x` with its padding."""
    shape = *x.shape[:axis + 1], *windows.padded_size(x.shape[axis + 1:], y.shape[axis + 1:], geometry)
    padded = backend.of(x).scratch("im2col.padded", shape, x.dtype)
    padded[...] = 0
    return padded
