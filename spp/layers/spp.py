"""SPP: spatial pyramid pooling."""
import functools
from typing import Callable, Sequence

import numpy as np

from spp.backend.types import Array
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer
from spp.layers.pooling import Tables, cached_tables
from spp.layers.registry import register
from spp.ops import pooling, spp


@register("SPP")
class SPP(Layer):
    """Spatial pyramid pooling: a vector of fixed length from a map of any size, N x C x H x W (He et al., Sec. 2.2).

    spp_param { bins: 6 bins: 3 bins: 2 bins: 1 }: levels of n x n bins as in the paper. The top is N x (C * sum of
    n^2): the levels in the order listed, each as Pooling and Flatten would return it. bin_rule: the rule for the
    edges of the bins (spp.ops.spp.bins). spp_param { pyramid_height: h }: Caffe's SPP, levels of 2^i x 2^i bins with
    Caffe's windows and padding; with h = 1 the top is N x C x 1 x 1. pool: MAX or AVE. Raises NetError unless either
    bins or pyramid_height is given, and for a map that has too few pixels for Caffe's windows.
    """

    method: str
    rule: str
    tables: Callable[..., Tables]
    counts: Sequence[int]   # of bins by level; their regions, and areas for averages, at the present size:
    regions: Array
    areas: Array
    pooled: Blob            # N x C x bins x 1
    argmax: Blob            # positions for backward, as pooled

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.spp_param
        if bool(p.bins) == p.HasField("pyramid_height"):
            forms = "both" if p.bins else "neither"
            raise NetError(f"spp_param needs either bins (as bins: 6 bins: 3 bins: 2 bins: 1) or Caffe's "
                           f"pyramid_height, found {forms}")
        if p.bins and min(p.bins) < 1:
            raise NetError(f"bins must be at least 1, found {', '.join(map(str, p.bins))}")
        if p.HasField("pyramid_height"):
            if p.pyramid_height < 1:
                raise NetError(f"pyramid_height must be at least 1, found {p.pyramid_height}")
            if p.HasField("bin_rule"):
                raise NetError("bin_rule goes with bins; pyramid_height has Caffe's own rule; remove one")
        self.method = p.PoolMethod.Name(p.pool)
        if self.method not in ("MAX", "AVE"):
            raise NetError(f"spp_param's pool must be MAX or AVE, found {self.method}")
        self.rule = p.BinRule.Name(p.bin_rule)
        make: Callable[..., Tables] = functools.partial(spp.caffe_regions, pyramid_height=p.pyramid_height)
        if p.bins:
            make = functools.partial(spp.pyramid_regions, levels=tuple(p.bins), rule=self.rule)
        self.tables = cached_tables(self.context, make)
        self.pooled = self.buffer()
        self.argmax = self.buffer(np.int32)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if len(bottom[0].shape) != 4:
            raise NetError(f"needs a bottom of N x C x H x W, found shape {bottom[0].shape}")
        n, channels, *size = bottom[0].shape
        self.counts, self.regions, self.areas = self.tables(*size)
        for blob in (self.pooled, self.argmax):
            blob.reshape(n, channels, len(self.regions), 1)
        if self.param.spp_param.pyramid_height == 1:
            top[0].reshape(n, channels, 1, 1)
        else:
            top[0].reshape(n, channels * len(self.regions))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        pooled = self.pooled.data[..., 0]
        if self.method == "MAX":
            argmax = self.argmax.data[..., 0] if self.runs_backward else None
            pooling.max_forward(bottom[0].data, self.regions, pooled, argmax)
        else:
            pooling.average_forward(bottom[0].data, self.regions, self.areas, pooled)
        spp.flatten_forward(pooled, self.counts, top[0].data.reshape(len(pooled), -1))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        gradient = self.pooled.diff[..., 0]
        spp.flatten_backward(top[0].diff.reshape(len(gradient), -1), self.counts, gradient)
        if self.method == "MAX":
            pooling.max_backward(gradient, self.argmax.data[..., 0], self.regions, bottom[0].diff)
        else:
            pooling.average_backward(gradient, self.regions, self.areas, bottom[0].diff)
