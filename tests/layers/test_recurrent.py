"""LSTM, RNN and LSTMUnit: against loops over single numbers, states over batches, exposed states, all errors."""
import json
import math

import numpy as np
import pytest
from scipy.special import expit

from spp.errors import NetError
from spp.net import Net
from spp.proto.text import parse_net, read_solver
from spp.solver import Solver
from spp.testing import check_gradients

UNIFORM = "weight_filler { type: 'uniform' min: -1 max: 1 } bias_filler { type: 'uniform' min: -1 max: 1 }"
each_type = pytest.mark.parametrize("kind", ["LSTM", "RNN"])
STATES = {"LSTM": 2, "RNN": 1}
BEFORE = {"LSTM": ["h0", "c0"], "RNN": ["h0"]}
AFTER = {"LSTM": ["hT", "cT"], "RNN": ["hT"]}


def make(layer, dtype=np.float64, tops=("y",), phase=0, **inputs):
    """A net of this one layer with bottoms of these names and shapes."""
    shapes = "".join("shape { %s } " % " ".join(f"dim: {size}" for size in shape) for shape in inputs.values())
    return Net(parse_net("force_backward: true layer { name: 'in' type: 'Input' "
                         + " ".join(f"top: '{name}'" for name in inputs) + f" input_param {{ {shapes} }} }} layer {{ "
                         "name: 'l' " + " ".join(f"bottom: '{name}'" for name in inputs)
                         + "".join(f" top: '{name}'" for name in tops) + f" {layer} }}"), phase, dtype=dtype, seed=1)


def layer(kind, outputs=3, more=""):
    return f"type: '{kind}' recurrent_param {{ num_output: {outputs} {more} {UNIFORM} }}"


def data(steps, streams, inputs, seed=0):
    """x, and markers of sequences that begin at step 0 and here and there after it."""
    rng = np.random.default_rng(seed)
    cont = (rng.random((steps, streams)) > 0.3).astype(float)
    cont[0] = 0
    return rng.normal(size=(steps, streams, inputs)), cont


def by_hand(kind, params, x, cont, static=None, states=None):
    """The outputs, and the last states, by the formulas: stream by stream, step by step, gate by gate."""
    params = [np.asarray(blob.data) for blob in params]
    w_x, b = params[:2]
    w_static, w_h = params[2:4] if static is not None else (None, params[2])
    size = w_h.shape[1]
    y = np.zeros((*x.shape[:2], size))
    last = np.zeros((2, x.shape[1], size))
    for n in range(x.shape[1]):
        h = c = np.zeros(size)
        if states is not None:
            h, c = states[0][0, n], states[-1][0, n]
        for t in range(len(x)):
            h = h * cont[t, n]
            sums = w_x @ x[t, n].ravel() + b + w_h @ h
            if static is not None:
                sums = sums + w_static @ static[n].ravel()
            if kind == "LSTM":
                i, f, o = (expit(sums[k * size:(k + 1) * size]) for k in range(3))
                c = cont[t, n] * f * c + i * np.tanh(sums[3 * size:])
                h = y[t, n] = o * np.tanh(c)
            else:
                h = np.tanh(sums)
                y[t, n] = np.tanh(params[-2] @ h + params[-1])
        last[:, n] = h, c
    return y, last[:STATES[kind]]


# --- the formulas

@each_type
@pytest.mark.parametrize("static", [None, (2,), (2, 3), (2, 2, 2)])
def test_against_the_formulas(kind, static):
    x, cont = data(6, 2, 4)
    shapes = {"x": x.shape, "cont": cont.shape} | ({"static": static} if static else {})
    net = make(layer(kind), **shapes)
    values = np.random.default_rng(9).normal(size=static) if static else None
    result = net.forward(x=x, cont=cont, **({"static": values} if static else {}))["y"]
    assert 0 < cont[1:].mean() < 1
    np.testing.assert_allclose(result, by_hand(kind, net.params["l"], x, cont, values)[0], 1e-12)


def test_the_parameters_in_caffes_order():
    shapes = {"x": (4, 2, 5, 3), "cont": (4, 2), "static": (2, 7)}
    assert [blob.shape for blob in make(layer("LSTM", 6), **shapes).params["l"]] == [(24, 15), (24,), (24, 7), (24, 6)]
    assert [blob.shape for blob in make(layer("RNN", 6), **shapes).params["l"]] == [
        (6, 15), (6,), (6, 7), (6, 6), (6, 6), (6,)]


def test_one_cell_by_hand():
    """Without weights all gates are 1/2 and the candidate is tanh(bias): c halves and gains, h is half of its tanh."""
    net = make("type: 'LSTM' recurrent_param { num_output: 1 } ", x=(4, 1, 1), cont=(4, 1))
    net.params["l"][1].data[3] = 0.7
    result = net.forward(x=np.ones((4, 1, 1)), cont=np.array([[0], [1], [0], [1]]))["y"].ravel()
    first = math.tanh(0.7) / 2
    second = first / 2 + first
    np.testing.assert_allclose(result, [math.tanh(c) / 2 for c in (first, second, first, second)], 1e-12)


def test_inputs_of_several_axes_are_read_in_caffes_order():
    x, cont = data(3, 2, 12)
    wide, flat = make(layer("LSTM"), x=(3, 2, 3, 4), cont=(3, 2)), make(layer("LSTM"), x=x.shape, cont=(3, 2))
    single = make(layer("LSTM"), x=(3, 2), cont=(3, 2))
    expected = flat.forward(x=x, cont=cont)["y"]
    np.testing.assert_array_equal(wide.forward(x=x.reshape(3, 2, 3, 4), cont=cont)["y"], expected)
    assert single.params["l"][0].shape == (12, 1)
    np.testing.assert_allclose(single.forward(x=x[..., 0], cont=cont)["y"],
                               by_hand("LSTM", single.params["l"], x[..., :1], cont)[0], 1e-12)


@each_type
def test_a_marker_of_0_begins_anew(kind):
    x, _ = data(6, 2, 3)
    net = make(layer(kind), x=x.shape, cont=(6, 2))
    cont = np.array([[0, 0], [1, 1], [0, 1], [1, 1], [1, 0], [1, 1]])
    whole = net.forward(x=x, cont=cont)["y"].copy()
    for n, steps in ((0, slice(0, 2)), (0, slice(2, 6)), (1, slice(0, 4)), (1, slice(4, 6))):
        part = x[steps, n:n + 1]
        marks = np.ones(part.shape[:2])
        marks[0] = 0
        np.testing.assert_allclose(net.forward(x=part, cont=marks)["y"], whole[steps, n:n + 1], 1e-12)


@each_type
def test_gradients_stop_at_a_marker_of_0(kind):
    x, _ = data(4, 2, 2)
    net = make(layer(kind, 2), x=x.shape, cont=(4, 2))
    net.forward(x=x, cont=np.array([[1, 1], [1, 1], [0, 1], [1, 1]]))
    net.blobs["y"].diff[2:] = 1
    net.backward()
    dx = net.blobs["x"].diff
    assert not dx[:2, 0].any() and dx[:2, 1].all() and dx[2:].all()
    assert check_gradients(net, {"x": net.blobs["x"]}) == 16


def test_saturated_gates_do_not_overflow():
    net = make("type: 'LSTM' recurrent_param { num_output: 1 weight_filler { value: 1 } }", np.float32, x=(2, 1, 1),
               cont=(2, 1))
    y = net.forward(x=np.array([[[1e5]], [[-1e5]]]), cont=np.ones((2, 1)))["y"].ravel()
    np.testing.assert_allclose(y, [math.tanh(1), 0], 1e-6)


@each_type
def test_nan_stays_nan(kind):
    x, cont = data(3, 1, 2)
    x[1] = np.nan
    result = make(layer(kind), x=x.shape, cont=cont.shape).forward(x=x, cont=cont)["y"]
    assert np.isnan(result[1:]).all() and not np.isnan(result[0]).any()


def test_weights_of_the_prototxt_are_used():
    net = make("type: 'RNN' recurrent_param { num_output: 1 } blobs { shape { dim: 1 dim: 1 } data: 2 } "
               "blobs { shape { dim: 1 } data: 0.5 } blobs { shape { dim: 1 dim: 1 } data: 3 } "
               "blobs { shape { dim: 1 dim: 1 } data: 4 } blobs { shape { dim: 1 } data: -1 }",
               x=(2, 1, 1), cont=(2, 1))
    result = net.forward(x=np.array([[[0.1]], [[-0.2]]]), cont=np.array([[0], [1]]))["y"].ravel()
    first = math.tanh(0.7)
    second = math.tanh(-0.4 + 0.5 + 3 * first)
    np.testing.assert_allclose(result, [math.tanh(4 * first - 1), math.tanh(4 * second - 1)], 1e-12)


@each_type
def test_an_inference_net_has_no_gradients(kind):
    x, cont = data(3, 2, 2)
    net = make(layer(kind), x=x.shape, cont=cont.shape, phase=1)
    net.forward(x=x, cont=cont)
    used = net.layers[1]
    assert not any(blob.has_diff for blob in [*net.blobs.values(), *used.blobs, used.sums, used.previous, *used.ends])


# --- states from batch to batch

@each_type
def test_a_batch_goes_on_where_the_last_one_ended(kind):
    x, cont = data(7, 2, 3)
    cont[3] = 1
    whole = make(layer(kind), x=x.shape, cont=cont.shape)
    y = whole.forward(x=x, cont=cont)["y"].copy()
    parts = make(layer(kind), x=(3, 2, 3), cont=(3, 2))
    first = parts.forward(x=x[:3], cont=cont[:3])["y"].copy()
    second = parts.forward(x=x[3:], cont=cont[3:])["y"]           # another number of steps
    np.testing.assert_allclose(np.concatenate([first, second]), y, 1e-12)
    again = parts.forward(x=x[:3], cont=cont[:3])["y"]            # markers of 0: what was before counts for nothing
    np.testing.assert_allclose(again, first, 1e-12)
    assert not np.allclose(parts.forward(x=x[:3], cont=np.ones((3, 2)))["y"], first)


@each_type
def test_no_gradient_goes_back_to_the_batch_before(kind):
    x, _ = data(4, 1, 3)
    ones = np.ones((4, 1))
    net = make(layer(kind), x=x.shape, cont=ones.shape)
    exposed = make(layer(kind, more="expose_hidden: true"), x=x.shape, cont=ones.shape, tops=["y", *AFTER[kind]],
                   **{name: (1, 1, 3) for name in BEFORE[kind]})
    net.forward(x=x, cont=ones)
    states = by_hand(kind, net.params["l"], x, ones)[1]
    for each_net, inputs in ((net, {}), (exposed, {name: state[None] for name, state in zip(BEFORE[kind], states)})):
        each_net.forward(x=-x, cont=ones, **inputs)
        each_net.blobs["y"].diff[...] = 1
        each_net.backward()
    for mine, theirs in zip([net.blobs["x"], *net.params["l"]], [exposed.blobs["x"], *exposed.params["l"]]):
        assert mine.diff.any()
        np.testing.assert_allclose(mine.diff, theirs.diff, 1e-10, 1e-12)


@each_type
def test_another_number_of_streams_begins_with_zeros(kind):
    x, cont = data(3, 3, 2)
    cont[0] = 1
    net = make(layer(kind), x=(3, 2, 2), cont=(3, 2))
    net.forward(x=x[:, :2], cont=cont[:, :2])
    result = net.forward(x=x, cont=cont)["y"]
    np.testing.assert_allclose(result, by_hand(kind, net.params["l"], x, cont)[0], 1e-12)


@each_type
def test_state_and_restore_repeat_to_the_bit(kind):
    x, _ = data(3, 2, 4)
    ones = np.ones((3, 2))
    net, other = (make(layer(kind), np.float32, x=x.shape, cont=ones.shape) for _ in range(2))
    assert net.state() == {"l": {name: [[[0.0] * 3] * 2] for name in "hc"[:STATES[kind]]}}
    net.forward(x=x, cont=ones)
    saved = json.loads(json.dumps(net.state()))
    expected = net.forward(x=x, cont=ones)["y"].copy()
    assert (other.forward(x=x, cont=ones)["y"] != expected).any()
    for each_net in (net, other):
        each_net.restore(saved)
        np.testing.assert_array_equal(each_net.forward(x=x, cont=ones)["y"], expected)


SOLVER = """
base_lr: 0.5 lr_policy: "fixed" max_iter: 6 snapshot: 3 random_seed: 7 snapshot_prefix: "%s/s"
net_param {
  layer { name: "in" type: "DummyData" top: "x" top: "cont" top: "t" dummy_data_param {
    data_filler { value: 0.3 } data_filler { value: 1 } data_filler { value: 0.2 }
    shape { dim: 2 dim: 2 dim: 3 } shape { dim: 2 dim: 2 } shape { dim: 2 dim: 2 dim: 4 } } }
  layer { name: "l" type: "LSTM" bottom: "x" bottom: "cont" top: "y" recurrent_param {
    num_output: 4 weight_filler { type: "uniform" min: -1 max: 1 } } }
  layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }
}
"""


def test_resumed_training_gives_the_same_numbers(tmp_path):
    path = tmp_path / "solver.prototxt"
    path.write_text(SOLVER % tmp_path)
    straight, resumed = (Solver(read_solver(str(path))) for _ in range(2))
    straight.step(6)
    resumed.restore(str(tmp_path / "s_iter_3.solverstate"))
    assert np.any(resumed.net.state()["l"]["c"])
    resumed.step(3)
    assert straight.net.state() == resumed.net.state()
    for mine, theirs in zip(straight.net.params["l"], resumed.net.params["l"]):
        np.testing.assert_array_equal(mine.data, theirs.data)


# --- exposed states

def exposing(kind, steps, streams=2):
    return make(layer(kind, more="expose_hidden: true"), tops=["y", *AFTER[kind]], x=(steps, streams, 2),
                cont=(steps, streams), static=(streams, 2), **{name: (1, streams, 3) for name in BEFORE[kind]})


@each_type
def test_exposed_states_come_in_and_go_out(kind):
    x, cont = data(5, 2, 2)
    cont[0] = [0, 1]
    rng = np.random.default_rng(4)
    static = rng.normal(size=(2, 2))
    states = [rng.normal(size=(1, 2, 3)) for _ in range(STATES[kind])]
    net = exposing(kind, 5)
    initial = dict(zip(BEFORE[kind], states))
    for _ in range(2):          # nothing is carried on
        outputs = net.forward(x=x, cont=cont, static=static, **initial)
        y, last = by_hand(kind, net.params["l"], x, cont, static, states)
        np.testing.assert_allclose(outputs["y"], y, 1e-12)
        for name, expected in zip(AFTER[kind], last):
            np.testing.assert_allclose(outputs[name], expected[None], 1e-12)
    assert net.state() == {}


@each_type
def test_exposed_states_hand_gradients_on(kind):
    x, cont = data(6, 2, 2)
    cont[0] = cont[3] = 1
    rng = np.random.default_rng(4)
    static, dy = rng.normal(size=(2, 2)), rng.normal(size=(6, 2, 3))
    initial = {name: rng.normal(size=(1, 2, 3)) for name in BEFORE[kind]}
    ends = {name: rng.normal(size=(1, 2, 3)) for name in AFTER[kind]}
    whole, first, second = exposing(kind, 6), exposing(kind, 3), exposing(kind, 3)
    whole.forward(x=x, cont=cont, static=static, **initial)
    middle = first.forward(x=x[:3], cont=cont[:3], static=static, **initial)
    second.forward(x=x[3:], cont=cont[3:], static=static, **dict(zip(initial, (middle[name] for name in ends))))

    def backward(net, dy, ends):
        net.blobs["y"].diff[...] = dy
        for name, values in ends.items():
            net.blobs[name].diff[...] = values
        net.backward()

    backward(whole, dy, ends)
    backward(second, dy[3:], ends)
    backward(first, dy[:3], {end: second.blobs[name].diff for end, name in zip(ends, initial)})
    np.testing.assert_allclose(np.concatenate([first.blobs["x"].diff, second.blobs["x"].diff]), whole.blobs["x"].diff,
                               1e-9, 1e-12)
    for name in initial:
        np.testing.assert_allclose(first.blobs[name].diff, whole.blobs[name].diff, 1e-9, 1e-12)
    for one, two, both in zip(first.params["l"], second.params["l"], whole.params["l"]):
        np.testing.assert_allclose(one.diff + two.diff, both.diff, 1e-9, 1e-12)
    parts = first.blobs["static"].diff + second.blobs["static"].diff
    np.testing.assert_allclose(parts, whole.blobs["static"].diff, 1e-9)


def test_the_markers_and_frozen_parameters_get_no_gradient():
    x, cont = data(3, 2, 2)
    net = make(layer("LSTM") + " param { } param { lr_mult: 0 } param { lr_mult: 0 } loss_weight: 1", x=x.shape,
               cont=cont.shape)
    net.param.force_backward = False
    net = Net(net.param, 0)
    net.forward(x=x, cont=cont)
    net.backward()
    assert [blob.has_diff for blob in net.params["l"]] == [True, False, False] and net.params["l"][0].diff.any()
    assert not net.blobs["cont"].has_diff and not net.blobs["x"].has_diff


# --- LSTMUnit

def test_lstm_unit_by_hand():
    net = make("type: 'LSTMUnit'", tops=["c", "h"], c_prev=(1, 3, 1), gates=(1, 3, 4), cont=(1, 3))
    c_prev = np.array([[[2.], [2], [2]]])
    gates = np.array([[[0.1, -0.2, 0.3, 0.4]] * 3])
    result = net.forward(c_prev=c_prev, gates=gates, cont=np.array([[1, 0, 0.5]]))
    i, f, o, g = expit(0.1), expit(-0.2), expit(0.3), math.tanh(0.4)
    cells = np.array([2 * f + i * g, i * g, f + i * g])
    np.testing.assert_allclose(result["c"].ravel(), cells, 1e-12)
    np.testing.assert_allclose(result["h"].ravel(), o * np.tanh(cells), 1e-12)
    assert check_gradients(net, {name: net.blobs[name] for name in ("c_prev", "gates")}) == 15
    np.testing.assert_array_equal(net.blobs["gates"].data, gates)


# --- errors

ERRORS = [
    ("", {}, dict(x=(3, 2, 4), cont=(3, 2)), "recurrent_param needs num_output, at least 1"),
    ("num_output: 3", {}, dict(x=(3,), cont=(3, 2)),
     "bottom 0 must be time steps x streams x inputs, with one step or more; found 3"),
    ("num_output: 3", {}, dict(x=(0, 2, 3), cont=(0, 2)),
     "bottom 0 must be time steps x streams x inputs, with one step or more; found 0 x 2 x 3"),
    ("num_output: 3", {}, dict(x=(3, 2, 4), cont=(3, 2, 1)),
     "bottom 1 must mark every time step of every stream, 3 x 2, as the beginning (0) or continuation (1) of a "
     "sequence; found 3 x 2 x 1"),
    ("num_output: 3", {}, dict(x=(3, 2, 4), cont=(3, 2), static=(3, 4)),
     "bottom 2, the static input, must have one row for each of the 2 streams; found shape 3 x 4"),
    ("num_output: 3", {}, dict(x=(3, 2, 4)), "takes 2 to 3 bottom blob(s), found 1"),
    ("num_output: 3", {}, dict(x=(3, 2, 4), cont=(3, 2), a=(2, 4), b=(2, 4)), "takes 2 to 3 bottom blob(s), found 4"),
    ("num_output: 3", dict(tops=["y", "h"]), dict(x=(3, 2, 4), cont=(3, 2)), "takes exactly 1 top blob(s), found 2"),
    ("num_output: 3 expose_hidden: true", dict(tops=["y", "h", "c"]), dict(x=(3, 2, 4), cont=(3, 2)),
     "takes 4 to 5 bottom blob(s), found 2"),
    ("num_output: 3 expose_hidden: true", {}, dict(x=(3, 2, 4), cont=(3, 2), h0=(1, 2, 3), c0=(1, 2, 3)),
     "takes exactly 3 top blob(s), found 1"),
    ("num_output: 3 expose_hidden: true", dict(tops=["y", "h", "c"]),
     dict(x=(3, 2, 4), cont=(3, 2), h0=(1, 2, 3), c0=(2, 3)),
     "bottom 3, a state before the first step, must be 1 x 2 x 3; found 2 x 3"),
    ("num_output: 3 expose_hidden: true", dict(tops=["y", "h", "c"]),
     dict(x=(3, 2, 4), cont=(3, 2), static=(2, 1), h0=(1, 2, 4), c0=(1, 2, 3)),
     "bottom 3, a state before the first step, must be 1 x 2 x 3; found 1 x 2 x 4"),
]


@pytest.mark.parametrize("params, tops, shapes, message", ERRORS, ids=[str(i) for i in range(len(ERRORS))])
def test_what_is_wrong_in_the_prototxt(params, tops, shapes, message):
    with pytest.raises(NetError) as error:
        make(f"type: 'LSTM' recurrent_param {{ {params} }}", **tops, **shapes)
    assert str(error.value) == f"layer 'l' (LSTM): {message}"


@pytest.mark.parametrize("later, message", [
    (dict(x=(3, 2, 5)), "the weights take 4 inputs per time step, found 5 in shape 3 x 2 x 5"),
    (dict(static=(2, 6)), "the weights take 5 static inputs per stream, found 6 in shape 2 x 6"),
    (dict(x=(4, 2, 4)), "bottom 1 must mark every time step of every stream, 4 x 2, as the beginning (0) or "
                        "continuation (1) of a sequence; found 3 x 2")])
def test_a_bottom_that_does_not_fit_later(later, message):
    net = make(layer("RNN"), x=(3, 2, 4), cont=(3, 2), static=(2, 5))
    with pytest.raises(NetError) as error:
        net.forward(**{name: np.zeros(shape) for name, shape in later.items()})
    assert str(error.value) == f"layer 'l' (RNN): {message}"


@pytest.mark.parametrize("shapes", [((1, 2, 3), (1, 2, 9), (1, 2)), ((1, 2, 3), (1, 2, 12), (1, 3)),
                                    ((1, 2, 3), (2, 12), (1, 2))])
def test_lstm_unit_with_bottoms_that_do_not_fit(shapes):
    with pytest.raises(NetError) as error:
        make("type: 'LSTMUnit'", tops=["c", "h"], **dict(zip(("c_prev", "gates", "cont"), shapes)))
    texts = [" x ".join(map(str, shape)) for shape in shapes]
    assert str(error.value) == ("layer 'l' (LSTMUnit): bottoms must be cells S x H, gates S x 4 H and cont S, of any "
                                f"shape S; found {texts[0]}, {texts[1]} and {texts[2]}")
