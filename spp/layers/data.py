"""Layers that read examples from files, ahead of time, on threads."""
from typing import Any

from spp.data.batches import Batches
from spp.data.datum import DatumImages
from spp.data.listing import ListImages
from spp.data.stream import Stream
from spp.data.window_batches import WindowBatches
from spp.data.windows import read_windows
from spp.errors import NetError
from spp.layers.base import Layer
from spp.layers.registry import register
from spp.proto import caffe_pb2

MOVED = ("scale", "mean_file", "crop_size", "mirror")       # into transform_param, long ago


class StreamLayer(Layer):
    """Base of the layers whose tops are the arrays of a stream's batches: `self.batches`, made by `setup`."""

    bottoms = (0, 0)
    tops: tuple[int, int | None] = (1, 2)
    batches: Stream

    def read(self, batches: Stream) -> None:
        """Take the batches from here."""
        self.batches = batches
        self.feed = self.context.backend.Feed()
        batches.prepare(self.feed.empty, as_bytes=self.feed.transforms)

    def stream_seed(self) -> int:
        """The seed for the stream: the layer's own, 0 or more."""
        return int(self.context.generator(self.name).integers(2 ** 63))

    def transform_param(self, own: Any) -> caffe_pb2.TransformationParameter:
        """The layer's transform_param, with what `own`, its own parameters, have in the old way."""
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

    def reshape(self, bottom, top):
        for blob, shape in zip(top, self.batches.shapes):
            blob.reshape(shape)

    def forward(self, bottom, top):
        self.feed.finish()      # `next` gives the memory of the batch before to the threads
        self.feed.put(self.batches.next(), [blob.data for blob in top])
        upcoming = self.batches.ready()
        if upcoming is not None:
            self.feed.start(upcoming)

    def state(self):
        return {"position": self.batches.position, "seed": self.batches.seed}

    def restore(self, state):
        self.batches.seed = state["seed"]       # a run without random_seed had drawn one
        self.batches.position = state["position"]

    def close(self):
        self.batches.close()


@register("Data")
class Data(StreamLayer):
    """Images, and where there is a second top their labels, from an LMDB of Datum (Caffe: Data).

    Tops: N x C x H x W, and N. Records come in the order of their keys, round and round. The database is
    recognised by what it is: `backend` is not looked at, since its default, LEVELDB, is seldom meant.
    """

    batches: Batches

    def setup(self, bottom, top):
        p = self.param.data_param
        if not p.source:
            raise NetError("data_param needs a source, the folder of an LMDB, and has none")
        self.read(Batches(DatumImages(p.source), self.transform_param(p), p.batch_size, self.phase,
                          self.stream_seed(), p.prefetch, rand_skip=p.rand_skip))


@register("ImageData")
class ImageData(StreamLayer):
    """Images, and where there is a second top their labels, from the files that a list names (Caffe: ImageData).

    Tops: N x C x H x W, and N. The list has a line `path label` an image; `root_folder` goes before the paths.
    `shuffle` draws another order for every round through the list.
    """

    def setup(self, bottom, top):
        p = self.param.image_data_param
        if not p.source:
            raise NetError("image_data_param needs a source, a text file of `path label` lines, and has none")
        if bool(p.new_height) != bool(p.new_width):
            raise NetError(f"new_height and new_width go together, found {p.new_height} and {p.new_width}; give both "
                           "or none")
        size = (p.new_height, p.new_width) if p.new_height else None
        self.read(Batches(ListImages(p.source, p.root_folder, size, p.is_color), self.transform_param(p),
                          p.batch_size, self.phase, self.stream_seed(), rand_skip=p.rand_skip, shuffle=p.shuffle))


@register("WindowData")
class WindowData(StreamLayer):
    """Warped foreground and background windows of images, and their classes, from R-CNN's window file (Caffe:
    WindowData).

    Tops: N x C x crop_size x crop_size, and N; first the background windows, whose class is 0.
    """

    tops = (2, 2)

    def setup(self, bottom, top):
        p = self.param.window_data_param
        if not p.source:
            raise NetError("window_data_param needs a source, a window file, and has none")
        self.read(WindowBatches(read_windows(p.source, p.root_folder), p, self.transform_param(p),
                                self.stream_seed()))
