"""Elementwise functions whose speed matters: one pass over memory; and the random masks of dropout."""
import cupy
import numpy as np

from spp.backend.cuda.kernels import OUT, launch_into


def relu(x: cupy.ndarray, y: cupy.ndarray, negative_slope: float) -> None:
    """y = max(x, 0) + negative_slope * min(x, 0); y may be x."""
    launch_into(y, "relu", x.size, x, OUT, float(negative_slope))


def relu_backward(dy: cupy.ndarray, x: cupy.ndarray, dx: cupy.ndarray, negative_slope: float) -> None:
    """dx = dy where x > 0, else negative_slope * dy; dx may be dy."""
    launch_into(dx, "relu_backward", x.size, dy, x, OUT, float(negative_slope))


def weighted_sum(x: cupy.ndarray, a: float, z: cupy.ndarray, b: float, y: cupy.ndarray, relu: bool = False) -> None:
    """y = a * x + b * z, then max(y, 0) if `relu`, where NaN stays NaN; y may be x or z."""
    launch_into(y, "weighted_sum", x.size, x, float(a), z, float(b), OUT, relu)


def draw_mask(stream: np.random.Generator, ratio: float, value: float, mask: cupy.ndarray) -> None:
    """Each element of mask = 0 with probability `ratio`, else `value`. mask: any shape, a floating dtype.

    One number is drawn from `stream`: the key of the random numbers that the device computes.
    """
    key = np.uint64(stream.integers(1 << 63))
    launch_into(mask, "draw_mask", mask.size, key, np.float32(ratio), float(value), OUT)
