"""Layers that select rows by index: BatchReindex, Filter, Embed. A row is a slice x[i] along axis 0."""
from typing import Sequence

import numpy as np

from spp.backend.types import Array
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, canonical_axis, format_shape
from spp.layers.registry import register
from spp.ops import indexing


def row_indices(layer: Layer, blob: Blob, rows: int, what: str) -> Array:
    """A blob's values as int64 of its shape; one that is not 0 to rows - 1 raises NetError, by `check_values`.

    what: the beginning of the message, such as "bottom 0 has".
    """
    values = blob.data
    layer.check_values(~((values >= 0) & (values < rows)), values, lambda index: (
        f"index {index:g} is out of range: {what} {rows} row(s), 0 to {rows - 1}"))
    return values.astype(np.int64)


def check_no_gradient(propagate: bool, what: str, bottom: int, bottoms: int) -> None:
    """Raise NetError, with the remedy, if `propagate` asks for the gradient of a bottom that has none."""
    if propagate:
        flags = " ".join(f"propagate_down: {'false' if i == bottom else 'true'}" for i in range(bottoms))
        raise NetError(f"{what}, bottom {bottom}, have no gradient, but what makes them asks for one; write {flags} "
                       "in this layer")


@register("BatchReindex")
class BatchReindex(Layer):
    """top[i] = bottom 0[bottom 1[i]] (Caffe: BatchReindex).

    Bottoms: rows N x ..., and K indices from 0 to N - 1, in any order, of any rows; top: K x .... Raises NetError for
    other indices, and if they are to get a gradient.
    """

    bottoms = (2, 2)
    differentiable_bottoms = 1
    indices: Array      # of the last forward

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if len(bottom[1].shape) != 1:
            raise NetError(f"the indices, bottom 1, must have 1 axis, found shape {format_shape(bottom[1].shape)}")
        canonical_axis(0, len(bottom[0].shape))
        top[0].reshape(bottom[1].shape + bottom[0].shape[1:])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.indices = row_indices(self, bottom[1], bottom[0].shape[0], "bottom 0 has")
        indexing.take_forward(bottom[0].data, self.indices, top[0].data)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        check_no_gradient(propagate_down[1], "the indices", 1, 2)
        if propagate_down[0]:
            bottom[0].diff[...] = 0
            indexing.take_backward(top[0].diff, self.indices, bottom[0].diff)


@register("Filter")
class Filter(Layer):
    """The rows for which the selector, the last bottom, is not 0; maybe none (Caffe: Filter).

    Bottoms: N x ... each, and the selector, N values; one top per bottom but the selector. As in Caffe the tops have
    all rows until the first forward: later layers are set up with these sizes. Raises NetError for other shapes, and
    if the selector is to get a gradient.
    """

    bottoms = (2, None)
    tops = (1, None)
    rows: np.ndarray | None     # the selected indices, on the host and on the device; None before the first reshape
    selected: Array

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
            raise NetError(f"the selector, the last bottom, must have one number per row, found shape "
                           f"{format_shape(selector.shape)}")
        for i, blob in enumerate(data):
            if blob.shape[:1] != selector.shape[:1]:
                raise NetError(f"bottom {i} of shape {format_shape(blob.shape)} must have as many rows as the "
                               f"selector, which has {selector.shape[0]}")
        if self.rows is None:
            self.rows = np.arange(selector.shape[0])
        else:
            self.rows = np.flatnonzero(self.context.backend.to_host(selector.data))
        self.selected = self.context.backend.from_host(self.rows)
        for blob, out in zip(data, top):
            out.reshape((len(self.rows),) + blob.shape[1:])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob, out in zip(bottom, top):
            indexing.take_forward(blob.data, self.selected, out.data)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        check_no_gradient(propagate_down[-1], "the selectors", len(bottom) - 1, len(bottom))
        for blob, out, propagate in zip(bottom, top, propagate_down):
            if propagate:
                blob.diff[...] = 0
                blob.diff[self.selected] = out.diff


@register("Embed")
class Embed(Layer):
    """weight[index] (+ bias if bias_term) for each index of the bottom (Caffe: Embed).

    Bottom: any shape; top: the bottom's axes, then num_output. Parameters: weight input_dim x num_output, bias
    num_output. Raises NetError for an index that is not 0 to input_dim - 1, and if the indices are to get a gradient.
    """

    differentiable_bottoms = 0
    indices: Array      # of the last forward

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
        check_no_gradient(propagate_down[0], "the indices", 0, 1)
        dy = top[0].diff
        if self.param_propagate_down[0]:
            indexing.take_backward(dy, self.indices, self.blobs[0].diff)
        if len(self.blobs) > 1 and self.param_propagate_down[1]:
            self.blobs[1].diff[...] += dy.sum(tuple(range(dy.ndim - 1)))
