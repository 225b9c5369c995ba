"""The windows of a convolution laid out as columns (Caffe's Im2col), over any number of spatial axes.

x: batch axes x channels (at `axis`) x spatial axes; y: batch axes x (channels by taps) x windows.
"""
import itertools
from typing import Any, Iterator

from spp import backend
from spp.ops.convolution import Numbers


def forward(x: Any, y: Any, kernel: Numbers, stride: Numbers, pad: Numbers, dilation: Numbers, axis: int = 1) -> None:
    """Write to `y`; pixels outside of `x` are zeros."""
    out = y.shape[axis + 1:]
    padded = _zeros(x, _covered(x.shape, kernel, out, stride, pad, dilation, axis))
    padded[_inside(x.shape, pad, axis)] = x
    columns = y.reshape(*x.shape[:axis + 1], *kernel, *out)     # splits an axis: a view
    for tap, pixels in _taps(kernel, out, stride, dilation, axis):
        columns[tap] = padded[pixels]


def backward(dy: Any, dx: Any, kernel: Numbers, stride: Numbers, pad: Numbers, dilation: Numbers,
             axis: int = 1) -> None:
    """Write to `dx` the sum of what all windows hand back to a pixel."""
    out = dy.shape[axis + 1:]
    padded = _zeros(dx, _covered(dx.shape, kernel, out, stride, pad, dilation, axis))
    columns = dy.reshape(*dx.shape[:axis + 1], *kernel, *out)
    for tap, pixels in _taps(kernel, out, stride, dilation, axis):
        padded[pixels] += columns[tap]
    dx[...] = padded[_inside(dx.shape, pad, axis)]


def _zeros(like: Any, shape: tuple[int, ...]) -> Any:
    padded = backend.of(like).scratch("im2col.padded", shape, like.dtype)
    padded[...] = 0
    return padded


def _covered(shape: Numbers, kernel: Numbers, out: Numbers, stride: Numbers, pad: Numbers, dilation: Numbers,
             axis: int) -> Numbers:
    """The shape of the padded input, with all that the last windows reach."""
    sizes = (max(size + 2 * p, (o - 1) * s + (k - 1) * d + 1)
             for size, k, o, s, p, d in zip(shape[axis + 1:], kernel, out, stride, pad, dilation))
    return (*shape[:axis + 1], *sizes)


def _inside(shape: Numbers, pad: Numbers, axis: int) -> tuple:
    """The index of the input in the padded input."""
    return (..., *(slice(p, p + size) for size, p in zip(shape[axis + 1:], pad)))


def _taps(kernel: Numbers, out: Numbers, stride: Numbers, dilation: Numbers,
          axis: int) -> Iterator[tuple[tuple, tuple]]:
    """A kernel's taps: the index of each in the columns, and of the pixels of the padded input that it meets."""
    for tap in itertools.product(*map(range, kernel)):
        yield (slice(None),) * (axis + 1) + tap, (..., *(slice(t * d, t * d + (o - 1) * s + 1, s)
                                                         for t, d, o, s in zip(tap, dilation, out, stride)))
