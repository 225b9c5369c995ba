"""The types that ops and backends exchange besides arrays."""
from typing import Any, NamedTuple

Array = Any                     # numpy.ndarray on the host, cupy.ndarray on a GPU
Numbers = tuple[int, ...]       # one number per spatial axis


class Geometry(NamedTuple):
    """Where a convolution's windows are; one number per spatial axis in each tuple.

    kernel, stride, pad, dilation: in pixels. group: the number of groups that divide channels and outputs.
    """

    kernel: Numbers
    stride: Numbers
    pad: Numbers
    dilation: Numbers
    group: int = 1


class Epilogue(NamedTuple):
    """What is computed from a result y in the pass that writes it: y = (y + bias) * scale + shift, then max(y, 0).

    bias, scale, shift: one value per channel, or None for 0, 1 and 0 (scale and shift: both or neither).
    relu: NaN stays NaN.
    """

    bias: Array = None
    scale: Array = None
    shift: Array = None
    relu: bool = False
