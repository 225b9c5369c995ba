"""Layers that read and write HDF5 files: HDF5Data, HDF5Output."""
from typing import Sequence

from spp.blob import Blob
from spp.data.hdf5 import HDF5Batches, HDF5Writer
from spp.errors import NetError
from spp.layers.base import Layer
from spp.layers.data import StreamLayer
from spp.layers.registry import register


@register("HDF5Data")
class HDF5Data(StreamLayer):
    """Rows of the datasets with the tops' names, from the HDF5 files that a text file lists (Caffe: HDF5Data).

    Each top: batch_size x the dataset's other axes. Raises NetError without a source, or with a transform_param.
    """

    tops = (1, None)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if self.param.HasField("transform_param"):
            raise NetError("HDF5Data does not transform data; drop transform_param, and transform what is written "
                           "into the file")
        p = self.param_with_source("hdf5_data_param", "a text file that lists HDF5 files")
        self.open(HDF5Batches(p.source, self.param.top, p.batch_size, p.shuffle, self.context.dtype,
                              self.stream_seed()))


@register("HDF5Output")
class HDF5Output(Layer):
    """Appends every batch of its bottoms to the datasets `data` and `label` of an HDF5 file (Caffe: HDF5Output).

    The datasets have at least four axes, as Caffe writes them: num x channels x height x width. The file gets its
    name when the net is closed or deleted, or the program ends; see `spp.data.hdf5.HDF5Writer`. Raises NetError
    without a file_name, or if the bottoms differ in their first axis.
    """

    bottoms = (2, 2)
    tops = (0, 0)
    writer: HDF5Writer

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.hdf5_output_param
        if not p.file_name:
            raise NetError("hdf5_output_param needs a file_name, the HDF5 file to write, and has none")
        self.writer = HDF5Writer(p.file_name)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if bottom[0].shape[:1] != bottom[1].shape[:1]:
            raise NetError(f"data and label must have the same first dimension, found the shapes {bottom[0].shape} "
                           f"and {bottom[1].shape}")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        to_host = self.context.backend.to_host
        self.writer.append({name: to_host(blob.data).reshape(blob.shape + (1,) * (4 - len(blob.shape)))
                            for name, blob in zip(("data", "label"), bottom)})

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        for blob, propagate in zip(bottom, propagate_down):
            if propagate:
                blob.diff[...] = 0

    def close(self) -> None:
        self.writer.close()
