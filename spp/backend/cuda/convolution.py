"""Convolution on the GPU: cuDNN where it has a plan, else im2col and cuBLAS.

The four precisions differ in what the products are made of; sums and blobs are float32 in all of them:
fp32 multiplies float32, tf32 float32 rounded to 10 bits, bf16 and fp16 those types. For the last two, operands
are converted and results converted back, and since that is a copy anyway it also lays them channels last, which
is what tensor cores work on; float32 stays in C order, where cuDNN transposes if its engine wants it.
"""
import math
from typing import Any

import cupy
import numpy as np

from spp.backend.cuda import convolution_fallback as fallback
from spp.backend.cuda import convolution_plans as plans
from spp.backend.cuda import half
from spp.backend.cuda.kernels import launch

ALIGNMENT = 16      # bytes, that cuDNN takes for granted

Numbers = tuple[int, ...]
_HALVES = {"fp16": "HALF", "bf16": "BFLOAT16"}


def convolution_forward(x: Any, weight: Any, bias: Any, y: Any, stride: Numbers, pad: Numbers, dilation: Numbers,
                        group: int, relu: bool = False, precision: str = "fp32", scale: Any = None,
                        shift: Any = None) -> None:
    """Write to `y` (N x O x ...) the cross-correlation of `x` (N x C x ...) with `weight` (O x C/group x ...).

    Any number of spatial axes, any strides; `stride`, `pad`, `dilation` have one number a spatial axis. float32
    or float64, whose products are always its own. The size of `y` says how many windows there are; what lies
    outside of `x` is zero. Then, by channel, + `bias`, which may be None, and * `scale` + `shift`, O values each or
    both None. `relu`: y = max(y, 0), NaN stays NaN.
    """
    kind = _kind(x, precision)
    narrowed = kind in _HALVES.values()
    bias, scale, shift = (value if value is None else cupy.ascontiguousarray(value) for value in (bias, scale, shift))
    # cuDNN adds the bias where no other pass over y has to be made: its own ReLU makes 0 of NaN
    inside = bias is not None and scale is None and not relu and not narrowed
    plan = _plan("forward", x, weight, y, stride, pad, dilation, kind, inside, precision == "fp32")
    result = _ready(y, filled=False)
    if plan is None:
        fallback.forward(x, weight, result, stride, pad, dilation, group, precision)
    elif narrowed:
        out = half.empty(y.shape)
        plans.run(plan, half.narrow(x, precision), half.narrow(weight, precision), out)
        half.widen(out, result, precision, bias, scale=scale, shift=shift, relu=relu)
    else:
        plans.run(plan, _ready(x), _ready(weight), result, _ready(bias) if inside else None)
    if plan is None or not (inside or narrowed):
        _finish(result, bias, scale, shift, relu)
    _put(result, y)


def _finish(y: Any, bias: Any, scale: Any, shift: Any, relu: bool) -> None:
    """y = (y + bias) * scale + shift, each with a value a channel or absent, then the maximum with 0 if `relu`."""
    if bias is not None or scale is not None or relu:
        given = [y if values is None else values for values in (bias, scale, shift)]
        launch("convolution_finish", y.size, y.dtype, y, *given, y.shape[1], math.prod(y.shape[2:]),
               bias is not None, scale is not None, relu)


def convolution_backward_data(dy: Any, weight: Any, dx: Any, stride: Numbers, pad: Numbers, dilation: Numbers,
                              group: int, precision: str = "fp32") -> None:
    """Write to `dx` the gradient of the input of `convolution_forward`, from the output's, `dy`."""
    kind = _kind(dy, precision)
    plan = _plan("data", dx, weight, dy, stride, pad, dilation, kind, False, precision == "fp32")
    if plan is None:
        fallback.backward_data(dy, weight, dx, stride, pad, dilation, group, precision)
        return
    result = _ready(dx, filled=False)
    if kind in _HALVES.values():
        out = half.empty(dx.shape)
        plans.run(plan, half.narrow(dy, precision), half.narrow(weight, precision), out)
        half.widen(out, result, precision)
    else:
        plans.run(plan, _ready(dy), _ready(weight), result)
    _put(result, dx)


def convolution_backward_weights(x: Any, dy: Any, dweight: Any, dbias: Any, stride: Numbers, pad: Numbers,
                                 dilation: Numbers, group: int, precision: str = "fp32") -> None:
    """Add to `dweight` and `dbias` the gradients of the parameters of `convolution_forward`."""
    kind = _kind(x, precision)
    plan = _plan("weights", x, dweight, dy, stride, pad, dilation, kind, False, precision == "fp32")
    if plan is None:
        fallback.backward_weights(x, dy, dweight, stride, pad, dilation, group, precision)
    elif kind in _HALVES.values():
        out, result = half.empty(dweight.shape), _ready(dweight)
        plans.run(plan, half.narrow(x, precision), half.narrow(dy, precision), out)
        half.widen(out, result, precision, add=True)
        _put(result, dweight)
    else:
        gradient = cupy.empty(dweight.shape, dweight.dtype)     # cuDNN overwrites
        plans.run(plan, _ready(x), _ready(dy), gradient)
        dweight += gradient
    if dbias is not None:
        dbias += dy.reshape(*dy.shape[:2], math.prod(dy.shape[2:])).sum(2).sum(0)


def _kind(array: Any, precision: str) -> str:
    """cuDNN's name of the type that is multiplied."""
    return "DOUBLE" if array.dtype == np.float64 else _HALVES.get(precision, "FLOAT")


def _plan(operation: str, x: Any, weight: Any, y: Any, stride: Numbers, pad: Numbers, dilation: Numbers, kind: str,
          bias: bool, strict: bool) -> plans.Plan | None:
    """The plan, or None: there are none for empty arrays, for other than one to three spatial axes, and for windows
    that reach beyond the padding, which Caffe has."""
    if not 3 <= x.ndim <= 5 or 0 in (x.size, weight.size, y.size):
        return None
    counts = ((n + 2 * p - d * (k - 1) - 1) // s + 1
              for n, k, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, pad, dilation))
    if tuple(counts) != y.shape[2:]:
        return None
    line = x.ndim == 3      # one row of a plane
    shapes = [(*array.shape[:2], *(1,) * line, *array.shape[2:]) for array in (x, weight, y)]
    return plans.find(plans.Problem(operation, shapes[0], shapes[1], shapes[2], (1,) * line + tuple(stride),
                                    (0,) * line + tuple(pad), (1,) * line + tuple(dilation), kind, bias, strict))


def _ready(array: Any, filled: bool = True) -> Any:
    """The array if it lies as cuDNN wants it, else another that does, with its values if `filled`."""
    if array.flags.c_contiguous and array.data.ptr % ALIGNMENT == 0:
        return array
    laid = cupy.empty(array.shape, array.dtype)
    if filled:
        laid[...] = array
    return laid


def _put(result: Any, target: Any) -> None:
    if result is not target:
        target[...] = result
