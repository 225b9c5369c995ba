"""The bases of layers whose top has the bottom's shape (Caffe's NeuronLayer, and others that work in place)."""
from operator import attrgetter
from typing import Any, Callable, Sequence

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


class Elementwise(Neuron):
    """Base of layers that apply a function of spp.ops.neuron to each element.

    functions: forward(x, y, *numbers) and backward(dy, x, dx, *numbers), which takes y for x if `from_output`.
    """

    functions: tuple[Callable[..., Any], Callable[..., Any]]
    from_output = False
    fields: tuple[str, ...] = ()        # the numbers' names in the LayerParameter
    numbers: tuple[float, ...]

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.numbers = tuple(attrgetter(name)(self.param) for name in self.fields)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if not self.from_output:
            self.save_input(bottom, top)
        self.functions[0](bottom[0].data, top[0].data, *self.numbers)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            x = top[0].data if self.from_output else self.saved_input(bottom, top)
            self.functions[1](top[0].diff, x, bottom[0].diff, *self.numbers)
