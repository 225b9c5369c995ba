"""Convolution on the GPU: cuDNN if it has a plan, else im2col and cuBLAS.

The four precisions differ in the factors of the products; sums and blobs are float32 in all of them:
fp32 multiplies float32, tf32 float32 rounded to 10 bits, bf16 and fp16 those types. For the last two, operands
are converted and results converted back, and since that is a copy anyway it also lays them channels last, which
is what tensor cores work on; float32 stays in C order, and cuDNN transposes if its engine needs that.
"""
import math
from typing import Any

import cupy
import numpy as np

from spp.backend.cuda import convolution_fallback as fallback
from spp.backend.cuda import convolution_plans as plans
from spp.backend.cuda import half
from spp.backend.cuda.kernels import launch
from spp.backend.cuda.layout import store
from spp.backend.types import Array, Epilogue, Geometry

ALIGNMENT = 16      # bytes, which cuDNN takes for granted

_HALVES = {"fp16": "HALF", "bf16": "BFLOAT16"}


def convolution_forward(x: Array, weight: Array, y: Array, geometry: Geometry, epilogue: Epilogue = Epilogue(),
                        precision: str = "fp32") -> None:
    """Write to `y` (N x O x ...) the cross-correlation of `x` (N x C x ...) with `weight` (O x C/group x ...).

    Any number of spatial axes, any strides; `geometry` has one number per spatial axis. float32, or float64, whose
    products are always float64. The size of `y` is the number of windows; pixels outside of `x` are zero. The
    epilogue is applied to `y`.
    """
    narrowed = _kind(x, precision) in _HALVES.values()
    bias, scale, shift = (value if value is None else cupy.ascontiguousarray(value) for value in epilogue[:3])
    epilogue = Epilogue(bias, scale, shift, epilogue.relu)
    # cuDNN adds the bias if no other pass over y is needed: its own ReLU makes 0 of NaN
    inside = bias is not None and scale is None and not epilogue.relu and not narrowed
    plan = _plan("forward", x, weight, y, geometry, precision, inside)
    result = _ready(y, filled=False)
    if plan is None:
        fallback.forward(x, weight, result, geometry, precision)
    elif narrowed:
        out = half.empty(y.shape)
        plans.run(plan, half.narrow(x, precision), half.narrow(weight, precision), out)
        half.widen(out, result, precision, epilogue)
    else:
        plans.run(plan, _ready(x), _ready(weight), result, _ready(bias) if inside else None)
    if plan is None or not (inside or narrowed):
        _apply(result, epilogue)
    store(result, y)


def _apply(y: Array, epilogue: Epilogue) -> None:
    """Apply an epilogue in place to the C-contiguous `y`."""
    if not epilogue.is_identity:
        bias, scale, shift, relu = epilogue
        arrays = (y if values is None else values for values in (bias, scale, shift))
        launch("convolution_finish", y.size, y.dtype, y, *arrays, y.shape[1], math.prod(y.shape[2:]),
               bias is not None, scale is not None, relu)


def convolution_backward_data(dy: Array, weight: Array, dx: Array, geometry: Geometry,
                              precision: str = "fp32") -> None:
    """Write to `dx` the gradient of the input of `convolution_forward`, from the output's, `dy`."""
    plan = _plan("data", dx, weight, dy, geometry, precision)
    if plan is None:
        fallback.backward_data(dy, weight, dx, geometry, precision)
        return
    result = _ready(dx, filled=False)
    if _kind(dy, precision) in _HALVES.values():
        out = half.empty(dx.shape)
        plans.run(plan, half.narrow(dy, precision), half.narrow(weight, precision), out)
        half.widen(out, result, precision)
    else:
        plans.run(plan, _ready(dy), _ready(weight), result)
    store(result, dx)


def convolution_backward_weights(x: Array, dy: Array, dweight: Array, dbias: Array | None, geometry: Geometry,
                                 precision: str = "fp32") -> None:
    """Add the gradients of the parameters of `convolution_forward` to `dweight`, and to `dbias` unless it is None."""
    plan = _plan("weights", x, dweight, dy, geometry, precision)
    if plan is None:
        fallback.backward_weights(x, dy, dweight, geometry, precision)
    elif _kind(x, precision) in _HALVES.values():
        out, result = half.empty(dweight.shape), _ready(dweight)
        plans.run(plan, half.narrow(x, precision), half.narrow(dy, precision), out)
        half.widen(out, result, precision, add=True)
        store(result, dweight)
    else:
        gradient = cupy.empty(dweight.shape, dweight.dtype)     # cuDNN overwrites
        plans.run(plan, _ready(x), _ready(dy), gradient)
        dweight += gradient
    if dbias is not None:
        dbias += dy.reshape(*dy.shape[:2], math.prod(dy.shape[2:])).sum(2).sum(0)


def _kind(array: Array, precision: str) -> str:
    """cuDNN's name of the type that is multiplied."""
    return "DOUBLE" if array.dtype == np.float64 else _HALVES.get(precision, "FLOAT")


def _plan(operation: str, x: Array, weight: Array, y: Array, geometry: Geometry, precision: str,
          bias: bool = False) -> Any:
    """The plan, or None: there are none for empty arrays, for other than one to three spatial axes, and for windows
    that reach beyond the padding, which Caffe has."""
    if not 3 <= x.ndim <= 5 or 0 in (x.size, weight.size, y.size):
        return None
    kernel, stride, pad, dilation, group = geometry
    counts = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(x.shape[2:], *geometry[:4]))
    if tuple(counts) != y.shape[2:]:
        return None
    line = (1,) * (x.ndim == 3)     # one row of a plane
    x_shape, weight_shape, y_shape = ((*array.shape[:2], *line, *array.shape[2:]) for array in (x, weight, y))
    if line:
        geometry = Geometry((1, *kernel), (1, *stride), (0, *pad), (1, *dilation), group)
    return plans.find(plans.Problem(operation, x_shape, weight_shape, y_shape, geometry, _kind(x, precision), bias,
                                    precision == "fp32"))


def _ready(array: Array, filled: bool = True) -> Array:
    """The array if its memory is as cuDNN needs it, else a new one, with the array's values if `filled`."""
    if array.flags.c_contiguous and array.data.ptr % ALIGNMENT == 0:
        return array
    copy = cupy.empty(array.shape, array.dtype)
    if filled:
        copy[...] = array
    return copy
