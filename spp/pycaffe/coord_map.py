"""Coordinate maps between the pixels of two blobs, through the layers between them; and the Crop that aligns them.

A map is (axis, scale, shift): the first spatial axis, not counting the batch axis (None if it does not matter), and
for each spatial axis x -> scale * x + shift.
"""
from typing import Any

import numpy as np

from spp.pycaffe.common import CaffeError
from spp.pycaffe.net_spec import Function, Top, layers

Map = tuple[Any, Any, Any]

PASS_THROUGH = frozenset(["AbsVal", "BatchNorm", "Bias", "BNLL", "Dropout", "Eltwise", "ELU", "Log", "LRN", "Exp",
                          "MVN", "Power", "ReLU", "PReLU", "Scale", "Sigmoid", "Split", "TanH", "Threshold"])
IDENTITY: Map = (None, 1, 0)


class AxisMismatchException(CaffeError):
    """Two maps along one path have different axes."""


class CropError(CaffeError, AssertionError):
    """A crop cannot align two tops."""


def coord_map(fn: Function) -> Map | None:
    """The map from a layer's bottom to its top; None for a layer that has none."""
    if fn.type_name in PASS_THROUGH:
        return IDENTITY
    if fn.type_name in ("Convolution", "Pooling", "Im2col"):
        axis, stride, window, pad = _windows(fn)
        return axis, 1 / stride, (pad - (window - 1) / 2) / stride
    if fn.type_name == "Deconvolution":
        axis, stride, window, pad = _windows(fn)
        return axis, stride, (window - 1) / 2 - pad
    if fn.type_name == "Crop":
        params = fn.params.get("crop_param", fn.params)
        return params.get("axis", 2) - 1, 1, -np.array(params.get("offset", 0), ndmin=1)
    return None


def _windows(fn: Function) -> tuple[int, Any, Any, Any]:
    """Axis, stride, extent of the dilated kernel, and pad of a layer with sliding windows."""
    blocks = [block for block in ("convolution_param", "pooling_param") if block in fn.params]
    params = fn.params[blocks[0]] if blocks else fn.params
    legacy = {f"{name}_{side}" for name in ("pad", "kernel", "stride") for side in "hw"} & set(params)
    if legacy or "kernel_size" not in params:
        fields = ", ".join(sorted(legacy)) or "no kernel_size"
        raise CropError(f"{fn.type_name}: coordinate maps need kernel_size, stride and pad, not fields ending in _h "
                        f"and _w, and not global pooling; found {fields}")
    size, stride, pad, dilation = (np.array(params.get(name, default), ndmin=1) for name, default in
                                   (("kernel_size", 1), ("stride", 1), ("pad", 0), ("dilation", 1)))
    return params.get("axis", 1), stride, (size - 1) * dilation + 1, pad


def compose(first: Map, second: Map) -> Map:
    """The map that applies `second`, then `first`; raises AxisMismatchException."""
    if first[0] is not None and second[0] is not None and first[0] != second[0]:
        raise AxisMismatchException(f"cannot join coordinate maps of axes {first[0]} and {second[0]}: give all layers "
                                    "between the two tops the same axis")
    axis = first[0] if first[0] is not None else second[0]
    return axis, first[1] * second[1], first[1] * second[2] + first[2]


def inverse(one: Map) -> Map:
    """The inverse map."""
    axis, scale, shift = one
    return axis, 1 / scale, -shift / scale


def coord_map_from_to(top_from: Top, top_to: Top) -> Map:
    """The map from the pixels of `top_from` to those of `top_to`, through their nearest common ancestor.

    Raises CaffeError, a RuntimeError, if spatial layers do not connect them.
    """
    to_from = _maps_of_ancestors(top_from)
    for ancestor, to_to in _maps_of_ancestors(top_to).items():
        if ancestor in to_from:
            return compose(to_to, inverse(to_from[ancestor]))
    raise CaffeError("Could not compute map between tops; are they connected by spatial layers?")


def _maps_of_ancestors(top: Top) -> dict[Top, Map]:
    """The maps to `top` from itself and from all its ancestors, nearest first."""
    maps = {top: IDENTITY}
    queue = [top]
    for current in queue:
        one = coord_map(current.fn)
        if one is None:
            continue
        inputs = current.fn.inputs
        for bottom in inputs[:1] if current.fn.type_name == "Crop" else inputs:     # the second is only a size
            if bottom not in maps:
                maps[bottom] = compose(maps[current], one)
                queue.append(bottom)
    return maps


def crop(top_from: Top, top_to: Top) -> Top:
    """A Crop layer that aligns `top_from` with `top_to`, pixel by pixel, with axis and offset filled in.

    Raises CropError, an AssertionError, if their scales differ, or the offset is negative or not an integer.
    """
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    scale, shift = np.atleast_1d(scale), np.atleast_1d(shift)
    if not (scale == 1).all():
        raise CropError(f"scale mismatch on crop (scale {scale.tolist()}): both tops must have the same resolution")
    if not (shift <= 0).all():
        raise CropError(f"cannot crop at a negative offset ({(-shift).tolist()}): pad the layers before")
    if not (np.round(shift) == shift).all():
        raise CropError(f"cannot crop at an offset that is no whole number ({(-shift).tolist()}): change kernel_size "
                        "or pad of the layers before")
    return layers.Crop(top_from, top_to, crop_param={"axis": 2 if axis is None else axis + 1,
                                                     "offset": [int(value) for value in -shift]})
