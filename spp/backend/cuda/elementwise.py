"""Elementwise functions whose speed counts: one pass over memory."""
import cupy

from spp.backend.cuda.kernels import in_c_order, launch, room_for
from spp.backend.cuda.layout import store


def relu(x: cupy.ndarray, y: cupy.ndarray, negative_slope: float) -> None:
    """y = max(x, 0) + negative_slope * min(x, 0); y may be x."""
    out = room_for(y)
    launch("relu", x.size, x.dtype, in_c_order(x), out, float(negative_slope))
    store(out, y)


def relu_backward(dy: cupy.ndarray, x: cupy.ndarray, dx: cupy.ndarray, negative_slope: float) -> None:
    """dx = dy where x > 0, else negative_slope * dy; dx may be dy."""
    out = room_for(dx)
    launch("relu_backward", x.size, x.dtype, in_c_order(dy), in_c_order(x), out, float(negative_slope))
    store(out, dx)


def weighted_sum(x: cupy.ndarray, a: float, z: cupy.ndarray, b: float, y: cupy.ndarray, relu: bool = False) -> None:
    """y = a * x + b * z, then max(y, 0) if relu, where NaN stays NaN; y may be x or z."""
    out = room_for(y)
    launch("weighted_sum", x.size, x.dtype, in_c_order(x), float(a), in_c_order(z), float(b), out, relu)
    store(out, y)
