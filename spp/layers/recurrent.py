"""Recurrent layers: LSTM, its single step LSTMUnit, and the plain RNN."""
import math
from typing import Any, Sequence

import numpy as np

from spp.backend.types import Array, Epilogue, Numbers
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Context, Layer, format_shape
from spp.layers.registry import register
from spp.ops import inner_product, neuron, recurrent


class Recurrent(Layer):
    """Base of LSTM and RNN, computed by a loop over time; Caffe unrolls a net.

    Bottoms: x, time steps T x streams N x inputs (any axes); cont, T x N, 0 where a sequence begins and 1 where it
    continues; maybe a static input, N x any axes, for every step; with expose_hidden the states before the first
    step, each 1 x N x num_output. Tops: T x N x num_output; with expose_hidden the states after the last step.

    Without expose_hidden a batch begins with the final states of the batch before, as the continuation of its
    sequences; no gradient flows back to that batch. `state` and `restore` pass these states to a resumed run. A new
    layer, and another number of streams, begin with zeros. The number of time steps may change. Exposed states get
    gradients, unlike in Caffe. `debug_info` shows no inner blobs: there is no net inside. Raises NetError for other
    shapes, and if the number of inputs changes.
    """

    states: tuple[str, ...] = ("h",)
    gates = 1               # number of vectors of num_output that inputs and hidden state are projected to
    exposed: int            # number of exposed states
    outputs: int
    inputs: int             # per time step
    static: bool            # whether there is a static input, and its size per stream:
    static_inputs: int
    hidden: int             # index of the hidden weights in `blobs`
    sums: Blob              # T x N x gates: the projected inputs, then what the loop makes of them
    previous: Blob          # T x N x num_output: the hidden state at the beginning of each step
    static_sums: Blob       # N x gates: the projected static input
    carried: list[Blob]     # the final states of the last batch, each 1 x N x num_output
    ends: list[Blob]        # in diff: the gradients of the states, in the same shape

    def __init__(self, param: Any, context: Context) -> None:
        super().__init__(param, context)
        self.exposed = len(self.states) if param.recurrent_param.expose_hidden else 0
        self.bottoms = 2 + self.exposed, 3 + self.exposed
        self.tops = 1 + self.exposed, 1 + self.exposed

    def differentiable(self, bottom: int) -> bool:
        return bottom != 1

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p = self.param.recurrent_param
        if p.num_output < 1:
            raise NetError("recurrent_param needs num_output, at least 1")
        self.outputs = p.num_output
        self.static = len(bottom) == self.bottoms[1]
        width = self.gates * self.outputs
        self.inputs = math.prod(bottom[0].shape[2:])
        self.add_filled((width, self.inputs), p.weight_filler)
        self.add_filled((width,), p.bias_filler)
        if self.static:
            self.static_inputs = math.prod(bottom[2].shape[1:])
            self.add_filled((width, self.static_inputs), p.weight_filler)
        self.add_filled((width, self.outputs), p.weight_filler)
        self.hidden = len(self.blobs) - 1
        self.sums, self.previous, self.static_sums = (self.buffer() for _ in range(3))
        self.carried = [self.buffer() for _ in self.states]
        self.ends = [self.buffer() for _ in self.states]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, cont = bottom[0].shape, bottom[1].shape
        if len(x) < 2 or x[0] < 1:
            raise NetError(f"bottom 0 must be time steps x streams x inputs, with one step or more; found "
                           f"{format_shape(x)}")
        if cont != x[:2]:
            raise NetError(f"bottom 1 must mark every time step of every stream, {format_shape(x[:2])}, as the "
                           f"beginning (0) or continuation (1) of a sequence; found {format_shape(cont)}")
        if math.prod(x[2:]) != self.inputs:
            raise NetError(f"the weights take {self.inputs} inputs per time step, found {math.prod(x[2:])} in shape "
                           f"{format_shape(x)}")
        steps, streams = x[:2]
        if self.static:
            self._check_static(bottom[2].shape, streams)
        one_step = 1, streams, self.outputs
        for i, blob in enumerate(bottom[len(bottom) - self.exposed:], len(bottom) - self.exposed):
            if blob.shape != one_step:
                raise NetError(f"bottom {i}, a state before the first step, must be {format_shape(one_step)}; found "
                               f"{format_shape(blob.shape)}")
        self.sums.reshape(steps, streams, self.gates * self.outputs)
        self.previous.reshape(steps, streams, self.outputs)
        self.static_sums.reshape(streams, self.gates * self.outputs)
        if self.carried[0].shape != one_step:
            for blob in self.carried:
                blob.reshape(one_step)
                blob.data[...] = 0
        for blob in self.ends:
            blob.reshape(one_step)
        top[0].reshape(steps, streams, self.outputs)
        for blob in top[1:]:
            blob.reshape(one_step)

    def _check_static(self, shape: Numbers, streams: int) -> None:
        if shape[:1] != (streams,):
            raise NetError(f"bottom 2, the static input, must have one row for each of the {streams} streams; found "
                           f"shape {format_shape(shape)}")
        if math.prod(shape[1:]) != self.static_inputs:
            raise NetError(f"the weights take {self.static_inputs} static inputs per stream, found "
                           f"{math.prod(shape[1:])} in shape {format_shape(shape)}")

    def project_inputs(self, bottom: Sequence[Blob]) -> Array:
        """Write the weighted inputs, static ones included, plus the bias of each step to self.sums; returns it."""
        sums = self.sums.data
        inner_product.forward(bottom[0].data, self.blobs[0].data, sums, Epilogue(self.blobs[1].data), axis=2)
        if self.static:
            inner_product.forward(bottom[2].data, self.blobs[2].data, self.static_sums.data)
            sums += self.static_sums.data
        return sums

    def initial_states(self, bottom: Sequence[Blob]) -> list[Array]:
        """The states before the first step, streams x num_output each."""
        return [blob.data[0] for blob in bottom[len(bottom) - self.exposed:] or self.carried]

    def store_states(self, top: Sequence[Blob], *states: Array) -> None:
        """Store the states after the last step, streams x num_output each, in the tops or for the next batch."""
        for blob, values in zip(top[1:] or self.carried, states):
            blob.data[0] = values

    def final_gradients(self, top: Sequence[Blob]) -> list[Array]:
        """The gradients of the states after the last step, which the loop turns into those before the first."""
        for i, blob in enumerate(self.ends):
            blob.diff[...] = top[1 + i].diff if self.exposed else 0
        return [blob.diff[0] for blob in self.ends]

    def backward_inputs(self, propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """The gradients of parameters and bottoms from self.sums.diff and self.ends."""
        dsums = self.sums.diff
        if self.param_propagate_down[0]:
            inner_product.backward_weights(bottom[0].data, dsums, self.blobs[0].diff, axis=2)
        if self.param_propagate_down[1]:
            inner_product.backward_bias(dsums, self.blobs[1].diff)
        if self.param_propagate_down[self.hidden]:
            inner_product.backward_weights(self.previous.data, dsums, self.blobs[self.hidden].diff, axis=2)
        if propagate_down[0]:
            inner_product.backward_data(dsums, self.blobs[0].data, bottom[0].diff, axis=2)
        if self.static:
            total = self.static_sums.diff
            dsums.sum(0, out=total)
            if self.param_propagate_down[2]:
                inner_product.backward_weights(bottom[2].data, total, self.blobs[2].diff)
            if propagate_down[2]:
                inner_product.backward_data(total, self.blobs[2].data, bottom[2].diff)
        start = len(bottom) - self.exposed
        for blob, propagate, end in zip(bottom[start:], propagate_down[start:], self.ends):
            if propagate:
                blob.diff[...] = end.diff

    def state(self) -> dict[str, Any] | None:
        if self.exposed:
            return None
        to_host = self.context.backend.to_host
        return {name: to_host(blob.data).tolist() for name, blob in zip(self.states, self.carried)}

    def restore(self, state: dict[str, Any]) -> None:
        for name, blob in zip(self.states, self.carried):
            values = np.array(state[name], self.context.dtype)
            blob.reshape(values.shape)
            blob.data[...] = self.context.backend.from_host(values)


@register("LSTM")
class LSTM(Recurrent):
    """Long short-term memory (Caffe: LSTM). States: hidden, cell.

    Parameters: input weights (4 num_output) x inputs, bias 4 num_output, with a static input its weights
    (4 num_output) x static inputs, hidden weights (4 num_output) x num_output; the rows are those of the input gate,
    forget gate, output gate and candidate.
    """

    states = ("h", "c")
    gates = 4
    cells: Blob     # (T + 1) x N x num_output: the cell before the first and after each step

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        self.cells = self.buffer()

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        steps, streams = bottom[0].shape[:2]
        self.cells.reshape(steps + 1, streams, self.outputs)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        h, cells = top[0].data, self.cells.data
        initial = recurrent.State(*self.initial_states(bottom))
        recurrent.lstm_forward(self.project_inputs(bottom), bottom[1].data, self.blobs[self.hidden].data, initial,
                               h, cells, self.previous.data)
        self.store_states(top, h[-1], cells[-1])

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dstate = recurrent.State(*self.final_gradients(top))
        recurrent.lstm_backward(top[0].diff, self.sums.data, bottom[1].data, self.blobs[self.hidden].data,
                                self.cells.data, dstate, self.sums.diff)
        self.backward_inputs(propagate_down, bottom)


@register("RNN")
class RNN(Recurrent):
    """The plain recurrent network h = tanh(...), output tanh(W_ho h + b_o) (Caffe: RNN). State: h.

    Parameters: input weights num_output x inputs, bias num_output, with a static input its weights num_output x
    static inputs, hidden weights and output weights num_output x num_output, output bias num_output.
    """

    before_tanh: Blob       # in diff: the gradient of the output before tanh, T x N x num_output

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        p = self.param.recurrent_param
        self.add_filled((self.outputs, self.outputs), p.weight_filler)
        self.add_filled((self.outputs,), p.bias_filler)
        self.before_tanh = self.buffer()

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.before_tanh.reshape(top[0].shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        weight, out_weight, out_bias = (blob.data for blob in self.blobs[self.hidden:])
        h, y = self.project_inputs(bottom), top[0].data
        h0, = self.initial_states(bottom)
        recurrent.rnn_forward(h, bottom[1].data, weight, h0, self.previous.data)
        inner_product.forward(h, out_weight, y, Epilogue(out_bias), axis=2)
        neuron.tanh_forward(y, y)
        self.store_states(top, h[-1])

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        h, dsums, dout = self.sums.data, self.sums.diff, self.before_tanh.diff
        neuron.tanh_backward(top[0].diff, top[0].data, dout)
        out = self.hidden + 1
        if self.param_propagate_down[out]:
            inner_product.backward_weights(h, dout, self.blobs[out].diff, axis=2)
        if self.param_propagate_down[out + 1]:
            inner_product.backward_bias(dout, self.blobs[out + 1].diff)
        inner_product.backward_data(dout, self.blobs[out].data, dsums, axis=2)
        dh, = self.final_gradients(top)
        recurrent.rnn_backward(h, bottom[1].data, self.blobs[self.hidden].data, dh, dsums)
        self.backward_inputs(propagate_down, bottom)


@register("LSTMUnit")
class LSTMUnit(Layer):
    """One step of an LSTM without its weights (Caffe: LSTMUnit).

    Bottoms: the previous cell, S x H; the four gates before their activations, S x (4 H), in the order of LSTM; cont,
    S. Tops: cell and hidden state, S x H. S is any shape: 1 x streams in Caffe. Raises NetError for other shapes.
    """

    bottoms = (3, 3)
    tops = (2, 2)
    differentiable_bottoms = 2
    activations: Blob       # of the gates; in diff their gradient before the activations
    dcell: Blob             # in diff: the gradient of the previous cell, S x H

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.activations, self.dcell = self.buffer(), self.buffer()

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        cell, gates, cont = (blob.shape for blob in bottom)
        if not cell or gates != (*cell[:-1], 4 * cell[-1]) or cont != cell[:-1]:
            raise NetError(f"bottoms must be cells S x H, gates S x 4 H and cont S, of any shape S; found "
                           f"{format_shape(cell)}, {format_shape(gates)} and {format_shape(cont)}")
        self.activations.reshape(gates)
        for blob in (*top, self.dcell):
            blob.reshape(cell)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        c_prev, gates, cont = (blob.data for blob in bottom)
        recurrent.lstm_unit_forward(c_prev, gates, cont, self.activations.data, top[0].data, top[1].data)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dgates, dcell = self.activations.diff, self.dcell.diff
        dstate = recurrent.State(top[1].diff, top[0].diff)
        recurrent.lstm_unit_backward(dstate, bottom[0].data, self.activations.data, bottom[2].data, top[0].data, dcell,
                                     dgates)
        if propagate_down[0]:
            bottom[0].diff[...] = dcell
        if propagate_down[1]:
            bottom[1].diff[...] = dgates
