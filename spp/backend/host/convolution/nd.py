"""Convolution over any number of spatial axes, none included: one matrix product per tap of the kernel.

The straightforward form, for 1-D, 3-D and the like; the other modules of this package need two spatial axes.
"""
import math

import numpy as np

from spp.backend.types import Epilogue, Geometry
from spp.backend.windows import inside, padded_size, taps


def forward(x: np.ndarray, weight: np.ndarray, y: np.ndarray, geometry: Geometry, epilogue: Epilogue) -> None:
    """Write to `y`; see convolution_forward."""
    windows, group = y.shape[2:], geometry.group
    padded = _padded(x, windows, geometry)
    grouped = weight.reshape(group, -1, *weight.shape[1:])
    total = np.zeros((len(x), group, len(weight) // group, math.prod(windows)), y.dtype)
    for tap, pixels in taps(windows, geometry):
        total += grouped[tap] @ padded[pixels].reshape(len(x), group, weight.shape[1], math.prod(windows))
    y[...] = total.reshape(y.shape)
    epilogue.apply(np.moveaxis(y, 1, -1))


def backward_data(dy: np.ndarray, weight: np.ndarray, dx: np.ndarray, geometry: Geometry) -> None:
    """Write to `dx`; see convolution_backward_data."""
    windows, group = dy.shape[2:], geometry.group
    padded = np.zeros((*dx.shape[:2], *padded_size(dx.shape[2:], windows, geometry)), dx.dtype)
    grouped = weight.reshape(group, -1, *weight.shape[1:])
    gradient = dy.reshape(len(dy), group, len(weight) // group, math.prod(windows))
    for tap, pixels in taps(windows, geometry):
        padded[pixels] += (grouped[tap].swapaxes(1, 2) @ gradient).reshape(*dx.shape[:2], *windows)
    dx[...] = padded[inside(dx.shape[2:], geometry)]


def backward_weights(x: np.ndarray, dy: np.ndarray, dweight: np.ndarray, dbias: np.ndarray | None,
                     geometry: Geometry) -> None:
    """Add to `dweight` and `dbias`; see convolution_backward_weights."""
    windows, group = dy.shape[2:], geometry.group
    padded = _padded(x, windows, geometry)
    gradient = dy.reshape(len(dy), group, len(dweight) // group, math.prod(windows))
    for tap, pixels in taps(windows, geometry):
        patches = padded[pixels].reshape(len(x), group, dweight.shape[1], math.prod(windows))
        dweight[tap] += (gradient @ patches.swapaxes(2, 3)).sum(0).reshape(dweight.shape[:2])
    if dbias is not None:
        dbias += dy.sum((0, *range(2, dy.ndim)))


def _padded(x: np.ndarray, windows: tuple[int, ...], geometry: Geometry) -> np.ndarray:
    """`x` with zeros around it."""
    padded = np.zeros((*x.shape[:2], *padded_size(x.shape[2:], windows, geometry)), x.dtype)
    padded[inside(x.shape[2:], geometry)] = x
    return padded
