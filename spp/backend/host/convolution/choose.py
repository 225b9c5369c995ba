"""The choice of the kernel that computes a convolution over two spatial axes.

ONEDNN       oneDNN's direct sums, if its wheel is installed; it may decline a shape (onednn/convolution.py)
WINOGRAD     fewer multiplications for 3 x 3 and 5 x 5 kernels (winograd.py)
DEPTHWISE    direct sums for one kernel per channel (depthwise.py)
IM2ROW       rows of receptive fields and matrix products (im2row.py)

The numbers in capitals below are the only ones of the choice that depend on the processor. They were measured on two
AVX-512 cores, over the layers of ZF-5, AlexNet, VGG-16, SqueezeNet and ResNet-18 (docs/speed.md). oneDNN's speed over
im2row with a BLAS that uses AVX-512, for one image and for 8 to 32:

                                         forward                  gradient of input   of weights
  first layers, 3 channels               1.4-1.9, 1.7-3.9         not computed        0.5-1.2
  3 x 3 with stride 2                    1.2-1.7, 1.2             1.2-1.5             0.9
  1 x 1                                  0.8-1.1, 1.1-2.2         0.8-1.5             0.3-1.3
  2 groups of 48 channels; 32 groups     1.5, 1.0; 3.5, 5.0      1.6; 9.2            0.9; 3.0
  depthwise                              0.8-1.1, 1.9            1.5-1.8             1.2-1.6
  too few tiles for Winograd             1.5-1.9                  -                   -
  against Winograd by oneDNN's products  0.5-0.9, 0.5-0.7         0.9-1.1, 0.5-0.7    0.9-1.1 (2 groups)

and so oneDNN computes whatever Winograd's algorithm does not, but of the gradients of weights only those of groups. It
writes whole images only: the outputs of a slice of channels are Winograd's or im2row's.
"""
from typing import NamedTuple

import numpy as np

from spp.backend import EXACT
from spp.backend.host import onednn
from spp.backend.host.convolution.winograd import PHASES, POINTS, grid_of
from spp.backend.host.layout import pixel_stride
from spp.backend.types import Geometry

ONEDNN, WINOGRAD, DEPTHWISE, IM2ROW = "onednn", "winograd", "depthwise", "im2row"


class Threshold(NamedTuple):
    """From which sizes on Winograd's algorithm is faster.

    channels: of input and output, the smaller number with BLAS; input * output / (input + output) with oneDNN.
    tiles: transforming the weights takes as long as so many tiles. cached_tiles: so does reading transformed weights.
    """

    channels: int
    tiles: int
    cached_tiles: int | None = None


WINOGRAD_IF = {
    "blas": Threshold(32, 50),                              # against im2row; products by BLAS
    "forward": Threshold(20, 300, 18),                      # these against oneDNN's direct sums; products by oneDNN
    "forward to a slice of channels": Threshold(12, 300, 0),            # against im2row
    "backward_data": Threshold(20, 300),
    "backward_weights": Threshold(10, 16),                              # against im2row
}
WINOGRAD_SAVING = 3 / 4         # of multiplications: its products take longer than the few large ones of im2row
PRODUCTS_PER_MICROSECOND = 90_000       # of one thread


def microseconds(y: np.ndarray, weight: np.ndarray) -> float:
    """About how long one thread takes for a convolution with this output, or one of its gradients."""
    return y.size * weight[0].size / PRODUCTS_PER_MICROSECOND


def choose(kind: str, x: np.ndarray, y: np.ndarray, weight: np.ndarray, geometry: Geometry,
           has_onednn: bool) -> tuple[str, str]:
    """The kernel to use, and another one for the case that oneDNN declines.

    kind: "forward", "backward_data" or "backward_weights". x, y, or their gradients: N x H x W x C, y as `pixels`
    returns it; weight: O x C / group x kernel. Only shapes, dtypes and memory order count. has_onednn: for this dtype.
    """
    winograd = _winograd_pays(kind, x, y, weight, geometry, has_onednn)
    is_depthwise = weight.shape[:2] == (geometry.group, 1) and geometry.group > 1
    own = WINOGRAD if winograd else DEPTHWISE if is_depthwise else IM2ROW
    onednn_pays = geometry.group > 1 if kind == "backward_weights" else not winograd
    can_use_onednn = (has_onednn and weight.flags.c_contiguous and y.flags.c_contiguous and x.size > 0
                      and y.size > 0)
    return ONEDNN if onednn_pays and can_use_onednn else own, own


def _winograd_pays(kind: str, x: np.ndarray, y: np.ndarray, weight: np.ndarray, geometry: Geometry,
                   has_onednn: bool) -> bool:
    """Whether Winograd's algorithm can compute this convolution, and is faster."""
    kernel, stride, _, dilation, group = geometry
    if EXACT or x.dtype != np.float32 or dilation != (1, 1) or kernel[0] != kernel[1] or stride[0] != stride[1]:
        return False
    if (kernel[0], stride[0]) not in PHASES:
        return False
    count, height, width, outputs = y.shape
    phases = PHASES[kernel[0], stride[0]][0] ** 2
    rows, columns = weight.shape[1] * phases, outputs // group
    if not has_onednn:
        threshold = WINOGRAD_IF["blas"]
        few = min(rows, columns) < threshold.channels
    else:
        is_slice = kind == "forward" and pixel_stride(y) > outputs
        threshold = WINOGRAD_IF["forward to a slice of channels" if is_slice else kind]
        few = rows * columns < threshold.channels * (rows + columns)
    if few:
        return False
    weight_tiles, grid = threshold.tiles, grid_of(height, width)
    if threshold.cached_tiles is not None and onednn.caches(4 * POINTS * rows * columns):
        weight_tiles = threshold.cached_tiles
    tiles = count * grid[0] * grid[1] + weight_tiles
    return POINTS * phases * tiles < WINOGRAD_SAVING * count * height * width * weight[0, 0].size
