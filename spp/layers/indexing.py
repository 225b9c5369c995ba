"""Layers that pick rows (all that one index of axis 0 has) by index: BatchReindex, Filter, Embed."""
from typing import Any, Sequence

import numpy as np

from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, canonical_axis, format_shape
from spp.layers.registry import register
from spp.ops import indexing


def row_indices(layer: Layer, blob: Blob, rows: int, what: str) -> Any:
    """A blob's values as integers; `layer.check_values` one that is not at least 0 and below `rows`."""
    values = blob.data
    layer.check_values(~((values >= 0) & (values < rows)), values, lambda found: (
        f"index {found:g} is out of range: {what} {rows} row(s), 0 to {rows - 1}"))
    return values.astype(np.int64)


def refuse_gradient(wanted: bool, what: str, bottom: int, bottoms: int) -> None:
    """Raise NetError, with the remedy, if a bottom that has no gradient is to get one."""
    if wanted:
        flags = " ".join(f"propagate_down: {'false' if i == bottom else 'true'}" for i in range(bottoms))
        raise NetError(f"{what}, bottom {bottom}, have no gradient, but what makes them asks for one; write {flags} "
                       "in this layer")


@register("BatchReindex")
class BatchReindex(Layer):
    """Rows of bottom 0 in the order of the indices, bottom 1, which may leave out and repeat (Caffe: BatchReindex)."""

    bottoms = (2, 2)

    def differentiable(self, bottom: int) -> bool:
        return bottom == 0

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if len(bottom[1].shape) != 1:
            raise NetError(f"the indices, bottom 1, must have 1 axis, found shape {format_shape(bottom[1].shape)}")
        canonical_axis(0, len(bottom[0].shape))
        top[0].reshape(bottom[1].shape + bottom[0].shape[1:])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.indices = row_indices(self, bottom[1], bottom[0].shape[0], "bottom 0 has")
        indexing.take_forward(bottom[0].data, self.indices, top[0].data)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        refuse_gradient(propagate_down[1], "the indices", 1, 2)
        if propagate_down[0]:
            bottom[0].diff[...] = 0
            indexing.take_backward(top[0].diff, self.indices, bottom[0].diff)


@register("Filter")
class Filter(Layer):
    """The rows for which the selector, the last bottom, is not 0; maybe none (Caffe: Filter).

    As in Caffe the tops have all rows until the first forward: a layer behind takes its sizes from them.
    """

    bottoms = (2, None)
    tops = (1, None)

    def differentiable(self, bottom: int) -> bool:
        return bottom != len(self.param.bottom) - 1

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if len(bottom) != len(top) + 1:
            raise NetError(f"makes one top for each bottom but the last, the selector; found {len(bottom)} bottoms "
                           f"and {len(top)} top(s)")
        self.rows = None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        *data, selector = bottom
        if not selector.shape or any(size != 1 for size in selector.shape[1:]):
            raise NetError(f"the selector, the last bottom, must have one number a row, found shape "
                           f"{format_shape(selector.shape)}")
        for i, blob in enumerate(data):
            if blob.shape[:1] != selector.shape[:1]:
                raise NetError(f"bottom {i} of shape {format_shape(blob.shape)} must have as many rows as the "
                               f"selector, "
                               f"which has {selector.shape[0]}")
        if self.rows is None:
            self.rows = np.arange(selector.shape[0])
        else:
            self.rows = np.flatnonzero(self.context.backend.to_host(selector.data))
        self.picked = self.context.backend.from_host(self.rows)
        for blob, shaped in zip(data, top):
            shaped.reshape((len(self.rows),) + blob.shape[1:])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob, picked in zip(bottom, top):
            indexing.take_forward(blob.data, self.picked, picked.data)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        refuse_gradient(propagate_down[-1], "the selectors", len(bottom) - 1, len(bottom))
        for blob, picked, wanted in zip(bottom, top, propagate_down):
            if wanted:
                blob.diff[...] = 0
                blob.diff[self.picked] = picked.diff


@register("Embed")
class Embed(Layer):
    """For each index of the bottom its row of a learned table, + bias if bias_term (Caffe: Embed).

    The top has the bottom's axes, then num_output. Parameters: weight input_dim x num_output, bias num_output.
    """

    def differentiable(self, bottom: int) -> bool:
        return False

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.embed_param
        for name in ("num_output", "input_dim"):
            if getattr(p, name) < 1:
                raise NetError(f"embed_param needs {name}, at least 1")
        self.add_filled((p.input_dim, p.num_output), p.weight_filler)
        if p.bias_term:
            self.add_filled((p.num_output,), p.bias_filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].reshape(bottom[0].shape + self.blobs[0].shape[1:])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        weight, *bias = (blob.data for blob in self.blobs)
        self.indices = row_indices(self, bottom[0], len(weight), "the table has (input_dim)")
        indexing.embed_forward(self.indices, weight, bias[0] if bias else None, top[0].data)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        refuse_gradient(propagate_down[0], "the indices", 0, 1)
        dy = top[0].diff
        if self.param_propagate_down[0]:
            indexing.take_backward(dy, self.indices, self.blobs[0].diff)
        if len(self.blobs) > 1 and self.param_propagate_down[1]:
            self.blobs[1].diff[...] += dy.sum(tuple(range(dy.ndim - 1)))
