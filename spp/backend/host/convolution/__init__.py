"""Convolution on the host: one file per kernel; choose.py decides which one computes, and this file calls it.

The functions compute in the dtype of the arrays, whatever the `precision`.
"""
from typing import Any

import numpy as np

from spp.backend.host import onednn
from spp.backend.host.blas import one_thread
from spp.backend.host.convolution import choose, depthwise, im2row, nd, winograd
from spp.backend.host.convolution.choose import DEPTHWISE, IM2ROW, ONEDNN, WINOGRAD, microseconds
from spp.backend.host.layout import load_channels_last, pixels, store
from spp.backend.host.scratch import scratch
from spp.backend.host.threads import by_one_if_short
from spp.backend.types import Epilogue, Geometry

KERNELS: dict[str, Any] = {WINOGRAD: winograd, DEPTHWISE: depthwise, IM2ROW: im2row}


@by_one_if_short(lambda x, weight, y, *_: microseconds(y, weight))
def convolution_forward(x: np.ndarray, weight: np.ndarray, y: np.ndarray, geometry: Geometry,
                        epilogue: Epilogue = Epilogue(), precision: str = "fp32") -> None:
    """Write to `y` (N x O x ...) the cross-correlation of `x` (N x C x ...) with `weight` (O x C/group x ...).

    Any number of spatial axes, any strides, one floating dtype; `geometry` has one number per spatial axis. The size
    of `y` is the number of windows; pixels outside of `x` are zero. The epilogue is applied to `y`.
    """
    if x.ndim != 4:
        return nd.forward(x, weight, y, geometry, epilogue)
    one_thread()
    source, out = load_channels_last(x, "convolution.x"), pixels(y, "convolution.y")
    plan, kernel = _select("forward", source, out, weight, geometry, epilogue)
    if plan and epilogue.scale is None and epilogue.bias is not None and epilogue.bias.flags.c_contiguous:
        rows = epilogue.bias[np.newaxis]
    else:
        rows = scratch("convolution.epilogue", (3, len(weight)), x.dtype)
        for row, values, neutral in zip(rows, epilogue, (0, 1, -0.0)):      # -0 + 0 would be 0
            row[:] = neutral if values is None else values
    if plan:
        plan.forward(source, weight, rows, out)
    else:
        kernel.forward(source, weight, rows, out, geometry, x.dtype.type(0 if epilogue.relu else -np.inf))
    store(out.transpose(0, 3, 1, 2), y)


@by_one_if_short(lambda dy, weight, *_: microseconds(dy, weight))
def convolution_backward_data(dy: np.ndarray, weight: np.ndarray, dx: np.ndarray, geometry: Geometry,
                              precision: str = "fp32") -> None:
    """Write to `dx` the gradient of the input of `convolution_forward`, from the output's, `dy`."""
    if dy.ndim != 4:
        return nd.backward_data(dy, weight, dx, geometry)
    one_thread()
    source, out = load_channels_last(dy, "convolution.y"), load_channels_last(dx, "convolution.x")
    plan, kernel = _select("backward_data", out, source, weight, geometry)
    if plan:
        plan.backward_data(source, weight, out)
    else:
        kernel.backward_data(source, weight, out, geometry)
    store(out.transpose(0, 3, 1, 2), dx)


def convolution_backward_weights(x: np.ndarray, dy: np.ndarray, dweight: np.ndarray, dbias: np.ndarray | None,
                                 geometry: Geometry, precision: str = "fp32") -> None:
    """Add the gradients of the parameters of `convolution_forward` to `dweight`, and to `dbias` unless it is None."""
    if x.ndim != 4:
        return nd.backward_weights(x, dy, dweight, dbias, geometry)
    one_thread()
    source, gradient = load_channels_last(x, "convolution.x"), load_channels_last(dy, "convolution.y")
    plan, kernel = _select("backward_weights", source, gradient, dweight, geometry)
    if plan:
        plan.backward_weights(source, gradient, dweight, dbias)
    else:
        kernel.backward_weights(source, gradient, dweight, dbias, geometry)


def _select(kind: str, x: np.ndarray, y: np.ndarray, weight: np.ndarray, geometry: Geometry,
            epilogue: Epilogue = Epilogue()) -> tuple[onednn.Plan | None, Any]:
    """oneDNN's plan for this convolution if that is the choice, and the module of this package otherwise."""
    has_onednn = x.dtype == np.float32 and onednn.available()
    first, second = choose.choose(kind, x, y, weight, geometry, has_onednn)
    plan = onednn.plan(kind, x, y, weight, geometry, epilogue) if first == ONEDNN else None
    return plan, KERNELS[second]
