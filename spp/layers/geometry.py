"""Parameters that are given once for all spatial axes, once per axis, or as `_h` and `_w`."""
import re
from typing import Any

from spp.backend.types import Geometry, Numbers
from spp.errors import NetError
from spp.layers.base import format_shape


def axis_numbers(p: Any, name: str, axes: int = 2, one_side: bool = False) -> tuple[Any, ...]:
    """The number for each spatial axis that the message `p` gives as `name` or as its `_h` and `_w`; () for none.

    A repeated field is given once, or once per axis; kernel_h and kernel_w replace kernel_size. one_side: whether
    `_h` may be given without `_w`, and `_w` without `_h`. Raises NetError if both forms are given, for `_h` and `_w`
    unless there are 2 axes, and for another count of numbers.
    """
    message = re.sub("(?<=[a-z])(?=[A-Z])", "_", p.DESCRIPTOR.name.removesuffix("eter")).lower()
    values = getattr(p, name)
    repeated = not isinstance(values, (int, float))
    numbers = tuple(values) if repeated else (values,) if p.HasField(name) else ()
    high, wide = (f"{name.removesuffix('_size')}_{side}" for side in "hw")
    sides = [side for side in (high, wide) if side in p.DESCRIPTOR.fields_by_name and p.HasField(side)]
    if sides:
        if numbers:
            raise NetError(f"{message} takes either {name}, or {high} and {wide}, not both")
        if axes != 2:
            raise NetError(f"{high} and {wide} need 2 spatial axes, found {axes}; use {name}"
                           + ", once per axis" * repeated)
        if len(sides) == 1 and not one_side:
            missing = wide if sides == [high] else high
            raise NetError(f"{message} has {sides[0]} without {missing}; give both, or {name} alone")
        return getattr(p, high), getattr(p, wide)
    if len(numbers) not in (0, 1, axes):
        raise NetError(f"{name} must be given once, or once for each of the {axes} spatial axes; found "
                       f"{len(numbers)} numbers")
    return numbers * axes if len(numbers) == 1 else numbers


def convolution_geometry(p: Any, axes: int) -> Geometry:
    """The windows of a ConvolutionParameter over `axes` spatial axes.

    By default stride and dilation are 1, pad 0. NetError as `axis_numbers`, without kernel size, and for other zeros.
    """
    return Geometry(_numbers(p, "kernel_size", axes), _numbers(p, "stride", axes, 1), _numbers(p, "pad", axes, 0),
                    _numbers(p, "dilation", axes, 1), p.group)


def _numbers(p: Any, name: str, axes: int, default: int | None = None) -> Numbers:
    numbers = axis_numbers(p, name, axes, one_side=default == 0)
    if not numbers and axes:
        if default is None:
            raise NetError("convolution_param needs kernel_size, or kernel_h and kernel_w")
        numbers = (default,) * axes
    if default != 0 and 0 in numbers:
        raise NetError(f"{name} must be at least 1 on every axis, found {format_shape(numbers)}")
    return numbers
