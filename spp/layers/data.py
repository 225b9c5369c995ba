"""Layers of files: Data, ImageData, WindowData and HDF5Data, which read ahead on threads, and HDF5Output."""
from typing import Any, Sequence

from spp.blob import Blob
from spp.data.batches import Batches
from spp.data.datum import DatumImages
from spp.data.hdf5 import HDF5Batches, HDF5Writer
from spp.data.listing import ListImages
from spp.data.stream import Stream
from spp.data.window_batches import WindowBatches
from spp.data.windows import read_windows
from spp.errors import NetError
from spp.layers.base import Layer
from spp.layers.registry import register
from spp.proto import caffe_pb2

MOVED = ("scale", "mean_file", "crop_size", "mirror")       # fields that older prototxts have outside transform_param


class StreamLayer(Layer):
    """Base of the layers whose tops are the arrays of a stream's batches; `setup` calls `open`."""

    bottoms = (0, 0)
    tops: tuple[int, int | None] = (1, 2)
    batches: Stream
    feed: Any       # the backend's Feed: copies batches to the device

    def open(self, batches: Stream) -> None:
        """Read the batches from this stream."""
        self.batches = batches
        self.feed = self.context.backend.Feed()
        batches.prepare(self.feed.empty, as_bytes=self.feed.transforms)

    def param_with_source(self, name: str, expected: str) -> Any:
        """The layer's own parameters. Raises NetError, which says what is expected, if they have no source."""
        own = getattr(self.param, name)
        if not own.source:
            raise NetError(f"{name} needs a source, {expected}, and has none")
        return own

    def stream_seed(self) -> int:
        """The layer's own seed for the stream, 0 or more."""
        return int(self.context.generator(self.name).integers(2 ** 63))

    def transform_param(self, own: Any) -> caffe_pb2.TransformationParameter:
        """The transform_param with the MOVED fields of the layer's `own` message. Raises NetError if they differ."""
        merged = caffe_pb2.TransformationParameter()
        merged.CopyFrom(self.param.transform_param)
        for name in MOVED:
            if own.HasField(name):
                value = getattr(own, name)
                if merged.HasField(name) and getattr(merged, name) != value:
                    raise NetError(f"{name} is {getattr(merged, name)} in transform_param and {value} in the layer's "
                                   "own parameters; keep the one in transform_param")
                setattr(merged, name, value)
        return merged

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob, shape in zip(top, self.batches.shapes):
            blob.reshape(shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.feed.finish()      # `next` returns the memory of the previous batch to the threads
        self.feed.put(self.batches.next(), [blob.data for blob in top])
        upcoming = self.batches.ready()
        if upcoming is not None:
            self.feed.start(upcoming)

    def state(self) -> dict[str, Any] | None:
        return {"position": self.batches.position, "seed": self.batches.seed}

    def restore(self, state: dict[str, Any]) -> None:
        self.batches.seek(state["position"], state["seed"])     # without random_seed, that of the interrupted run

    def close(self) -> None:
        self.batches.close()


@register("Data")
class Data(StreamLayer):
    """Images, and with a second top their labels, from an LMDB of Datum (Caffe: Data).

    Tops: N x C x H x W, and N. Records are read in the order of their keys, repeatedly. `backend` is ignored, since
    its default, LEVELDB, is seldom meant. Raises NetError without a source, DataError for a bad database.
    """

    batches: Batches

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param_with_source("data_param", "the folder of an LMDB")
        self.open(Batches(DatumImages(p.source), self.transform_param(p), p.batch_size, self.phase,
                          self.stream_seed(), p.prefetch, rand_skip=p.rand_skip))


@register("ImageData")
class ImageData(StreamLayer):
    """Images, and with a second top their labels, from the files of a list (Caffe: ImageData).

    Tops: N x C x H x W, and N. The list has one line `path label` per image; `root_folder` is put before the paths.
    `shuffle` draws another order for every epoch. Raises NetError without a source, or for new_height without
    new_width.
    """

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param_with_source("image_data_param", "a text file of `path label` lines")
        if bool(p.new_height) != bool(p.new_width):
            raise NetError(f"new_height and new_width go together, found {p.new_height} and {p.new_width}; give both "
                           "or none")
        size = (p.new_height, p.new_width) if p.new_height else None
        self.open(Batches(ListImages(p.source, p.root_folder, size, p.is_color), self.transform_param(p),
                          p.batch_size, self.phase, self.stream_seed(), rand_skip=p.rand_skip, shuffle=p.shuffle))


@register("WindowData")
class WindowData(StreamLayer):
    """Warped windows of images, and their classes, from R-CNN's window file (Caffe: WindowData).

    Tops: N x C x crop_size x crop_size, and N; background windows, of class 0, first. NetError without a source.
    """

    tops = (2, 2)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param_with_source("window_data_param", "a window file")
        self.open(WindowBatches(read_windows(p.source, p.root_folder), p, self.transform_param(p), self.stream_seed()))


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
