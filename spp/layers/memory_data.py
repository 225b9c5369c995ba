"""MemoryData."""
from typing import Any, Sequence

import numpy as np

from spp.backend.types import Numbers
from spp.blob import Blob
from spp.data import datum
from spp.data.transform import Transformer
from spp.errors import NetError
from spp.layers.base import Layer, format_shape
from spp.layers.registry import register


@register("MemoryData")
class MemoryData(Layer):
    """Batches of arrays that the program sets, read repeatedly (Caffe: MemoryData).

    Tops: N x C x H x W by memory_data_param, and N. Set the examples by `set_input_arrays`, as they are, or by
    `add_datum_vector`, which applies transform_param. Raises NetError for a size below 1, and in forward without
    examples.
    """

    bottoms = (0, 0)
    tops = (2, 2)
    shape: Numbers                  # of top 0
    transformer: Transformer
    data: np.ndarray | None         # examples x C x H x W, and their labels
    labels: np.ndarray | None
    position: int                   # of the next batch's first example
    unread: bool                    # whether added examples have not all been used yet

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.memory_data_param
        self.shape = (p.batch_size, p.channels, p.height, p.width)
        if min(self.shape) < 1:
            raise NetError("memory_data_param needs batch_size, channels, height and width, each at least 1; found "
                           f"{', '.join(map(str, self.shape))}")
        self.transformer = Transformer(self.param.transform_param, self.phase)
        self._set(None, None, unread=False)

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Set the examples: float32, n x C x H x W, n a multiple of batch_size; labels float32, n (or n x 1 x 1 x 1).

        The arrays are not copied, so later changes are seen, nor transformed. Raises NetError for other arrays.
        """
        batch, *image = self.shape
        for name, array in (("data", data), ("labels", labels)):
            if not isinstance(array, np.ndarray) or array.dtype != np.float32:
                kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
                raise self._error(f"{name} must be a float32 array, found {kind}; use np.float32(...)")
        if data.ndim != 4 or data.shape[1:] != tuple(image):
            raise self._error(f"data must have the shape n x {format_shape(image)}, found "
                              f"{format_shape(data.shape)}")
        if not len(data) or len(data) % batch:
            raise self._error(f"the number of examples must be a multiple of batch_size {batch}, found {len(data)}")
        if labels.shape[:1] != data.shape[:1] or labels.size != len(data):
            raise self._error(f"labels must be {len(data)}, one per example, found the shape {labels.shape}")
        self._set(data, labels.reshape(-1), unread=False)

    def add_datum_vector(self, datums: list) -> None:
        """Set the examples as Datum messages, a multiple of batch_size; transform_param is applied to them.

        Raises NetError or DataError for another size, or if previously added examples have not all been used yet.
        """
        batch, channels, height, width = self.shape
        if self.unread:
            raise self._error("data cannot be added until what was added before has been used; run forward first")
        if not datums or len(datums) % batch:
            raise self._error(f"the number of examples must be a multiple of batch_size {batch}, found {len(datums)}")
        data = np.empty((len(datums), height, width, channels), np.float32)
        labels = np.empty(len(datums), np.float32)
        size = self.transformer.size(0, 0)
        for i, record in enumerate(datums):
            image, labels[i] = datum.decode(record.SerializeToString(), self.transformer.color)
            shape = self.transformer.shape(image.shape, size)
            if shape != data.shape[1:]:
                raise self._error(f"Datum {i} makes {shape[2]} x {shape[0]} x {shape[1]} (channels x height x width), "
                                  f"and memory_data_param says {channels} x {height} x {width}")
            self.transformer.write(image, data[i], self.random_stream(), size)
        self._set(data.transpose(0, 3, 1, 2), labels, unread=True)

    def _set(self, data: np.ndarray | None, labels: np.ndarray | None, unread: bool) -> None:
        self.data, self.labels, self.position, self.unread = data, labels, 0, unread

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].reshape(self.shape)
        top[1].reshape(self.shape[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if self.data is None or self.labels is None:
            raise NetError("needs to be initialized with examples; call its set_input_arrays(data, labels) or "
                           "add_datum_vector(datums) before forward")
        start = self.position % len(self.data)      # a restored position may be that of other data
        part = slice(start, start + self.shape[0])
        for blob, values in zip(top, (self.data, self.labels)):
            blob.data[...] = self.context.backend.from_host(values[part])
        self.position = part.stop % len(self.data)
        self.unread = self.unread and self.position != 0

    def state(self) -> dict[str, Any]:
        return {**(super().state() or {}), "position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.position = state["position"]

    def _error(self, text: str) -> NetError:
        """An error that names the layer, as the net does for errors in the methods that it calls."""
        return NetError(f"layer {self.name!r} (MemoryData): {text}")
