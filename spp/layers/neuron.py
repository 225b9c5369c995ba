"""The base of layers whose top has the bottom's shape (Caffe's NeuronLayer, and others that work in place)."""
from typing import Sequence

from spp.backend.types import Array
from spp.blob import Blob
from spp.layers.base import Layer


class Neuron(Layer):
    """Base of layers whose top has the bottom's shape and may be the bottom.

    A layer whose backward needs its input calls `save_input` before it writes the top, and `saved_input` in backward.
    """

    in_place = True
    _copy: Blob | None = None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].reshape(bottom[0].shape)

    def save_input(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Copy the input, into memory that is reused, if the layer works in place and runs backward."""
        if top[0] is bottom[0] and self.runs_backward:
            if self._copy is None:
                self._copy = Blob((), self.context.dtype, self.context.backend, bottom[0].channels_last)
            self._copy.reshape(bottom[0].shape)
            self._copy.data[...] = bottom[0].data

    def saved_input(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> Array:
        """The input of the last forward, in the bottom's shape."""
        return (self._copy if self._copy is not None and top[0] is bottom[0] else bottom[0]).data
