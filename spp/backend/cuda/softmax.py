"""Softmax over an axis, and its multinomial logistic loss."""
import math

import cupy
import numpy as np

from spp.backend.cuda.kernels import BLOCK, OUT, launch, launch_blocks, launch_into, on_device
from spp.backend.cuda.layout import load

MANY = 32           # adjacent positions whose threads read a cache line at once; or classes that occupy a block
MOST_PARTS = 256    # into which the positions are divided; the losses of each part are summed by one block


def softmax(x: cupy.ndarray, y: cupy.ndarray, axis: int) -> None:
    """y = exp(x - max) / sum over `axis`; y may be x."""
    _launch(y, "softmax", axis, x)


def softmax_backward(dy: cupy.ndarray, y: cupy.ndarray, dx: cupy.ndarray, axis: int) -> None:
    """dx = (dy - sum(dy * y)) * y; dx may be dy."""
    _launch(dx, "softmax_backward", axis, dy, y)


def _launch(target: cupy.ndarray, name: str, axis: int, *arrays: cupy.ndarray) -> None:
    outer, classes, inner = _sizes(target, axis)
    by_block = inner < MANY <= classes
    launch_into(target, f"{name}_by_{'block' if by_block else 'thread'}", outer * inner, *arrays, OUT, classes, inner,
                by_block=by_block)


def softmax_loss(prob: cupy.ndarray, labels: cupy.ndarray, axis: int, counted: cupy.ndarray,
                 minimum: float) -> cupy.ndarray:
    """-sum of log(max(prob of the label, minimum)) over the samples `counted`, an array without axes."""
    outer, classes, inner = _sizes(prob, axis)
    positions = outer * inner
    parts = min(MOST_PARTS, max(1, positions // (4 * BLOCK)))
    sums, out = cupy.empty(parts, np.float64), cupy.empty(1, np.float64)
    launch_blocks("softmax_loss", parts, prob.dtype, load(prob), load(labels), load(counted), sums,
                  np.int64(positions), classes, inner, float(minimum))
    launch("sum_of_parts", 1, prob.dtype, sums, out, parts)
    return out[0].astype(prob.dtype)


def softmax_loss_backward(prob: cupy.ndarray, labels: cupy.ndarray, axis: int, counted: cupy.ndarray,
                          scale: float | cupy.ndarray, dx: cupy.ndarray) -> None:
    """dx = scale * (prob - one-hot label) where `counted`, else 0. Shapes as in `softmax_loss`.

    scale: a number, or an array of one element.
    """
    _, classes, inner = _sizes(prob, axis)
    launch_into(dx, "softmax_loss_backward", prob.size, prob, labels, counted, on_device(scale, prob.dtype), OUT,
                classes, inner)


def _sizes(x: cupy.ndarray, axis: int) -> tuple[int, int, int]:
    """The array as outer x classes x inner."""
    axis %= x.ndim
    return math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1:])
