"""Convolution over any number of spatial axes, none included: one matrix product a tap of the kernel.

The straightforward form, for 1-D, 3-D and the like; two spatial axes have their own code in convolution.py.
"""
import itertools
import math
from typing import Iterator

import numpy as np

Numbers = tuple[int, ...]


def _extents(kernel: Numbers, out: Numbers, stride: Numbers, dilation: Numbers) -> Numbers:
    """How many pixels of the padded input the windows cover, a spatial axis."""
    return tuple((o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(out, stride, kernel, dilation))


def _pad(x: np.ndarray, extents: Numbers, pad: Numbers) -> np.ndarray:
    """`x` with zeros around it, cut or filled to what the windows cover."""
    padded = np.zeros((*x.shape[:2], *extents), x.dtype)
    inner, outer = _overlap(x.shape[2:], extents, pad)
    padded[outer] = x[inner]
    return padded


def _overlap(size: Numbers, extents: Numbers, pad: Numbers) -> tuple[tuple, tuple]:
    """Where the covered part of the image lies: in the image, and in the padded image."""
    ends = [min(n, e - p) for n, e, p in zip(size, extents, pad)]
    inner = tuple(slice(0, max(0, end)) for end in ends)
    outer = tuple(slice(p, p + max(0, end)) for p, end in zip(pad, ends))
    return (..., *inner), (..., *outer)


def _taps(kernel: Numbers, out: Numbers, stride: Numbers, dilation: Numbers) -> Iterator[tuple[tuple, tuple]]:
    """A kernel's taps: the index of each, and the index of the pixels of the padded input that it meets."""
    for tap in itertools.product(*map(range, kernel)):
        yield (..., *tap), (..., *(slice(t * d, t * d + (o - 1) * s + 1, s)
                                   for t, d, o, s in zip(tap, dilation, out, stride)))


def forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, y: np.ndarray, stride: Numbers,
            pad: Numbers, dilation: Numbers, group: int, relu: bool, scale: np.ndarray | None,
            shift: np.ndarray | None) -> None:
    """Write to `y`; see convolution.convolution_forward."""
    kernel, out = weight.shape[2:], y.shape[2:]
    padded = _pad(x, _extents(kernel, out, stride, dilation), pad)
    grouped = weight.reshape(group, -1, *weight.shape[1:])
    total = np.zeros((len(x), group, len(weight) // group, math.prod(out)), y.dtype)
    for tap, pixels in _taps(kernel, out, stride, dilation):
        total += grouped[tap] @ padded[pixels].reshape(len(x), group, weight.shape[1], math.prod(out))
    y[...] = total.reshape(y.shape)
    if bias is not None:
        y += bias.reshape(-1, *[1] * len(out))
    if scale is not None and shift is not None:
        y *= scale.reshape(-1, *[1] * len(out))
        y += shift.reshape(-1, *[1] * len(out))
    if relu:
        np.maximum(y, 0, out=y)


def backward_data(dy: np.ndarray, weight: np.ndarray, dx: np.ndarray, stride: Numbers, pad: Numbers,
                  dilation: Numbers, group: int) -> None:
    """Write to `dx`; see convolution.convolution_backward_data."""
    kernel, out = weight.shape[2:], dy.shape[2:]
    extents = _extents(kernel, out, stride, dilation)
    padded = np.zeros((*dx.shape[:2], *extents), dx.dtype)
    grouped = weight.reshape(group, -1, *weight.shape[1:])
    gradient = dy.reshape(len(dy), group, len(weight) // group, math.prod(out))
    for tap, pixels in _taps(kernel, out, stride, dilation):
        padded[pixels] += (grouped[tap].swapaxes(1, 2) @ gradient).reshape(*dx.shape[:2], *out)
    inner, outer = _overlap(dx.shape[2:], extents, pad)
    dx[...] = 0
    dx[inner] = padded[outer]


def backward_weights(x: np.ndarray, dy: np.ndarray, dweight: np.ndarray, dbias: np.ndarray | None,
                     stride: Numbers, pad: Numbers, dilation: Numbers, group: int) -> None:
    """Add to `dweight` and `dbias`; see convolution.convolution_backward_weights."""
    kernel, out = dweight.shape[2:], dy.shape[2:]
    padded = _pad(x, _extents(kernel, out, stride, dilation), pad)
    gradient = dy.reshape(len(dy), group, len(dweight) // group, math.prod(out))
    for tap, pixels in _taps(kernel, out, stride, dilation):
        fields = padded[pixels].reshape(len(x), group, dweight.shape[1], math.prod(out))
        dweight[tap] += (gradient @ fields.swapaxes(2, 3)).sum(0).reshape(dweight.shape[:2])
    if dbias is not None:
        dbias += dy.sum((0, *range(2, dy.ndim)))
