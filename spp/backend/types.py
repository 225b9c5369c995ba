"""The types that ops and backends exchange besides arrays."""
from typing import Any, NamedTuple, Sequence

import numpy as np

Array = Any                     # numpy.ndarray on the host, cupy.ndarray on a GPU
Numbers = tuple[int, ...]       # one number per spatial axis


class Geometry(NamedTuple):
    """The sliding windows of a convolution or a pooling; one number per spatial axis in each tuple.

    kernel, stride, pad, dilation: in pixels; a pooling has no dilation. group: the number of groups that divide
    channels and outputs.
    """

    kernel: Numbers
    stride: Numbers
    pad: Numbers
    dilation: Numbers = ()
    group: int = 1

    @property
    def flat(self) -> Numbers:
        """Kernel, stride, pad and dilation in one tuple, for Numba, whose parallel loops take no nested tuples."""
        return *self.kernel, *self.stride, *self.pad, *self.dilation


class Epilogue(NamedTuple):
    """What is computed from a result y in the pass that writes it: y = (y + bias) * scale + shift, then max(y, 0).

    bias, scale, shift: one value per channel, or None for 0, 1 and 0 (scale and shift: both or neither).
    relu: NaN stays NaN.
    """

    bias: Array = None
    scale: Array = None
    shift: Array = None
    relu: bool = False

    @property
    def is_identity(self) -> bool:
        """Whether y stays as it is."""
        return self.bias is None and self.scale is None and not self.relu

    def apply(self, y: Array) -> None:
        """Compute it in place from `y` (... x channels)."""
        if self.bias is not None:
            y += self.bias
        if self.scale is not None:
            y *= self.scale
            y += self.shift
        if self.relu:
            np.maximum(y, 0, out=y)


class LrnParameters(NamedTuple):
    """Parameters of a local response normalization: scale = k + alpha / n * sum of squares, y = x * scale^-beta.

    size: the number of channels, or of rows and columns, of a window, odd; n, the number of elements of a window, is
    size across channels and size^2 within a channel. Within a channel k is 1, as in Caffe, whatever is given.
    """

    size: int
    alpha: float
    beta: float
    k: float = 1.0


class Combination(NamedTuple):
    """y = a * x + b * (z - shift) + c of two arrays x and z; a, shift, b, c: one value per channel."""

    a: Array
    shift: Array
    b: Array
    c: Array


class Interpolation(NamedTuple):
    """For each output pixel along an axis the two input pixels between which it is interpolated.

    first, second: their indices, int32; weight: that of the second, a float of the maps' dtype.
    """

    first: Array
    second: Array
    weight: Array


class Bins(NamedTuple):
    """The bins of R regions, each of which belongs to one image of a batch.

    image: int32 (R). rows, columns: int32 (R, bins, 2), half-open intervals inside the map, in pixels.
    """

    image: Array
    rows: Array
    columns: Array


class UpdateStep(NamedTuple):
    """What an iteration of a solver asks of an update rule. Lists have one number per parameter.

    rate: learning rates. decay: weight decays. l1: whether the decay is of the absolute values instead of the squares.
    scale: the factor of all gradients. iteration: from 0.
    """

    rate: Sequence[float]
    decay: Sequence[float]
    l1: bool
    scale: float
    iteration: int = 0
