"""Elementwise functions whose speed matters: one pass over memory."""
import cupy

from spp.backend.cuda.kernels import launch
from spp.backend.cuda.layout import empty, load, store


def relu(x: cupy.ndarray, y: cupy.ndarray, negative_slope: float) -> None:
    """y = max(x, 0) + negative_slope * min(x, 0); y may be x."""
    out = empty(y)
    launch("relu", x.size, x.dtype, load(x), out, float(negative_slope))
    store(out, y)


def relu_backward(dy: cupy.ndarray, x: cupy.ndarray, dx: cupy.ndarray, negative_slope: float) -> None:
    """dx = dy where x > 0, else negative_slope * dy; dx may be dy."""
    out = empty(dx)
    launch("relu_backward", x.size, x.dtype, load(dy), load(x), out, float(negative_slope))
    store(out, dx)


def weighted_sum(x: cupy.ndarray, a: float, z: cupy.ndarray, b: float, y: cupy.ndarray, relu: bool = False) -> None:
    """y = a * x + b * z, then max(y, 0) if `relu`, where NaN stays NaN; y may be x or z."""
    out = empty(y)
    launch("weighted_sum", x.size, x.dtype, load(x), float(a), load(z), float(b), out, relu)
    store(out, y)
