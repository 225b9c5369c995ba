"""Layers that read examples from files, ahead of time, on threads."""
from spp.data.batches import Batches
from spp.data.datum import DatumImages
from spp.errors import NetError
from spp.layers.base import Layer
from spp.layers.registry import register


@register("Data")
class Data(Layer):
    """Images, and where there is a second top their labels, from an LMDB of Datum (Caffe: Data).

    Tops: N x C x H x W, and N. Records come in the order of their keys, round and round. The database is
    recognised by what it is: `backend` is not looked at, since its default, LEVELDB, is seldom meant.
    """

    bottoms = (0, 0)
    tops = (1, 2)

    def setup(self, bottom, top):
        p = self.param.data_param
        if not p.source:
            raise NetError("data_param needs a source, the folder of an LMDB, and has none")
        seed = int(self.context.generator(self.name).integers(2 ** 63))
        self.batches = Batches(DatumImages(p.source), self.param.transform_param, p.batch_size, self.phase,
                               seed, p.prefetch, p.rand_skip)

    def reshape(self, bottom, top):
        shape = self.batches.peek_shape()
        top[0].reshape(shape)
        if len(top) > 1:
            top[1].reshape(shape[:1])

    def forward(self, bottom, top):
        for blob, values in zip(top, self.batches.next()):
            blob.data[...] = self.context.backend.from_host(values)

    def state(self):
        return {"position": self.batches.position, "seed": self.batches.seed}

    def restore(self, state):
        self.batches.seed = state["seed"]       # a run without random_seed had drawn one
        self.batches.position = state["position"]

    def close(self):
        self.batches.close()
