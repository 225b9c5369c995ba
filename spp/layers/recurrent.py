"""Layers with a memory: LSTM, its single step LSTMUnit, and the plain RNN."""
import math

import numpy as np

from spp.backend.types import Epilogue
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, format_shape
from spp.layers.registry import register
from spp.ops import inner_product, neuron, recurrent


class Recurrent(Layer):
    """Base of LSTM and RNN, computed directly where Caffe unrolls a net.

    Bottoms: x, time steps x streams x inputs (any axes); cont, time steps x streams, 0 where a sequence begins
    and 1 where it goes on; maybe a static input, streams x any axes, that every step sees; with expose_hidden
    the states before the first step, each 1 x streams x num_output. Tops: time steps x streams x num_output;
    with expose_hidden the states after the last step.

    Without expose_hidden a batch begins with the states that the one before ended with, as the continuation
    of its sequences; no gradient goes back to that batch. `state` and `restore` hand them on to a resumed
    run. A new layer, and another number of streams, begin with zeros. The number of time steps may change.
    Exposed states do get gradients, unlike in Caffe. `debug_info` shows nothing: there is no net inside.
    """

    states: tuple[str, ...] = ("h",)
    gates = 1               # how many vectors of num_output the inputs and the hidden state are taken to

    def __init__(self, param, context):
        super().__init__(param, context)
        self.exposed = len(self.states) if param.recurrent_param.expose_hidden else 0
        self.bottoms = 2 + self.exposed, 3 + self.exposed
        self.tops = 1 + self.exposed, 1 + self.exposed

    @staticmethod
    def differentiable(bottom):
        return bottom != 1

    def setup(self, bottom, top):
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
        self.sums, self.previous, self.from_static = (self.buffer() for _ in range(3))
        self.carried = [self.buffer() for _ in self.states]
        self.ends = [self.buffer() for _ in self.states]        # in diff: the gradients of the states

    def buffer(self):
        return Blob((), self.context.dtype, self.context.backend)

    def reshape(self, bottom, top):
        x, cont = bottom[0].shape, bottom[1].shape
        if len(x) < 2 or x[0] < 1:
            raise NetError(f"bottom 0 must be time steps x streams x inputs, with one step or more; found "
                           f"{format_shape(x)}")
        if cont != x[:2]:
            raise NetError(f"bottom 1 must mark every time step of every stream, {format_shape(x[:2])}, as the "
                           f"beginning (0) "
                           f"or continuation (1) of a sequence; found {format_shape(cont)}")
        if math.prod(x[2:]) != self.inputs:
            raise NetError(f"the weights take {self.inputs} inputs a time step, found {math.prod(x[2:])} in shape "
                           f"{format_shape(x)}")
        steps, streams = x[:2]
        if self.static:
            self._check_static(bottom[2].shape, streams)
        one = 1, streams, self.outputs
        for i, blob in enumerate(bottom[len(bottom) - self.exposed:], len(bottom) - self.exposed):
            if blob.shape != one:
                raise NetError(f"bottom {i}, a state before the first step, must be {format_shape(one)}; found "
                               f"{format_shape(blob.shape)}")
        self.sums.reshape(steps, streams, self.gates * self.outputs)
        self.previous.reshape(steps, streams, self.outputs)
        self.from_static.reshape(streams, self.gates * self.outputs)
        if self.carried[0].shape != one:
            for blob in self.carried:
                blob.reshape(one)
                blob.data[...] = 0
        for blob in self.ends:
            blob.reshape(one)
        top[0].reshape(steps, streams, self.outputs)
        for blob in top[1:]:
            blob.reshape(one)

    def _check_static(self, shape, streams):
        if shape[:1] != (streams,):
            raise NetError(f"bottom 2, the static input, must have one row for each of the {streams} streams; found "
                           f"shape {format_shape(shape)}")
        if math.prod(shape[1:]) != self.static_inputs:
            raise NetError(f"the weights take {self.static_inputs} static inputs a stream, found "
                           f"{math.prod(shape[1:])} in shape {format_shape(shape)}")

    def sum_inputs(self, bottom):
        """Write to self.sums what all inputs, static ones too, and the bias come to at each step; returns it."""
        sums = self.sums.data
        inner_product.forward(bottom[0].data, self.blobs[0].data, sums, Epilogue(self.blobs[1].data), axis=2)
        if self.static:
            inner_product.forward(bottom[2].data, self.blobs[2].data, self.from_static.data)
            sums += self.from_static.data
        return sums

    def states_before(self, bottom):
        """The states, streams x num_output each, that the batch begins with."""
        return [blob.data[0] for blob in bottom[len(bottom) - self.exposed:] or self.carried]

    def keep_states(self, top, *after):
        """Hand on the states that the batch ended with."""
        for blob, values in zip(top[1:] or self.carried, after):
            blob.data[0] = values

    def end_gradients(self, top):
        """The gradients of the states after the batch; the loop over time makes them those of the states before."""
        for i, blob in enumerate(self.ends):
            blob.diff[...] = top[1 + i].diff if self.exposed else 0
        return [blob.diff[0] for blob in self.ends]

    def hand_back(self, propagate_down, bottom):
        """From self.sums.diff and self.ends to the gradients of parameters and bottoms."""
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
            total = self.from_static.diff
            dsums.sum(0, out=total)
            if self.param_propagate_down[2]:
                inner_product.backward_weights(bottom[2].data, total, self.blobs[2].diff)
            if propagate_down[2]:
                inner_product.backward_data(total, self.blobs[2].data, bottom[2].diff)
        first = len(bottom) - self.exposed
        for blob, wanted, end in zip(bottom[first:], propagate_down[first:], self.ends):
            if wanted:
                blob.diff[...] = end.diff

    def state(self):
        if self.exposed:
            return None
        to_host = self.context.backend.to_host
        return {name: to_host(blob.data).tolist() for name, blob in zip(self.states, self.carried)}

    def restore(self, state):
        for name, blob in zip(self.states, self.carried):
            values = np.array(state[name], self.context.dtype)
            blob.reshape(values.shape)
            blob.data[...] = self.context.backend.from_host(values)


@register("LSTM")
class LSTM(Recurrent):
    """Long short-term memory (Caffe: LSTM). States: hidden, cell.

    Parameters: input weights 4 num_output x inputs, bias, static weights if there is a static input, hidden
    weights 4 num_output x num_output; the rows are those of the input gate, forget gate, output gate, candidate.
    """

    states = ("h", "c")
    gates = 4

    def setup(self, bottom, top):
        super().setup(bottom, top)
        self.cells = self.buffer()

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        steps, streams = bottom[0].shape[:2]
        self.cells.reshape(steps + 1, streams, self.outputs)

    def forward(self, bottom, top):
        h, cells = top[0].data, self.cells.data
        initial = recurrent.State(*self.states_before(bottom))
        recurrent.lstm_forward(self.sum_inputs(bottom), bottom[1].data, self.blobs[self.hidden].data, initial,
                               h, cells, self.previous.data)
        self.keep_states(top, h[-1], cells[-1])

    def backward(self, top, propagate_down, bottom):
        dstate = recurrent.State(*self.end_gradients(top))
        recurrent.lstm_backward(top[0].diff, self.sums.data, bottom[1].data, self.blobs[self.hidden].data,
                                self.cells.data, dstate, self.sums.diff)
        self.hand_back(propagate_down, bottom)


@register("RNN")
class RNN(Recurrent):
    """The plain recurrent network h = tanh(...), output tanh(W_ho h + b_o) (Caffe: RNN). State: h.

    Parameters: input weights num_output x inputs, bias, static weights if there is a static input, hidden
    weights and output weights num_output x num_output, output bias.
    """

    def setup(self, bottom, top):
        super().setup(bottom, top)
        p = self.param.recurrent_param
        self.add_filled((self.outputs, self.outputs), p.weight_filler)
        self.add_filled((self.outputs,), p.bias_filler)
        self.before_tanh = self.buffer()

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        self.before_tanh.reshape(top[0].shape)

    def forward(self, bottom, top):
        weight, out_weight, out_bias = (blob.data for blob in self.blobs[self.hidden:])
        h, y = self.sum_inputs(bottom), top[0].data
        h0, = self.states_before(bottom)
        recurrent.rnn_forward(h, bottom[1].data, weight, h0, self.previous.data)
        inner_product.forward(h, out_weight, y, Epilogue(out_bias), axis=2)
        neuron.tanh_forward(y, y)
        self.keep_states(top, h[-1])

    def backward(self, top, propagate_down, bottom):
        h, dsums, dout = self.sums.data, self.sums.diff, self.before_tanh.diff
        neuron.tanh_backward(top[0].diff, top[0].data, dout)
        out = self.hidden + 1
        if self.param_propagate_down[out]:
            inner_product.backward_weights(h, dout, self.blobs[out].diff, axis=2)
        if self.param_propagate_down[out + 1]:
            inner_product.backward_bias(dout, self.blobs[out + 1].diff)
        inner_product.backward_data(dout, self.blobs[out].data, dsums, axis=2)
        dh, = self.end_gradients(top)
        recurrent.rnn_backward(h, bottom[1].data, self.blobs[self.hidden].data, dh, dsums)
        self.hand_back(propagate_down, bottom)


@register("LSTMUnit")
class LSTMUnit(Layer):
    """One step of an LSTM without its weights (Caffe: LSTMUnit).

    Bottoms: the cell before, S x H; the four gates before their functions, S x 4 H, in the order of LSTM; cont,
    S. Tops: cell and hidden state, S x H. S is any shape: 1 x streams in Caffe.
    """

    bottoms = (3, 3)
    tops = (2, 2)

    @staticmethod
    def differentiable(bottom):
        return bottom != 2

    def setup(self, bottom, top):
        self.activations = Blob((), self.context.dtype, self.context.backend)
        self.dcell = Blob((), self.context.dtype, self.context.backend)

    def reshape(self, bottom, top):
        cell, gates, cont = (blob.shape for blob in bottom)
        if not cell or gates != (*cell[:-1], 4 * cell[-1]) or cont != cell[:-1]:
            raise NetError(f"bottoms must be cells S x H, gates S x 4 H and cont S, of any shape S; found "
                           f"{format_shape(cell)}, {format_shape(gates)} and {format_shape(cont)}")
        self.activations.reshape(gates)
        for blob in (*top, self.dcell):
            blob.reshape(cell)

    def forward(self, bottom, top):
        c_prev, gates, cont = (blob.data for blob in bottom)
        recurrent.lstm_unit_forward(c_prev, gates, cont, self.activations.data, top[0].data, top[1].data)

    def backward(self, top, propagate_down, bottom):
        dgates, dcell = self.activations.diff, self.dcell.diff
        dstate = recurrent.State(top[1].diff, top[0].diff)
        recurrent.lstm_unit_backward(dstate, bottom[0].data, self.activations.data, bottom[2].data, top[0].data, dcell,
                                     dgates)
        if propagate_down[0]:
            bottom[0].diff[...] = dcell
        if propagate_down[1]:
            bottom[1].diff[...] = dgates
