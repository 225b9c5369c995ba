"""Layers without bottoms or files: Input, DummyData, Parameter."""
from typing import Iterable, Sequence

from spp import filler
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer
from spp.layers.registry import register
from spp.proto import caffe_pb2


@register("Input")
class Input(Layer):
    """The net's inputs: tops that the caller fills (Caffe: Input). Reshaping an input reshapes the net.

    input_param: no shape, one for all tops, or one per top; raises NetError for another number.
    """

    bottoms = (0, 0)
    tops = (1, None)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shapes = self.param.input_param.shape
        if len(shapes) not in (0, 1, len(top)):
            raise NetError(f"input_param needs one shape, or one for each of the {len(top)} tops; found {len(shapes)}")
        for i, blob in enumerate(top):
            if shapes:
                blob.reshape(*shapes[i if len(shapes) > 1 else 0].dim)


@register("DummyData")
class DummyData(Layer):
    """Tops filled by fillers (Caffe: DummyData): constant ones once, others in every forward.

    dummy_data_param: one shape for all tops or one per top, as `shape` or as the older num, channels, height and
    width, and likewise data_filler; raises NetError for another number.
    """

    bottoms = (0, 0)
    tops = (1, None)
    fillers: list[caffe_pb2.FillerParameter]    # per top
    refilled: list[int]                         # the tops that every forward fills

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.dummy_data_param
        legacy = [list(axis) for axis in (p.num, p.channels, p.height, p.width)]
        if p.shape and any(legacy):
            raise NetError("dummy_data_param takes either shape or num, channels, height and width, not both")
        if len(p.data_filler) not in (0, 1, len(top)):
            raise NetError(f"dummy_data_param needs no, one or {len(top)} data_filler; found {len(p.data_filler)}")
        for count in [len(p.shape)] if p.shape else [len(axis) for axis in legacy]:
            if count not in (1, len(top)):
                raise NetError(f"dummy_data_param needs one shape (or num, channels, height and width), or one for "
                               f"each of the {len(top)} tops; found {count}")
        self.fillers = []
        for i, blob in enumerate(top):
            if p.shape:
                blob.reshape(*p.shape[i if len(p.shape) > 1 else 0].dim)
            else:
                blob.reshape(*(axis[i if len(axis) > 1 else 0] for axis in legacy))
            default = caffe_pb2.FillerParameter()
            self.fillers.append(p.data_filler[i if len(p.data_filler) > 1 else 0] if p.data_filler else default)
        self._fill(top, range(len(top)))
        self.refilled = [i for i, f in enumerate(self.fillers) if f.type != "constant"]

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self._fill(top, self.refilled)

    def _fill(self, top: Sequence[Blob], indices: Iterable[int]) -> None:
        for i in indices:
            values = filler.fill(top[i].shape, self.fillers[i], self.random_stream())
            top[i].data[...] = self.context.backend.from_host(values.astype(self.context.dtype))


@register("Parameter")
class Parameter(Layer):
    """A learned blob of any shape, initially 0, as a top (Caffe: Parameter). Parameter: that blob.

    Its gradient accumulates over backward passes like any parameter's; Caffe's keeps the last pass only.
    """

    bottoms = (0, 0)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.add_filled(tuple(self.param.parameter_param.shape.dim), caffe_pb2.FillerParameter())

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].reshape(self.blobs[0].shape)
        top[0].share_data(self.blobs[0])

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if self.param_propagate_down[0]:
            self.blobs[0].diff[...] += top[0].diff
