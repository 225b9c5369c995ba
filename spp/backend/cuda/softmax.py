"""Softmax over an axis, and its multinomial logistic loss."""
import math

import cupy
import numpy as np

from spp.backend.cuda.kernels import BLOCK, in_c_order, launch, launch_blocks, on_device, room_for
from spp.backend.cuda.layout import store

MANY = 32           # adjacent positions, of which threads read a line of memory at once; and classes worth a block
MOST_PARTS = 256    # parts of the positions whose losses are summed each by a block of its own


def softmax(x: cupy.ndarray, y: cupy.ndarray, axis: int) -> None:
    """y = exp(x - max) / sum over `axis`; y may be x."""
    out = room_for(y)
    _launch("softmax", x, axis, in_c_order(x), out)
    store(out, y)


def softmax_backward(dy: cupy.ndarray, y: cupy.ndarray, dx: cupy.ndarray, axis: int) -> None:
    """dx = (dy - sum(dy * y)) * y; dx may be dy."""
    out = room_for(dx)
    _launch("softmax_backward", y, axis, in_c_order(dy), in_c_order(y), out)
    store(out, dx)


def _launch(name, x, axis, *arrays):
    outer, classes, inner = _sizes(x, axis)
    if inner >= MANY or classes < MANY:
        launch(f"{name}_by_thread", outer * inner, x.dtype, *arrays, classes, inner)
    else:
        launch_blocks(f"{name}_by_block", outer * inner, x.dtype, *arrays, classes, inner)


def softmax_loss(prob: cupy.ndarray, labels: cupy.ndarray, axis: int, counted: cupy.ndarray,
                 least: float) -> cupy.ndarray:
    """-sum of log(max(prob of the label, least)) over the samples where `counted`, an array of no axes.

    prob: probabilities, class axis `axis`; labels: int64 of shape outer + inner; counted: booleans of that shape.
    """
    outer, classes, inner = _sizes(prob, axis)
    positions = outer * inner
    parts = min(MOST_PARTS, max(1, positions // (4 * BLOCK)))
    sums, out = cupy.empty(parts, np.float64), cupy.empty(1, np.float64)
    launch_blocks("softmax_loss", parts, prob.dtype, in_c_order(prob), in_c_order(labels), in_c_order(counted), sums,
                  np.int64(positions), classes, inner, float(least))
    launch("sum_of_parts", 1, prob.dtype, sums, out, parts)
    return out[0].astype(prob.dtype)


def softmax_loss_backward(prob: cupy.ndarray, labels: cupy.ndarray, axis: int, counted: cupy.ndarray,
                          scale: float | cupy.ndarray, dx: cupy.ndarray) -> None:
    """dx = scale * (prob - one-hot label) where `counted`, else 0. scale: a number, also an array of one."""
    _, classes, inner = _sizes(prob, axis)
    out = room_for(dx)
    launch("softmax_loss_backward", prob.size, prob.dtype, in_c_order(prob), in_c_order(labels), in_c_order(counted),
           on_device(scale, prob.dtype), out, classes, inner)
    store(out, dx)


def _sizes(x, axis):
    """The array as outer x classes x inner."""
    axis %= x.ndim
    return math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1:])
