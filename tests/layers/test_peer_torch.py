"""PyTorch, an independent implementation, computes the values and gradients that our layers and solvers compute.

All but the solvers is in double precision, so that agreement is agreement of the formulas.
"""
import numpy as np
import pytest

from spp.net import Net
from spp.proto.text import parse_net, parse_solver
from spp.solver import Solver

torch = pytest.importorskip("torch", reason="the peer of these tests: pip install 'spp[torch]'")
F = torch.nn.functional

GAUSS = "weight_filler { type: 'gaussian' } bias_filler { type: 'gaussian' }"
IMAGE = (2, 4, 7, 9)


def classes(count, *shape):
    """Labels of `count` classes, as the float64 values that a label blob holds."""
    return np.random.default_rng(8).integers(0, count, shape).astype(float)


def per_image(loss):
    """Of a function of bottoms that sums, the mean over images."""
    return lambda x, *rest: loss(x, *rest) / len(x)


def hinge(power):
    """One against all: the label's class wants 1 or more, all others -1 or less."""
    def loss(x, label):
        sign = 2 * F.one_hot(label.long(), x.shape[1]) - 1
        return (F.relu(1 - sign * x) ** power).sum() / len(x)
    return loss


def infogain(x, label, gain):
    return -(gain[label.long()] * F.log_softmax(x, 1)).sum() / len(x)


def batch_norm(x, mean, variance, factor):
    return F.batch_norm(x, None, None, training=True, eps=0.125)


# Type, parameters, bottoms (a shape, or values), and the same of torch: a function of bottoms and parameters.
# Constants are fractions of powers of two, since a prototxt's numbers are of single precision. Pooling: sizes that
# torch and Caffe round alike.
ROWS = [
    ("Convolution", f"convolution_param {{ num_output: 6 kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 "
     f"pad_w: 2 group: 2 {GAUSS} }}", [IMAGE],
     lambda x, w, b: F.conv2d(x, w, b, stride=(2, 1), padding=(1, 2), groups=2)),
    ("Convolution", f"convolution_param {{ num_output: 3 kernel_size: 3 dilation: 2 stride: 2 pad: 3 bias_term: false "
     f"{GAUSS} }}", [IMAGE], lambda x, w: F.conv2d(x, w, stride=2, padding=3, dilation=2)),
    ("Convolution", f"convolution_param {{ num_output: 4 kernel_size: 3 group: 4 {GAUSS} }}", [IMAGE],
     lambda x, w, b: F.conv2d(x, w, b, groups=4)),
    ("Convolution", f"convolution_param {{ num_output: 3 kernel_size: 3 pad: 1 stride: 2 {GAUSS} }}", [(2, 3, 8)],
     lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=1)),
    ("Convolution", f"convolution_param {{ num_output: 3 kernel_size: 2 pad: 1 {GAUSS} }}", [(2, 3, 4, 3, 5)],
     lambda x, w, b: F.conv3d(x, w, b, padding=1)),
    ("Deconvolution", f"convolution_param {{ num_output: 6 kernel_h: 4 kernel_w: 3 stride_h: 2 stride_w: 3 pad_h: 1 "
     f"pad_w: 0 group: 2 {GAUSS} }}", [(2, 4, 3, 5)],
     lambda x, w, b: F.conv_transpose2d(x, w, b, stride=(2, 3), padding=(1, 0), groups=2)),
    ("Deconvolution", f"convolution_param {{ num_output: 3 kernel_size: 3 dilation: 2 pad: 1 bias_term: false "
     f"{GAUSS} }}", [(2, 4, 3, 5)], lambda x, w: F.conv_transpose2d(x, w, padding=1, dilation=2)),
    ("Deconvolution", f"convolution_param {{ num_output: 3 kernel_size: 3 stride: 2 {GAUSS} }}", [(2, 2, 2, 3, 4)],
     lambda x, w, b: F.conv_transpose3d(x, w, b, stride=2)),
    ("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 }", [IMAGE],
     lambda x: F.max_pool2d(x, 3, 2)),
    ("Pooling", "pooling_param { pool: MAX kernel_h: 3 kernel_w: 5 stride_h: 1 stride_w: 2 pad_h: 1 pad_w: 2 }",
     [IMAGE], lambda x: F.max_pool2d(x, (3, 5), (1, 2), (1, 2))),
    ("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }", [(2, 4, 8, 10)],
     lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True)),
    ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 }", [IMAGE],
     lambda x: F.avg_pool2d(x, 3, 2)),
    ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", [IMAGE],
     lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=True)),
    ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", [(2, 4, 8, 10)],
     lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=True)),
    ("Pooling", "pooling_param { pool: AVE global_pooling: true }", [IMAGE],
     lambda x: F.adaptive_avg_pool2d(x, 1)),
    ("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 }", [(2, 3, 5, 7, 3)],
     lambda x: F.max_pool3d(x, 3, 2)),
    ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", [(2, 3, 9)],
     lambda x: F.avg_pool1d(x, 3, 2, 1)),
    ("InnerProduct", f"inner_product_param {{ num_output: 5 {GAUSS} }}", [IMAGE],
     lambda x, w, b: F.linear(x.flatten(1), w, b)),
    ("InnerProduct", f"inner_product_param {{ num_output: 5 axis: 2 transpose: true {GAUSS} }}", [(2, 3, 4, 5)],
     lambda x, w, b: F.linear(x.flatten(2), w.T, b)),
    ("Embed", f"embed_param {{ num_output: 5 input_dim: 4 {GAUSS} }}", [classes(4, 2, 6)],
     lambda x, w, b: F.embedding(x.long(), w) + b),
    ("LRN", "lrn_param { local_size: 3 alpha: 1 beta: 0.75 }", [(2, 7, 4, 5)],
     lambda x: F.local_response_norm(x, 3, 1, 0.75)),
    ("LRN", "lrn_param { local_size: 5 alpha: 2 beta: 0.625 k: 1.5 }", [(2, 7, 4, 5)],
     lambda x: F.local_response_norm(x, 5, 2, 0.625, 1.5)),
    ("ReLU", "relu_param { negative_slope: 0.25 }", [IMAGE], lambda x: F.leaky_relu(x, 0.25)),
    ("PReLU", "prelu_param { filler { type: 'uniform' min: -1 max: 1 } }", [IMAGE], F.prelu),
    ("ELU", "elu_param { alpha: 0.75 }", [IMAGE], lambda x: F.elu(x, 0.75)),
    ("Sigmoid", "", [IMAGE], torch.sigmoid),
    ("TanH", "", [IMAGE], torch.tanh),
    ("Swish", "", [IMAGE], F.silu),
    ("Swish", "swish_param { beta: 2 }", [IMAGE], lambda x: F.silu(2 * x) / 2),
    ("BNLL", "", [IMAGE], F.softplus),
    ("Clip", "clip_param { min: -0.5 max: 1 }", [IMAGE], lambda x: x.clamp(-0.5, 1)),
    ("ReLU6", "", [IMAGE], F.relu6),
    ("Softmax", "softmax_param { axis: 2 }", [IMAGE], lambda x: F.softmax(x, 2)),
    ("BatchNorm", "batch_norm_param { eps: 0.125 }", [IMAGE], batch_norm),
    ("MVN", "mvn_param { normalize_variance: false across_channels: true }", [IMAGE],
     lambda x: x - x.mean((1, 2, 3), keepdim=True)),
    ("Normalize", "norm_param { across_spatial: false channel_shared: false scale_filler { type: 'gaussian' } }",
     [IMAGE], lambda x, scale: F.normalize(x) * scale[:, None, None]),
    ("ShuffleChannel", "shuffle_channel_param { group: 2 }", [(2, 6, 3, 4)], lambda x: F.channel_shuffle(x, 2)),
    ("SoftmaxWithLoss", "", [(6, 5), classes(5, 6)], lambda x, t: F.cross_entropy(x, t.long())),
    ("SoftmaxWithLoss", "loss_param { ignore_label: 2 }", [(2, 5, 3, 4), classes(5, 2, 3, 4)],
     lambda x, t: F.cross_entropy(x, t.long(), ignore_index=2)),
    ("SoftmaxWithLoss", "loss_param { ignore_label: 2 normalization: FULL }", [(2, 5, 3, 4), classes(5, 2, 3, 4)],
     lambda x, t: F.cross_entropy(x, t.long(), ignore_index=2, reduction="sum") / t.numel()),
    ("SoftmaxWithLoss", "loss_param { normalization: BATCH_SIZE } softmax_param { axis: 2 }",
     [(2, 3, 5, 4), classes(5, 2, 3, 4)],
     per_image(lambda x, t: F.cross_entropy(x.transpose(1, 2), t.long(), reduction="sum") / 3)),
    ("MultinomialLogisticLoss", "", [np.random.default_rng(3).dirichlet(np.ones(5), 6), classes(5, 6)],
     lambda p, t: F.nll_loss(p.log(), t.long())),
    ("InfogainLoss", "", [(6, 4), classes(4, 6), np.random.default_rng(3).random((4, 4))], infogain),
    ("EuclideanLoss", "", [(6, 5), (6, 5)], per_image(lambda a, b: F.mse_loss(a, b, reduction="sum") / 2)),
    ("SigmoidCrossEntropyLoss", "", [(6, 5), classes(2, 6, 5)],
     per_image(lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction="sum"))),
    ("HingeLoss", "", [(6, 5), classes(5, 6)], hinge(1)),
    ("HingeLoss", "hinge_loss_param { norm: L2 }", [(6, 5), classes(5, 6)], hinge(2)),
    ("SmoothL1Loss", "", [(6, 5), (6, 5)], per_image(lambda a, b: F.smooth_l1_loss(a, b, reduction="sum"))),
]


# Where sequences begin (0) in 5 steps of 3 streams; the second: two streams continue from the given states.
CONT = np.ones((5, 3))
CONT[0], CONT[2, 1], CONT[4, 0] = 0, 0, 0
GOES_ON = CONT.copy()
GOES_ON[0] = 1, 0, 1


def in_torchs_order(p):
    """The rows of Caffe's gates i, f, o, g as torch has them: i, f, g, o."""
    return p.reshape(4, -1, *p.shape[1:])[[0, 1, 3, 2]].reshape(p.shape)


def sequences(run, x, cont, start):
    """Every sequence of every stream by itself: all outputs, and the states at the end."""
    outputs, ends = [], []
    for n in range(x.shape[1]):
        state = [s[:, n:n + 1] for s in start]
        begins = [t for t in range(len(x)) if t == 0 or cont[t, n] == 0]
        parts = []
        for first, end in zip(begins, [*begins[1:], len(x)]):
            if cont[first, n] == 0:
                state = [torch.zeros_like(s) for s in state]
            y, *state = run(x[first:end, n:n + 1], state)
            parts.append(y)
        outputs.append(torch.cat(parts))
        ends.append(state)
    return [torch.cat(outputs, 1), *(torch.cat(states, 1) for states in zip(*ends))]


def lstm(x, cont, w, b, hidden, h=None, c=None):
    weights = [in_torchs_order(w), in_torchs_order(hidden), in_torchs_order(b), torch.zeros_like(b)]
    zeros = torch.zeros(1, x.shape[1], hidden.shape[1], dtype=x.dtype)
    start = [zeros if s is None else s for s in (h, c)]
    return sequences(lambda part, state: torch.lstm(part, state, weights, True, 1, 0., False, False, False),
                     x, cont, start)


def rnn(x, cont, w, b, hidden, out, out_bias, h=None):
    weights = [w, hidden, b, torch.zeros_like(b)]
    start = torch.zeros(1, x.shape[1], len(b), dtype=x.dtype) if h is None else h
    y, end = sequences(lambda part, state: torch.rnn_tanh(part, state[0], weights, True, 1, 0., False, False, False),
                       x, cont, [start])
    return torch.tanh(F.linear(y, out, out_bias)), end


def with_static(cell):
    """A static input is one more part of the input of every step."""
    def run(x, cont, static, w, b, w_static, *rest):
        every_step = static.expand(len(x), *static.shape)
        return cell(torch.cat([x, every_step], 2), cont, torch.cat([w, w_static], 1), b, *rest)
    return run


RECURRENT = [
    ("LSTM", "", [(5, 3, 4), CONT], lambda *a: lstm(*a)[:1]),
    ("LSTM", "", [(5, 3, 4), CONT, (3, 2)], lambda *a: with_static(lstm)(*a)[:1]),
    ("LSTM", "expose_hidden: true", [(5, 3, 4), GOES_ON, (1, 3, 6), (1, 3, 6)],
     lambda x, cont, h, c, w, b, hidden: lstm(x, cont, w, b, hidden, h, c)),
    ("RNN", "", [(5, 3, 4), CONT], lambda *a: rnn(*a)[:1]),
    ("RNN", "", [(5, 3, 4), CONT, (3, 2)], lambda *a: with_static(rnn)(*a)[:1]),
    ("RNN", "expose_hidden: true", [(5, 3, 4), GOES_ON, (1, 3, 6)],
     lambda x, cont, h, w, b, hidden, out, out_bias: rnn(x, cont, w, b, hidden, out, out_bias, h)),
]


def make(kind, params, bottoms, tops=1):
    """A training net of Inputs x0, x1, ... and one layer, with gradients of every top; and the inputs' values."""
    rng = np.random.default_rng(5)
    values = [rng.normal(0, 1.5, b) if isinstance(b, tuple) else b for b in bottoms]
    text = ["force_backward: true"]
    for i, x in enumerate(values):
        dims = " ".join(f"dim: {d}" for d in x.shape)
        text.append(f"layer {{ name: 'x{i}' type: 'Input' top: 'x{i}' input_param {{ shape {{ {dims} }} }} }}")
    blobs = [f"bottom: 'x{i}'" for i in range(len(values))] + [f"top: 'y{i}'" for i in range(tops)]
    text.append(f"layer {{ name: 'out' type: '{kind}' {' '.join(blobs)} {params} }}")
    return Net(parse_net("\n".join(text)), phase=0, dtype=np.float64), values


def close(result, expected, what):
    np.testing.assert_allclose(result, expected.detach().numpy(), rtol=1e-7, atol=1e-9, err_msg=what)


def assert_agree(function, net, values):
    """Hold the tops and all gradients, from random gradients of the tops, to torch; of a loss from 1."""
    layer, learned = net.layers[-1], net.params.get("out", [])
    xs = [torch.tensor(x, requires_grad=layer.differentiable(i)) for i, x in enumerate(values)]
    ps = [torch.tensor(np.array(blob.data), requires_grad=True) for blob in learned]
    expected = function(*xs, *ps)
    expected = [expected] if isinstance(expected, torch.Tensor) else expected
    net.forward(**{f"x{i}": x for i, x in enumerate(values)})
    assert len(net.tops[-1]) == len(expected)
    dys = []
    for i, (blob, y) in enumerate(zip(net.tops[-1], expected)):
        close(blob.data, y, f"top {i}")
        dys.append(np.ones(()) if layer.is_loss else np.random.default_rng(i).normal(size=blob.shape))
        blob.diff[...] = dys[-1]
    net.clear_param_diffs()
    net.backward()
    torch.autograd.backward(expected, [torch.tensor(dy) for dy in dys])
    for i, (x, blob) in enumerate(zip(xs, net.bottoms[-1])):
        if x.requires_grad:
            close(blob.diff, x.grad, f"gradient of bottom {i}")
    for i, (p, blob) in enumerate(zip(ps, learned)):
        if p.grad is not None:
            close(blob.diff, p.grad, f"gradient of parameter {i}")


def with_ids(rows):
    return [pytest.param(*row, id=f"{row[0]}-{row[1]}".replace(" ", "")[:70]) for row in rows]


@pytest.mark.parametrize("kind, params, bottoms, function", with_ids(ROWS))
def test_one_layer(kind, params, bottoms, function):
    assert_agree(function, *make(kind, params, bottoms))


@pytest.mark.parametrize("kind, params, bottoms, function", with_ids(RECURRENT))
def test_recurrent(kind, params, bottoms, function):
    tops = 1 + (len(bottoms) - 2 if params else 0)
    assert_agree(function, *make(kind, f"recurrent_param {{ num_output: 6 {params} {GAUSS} }}", bottoms, tops))


def test_batch_norm_keeps_torchs_statistics_and_uses_them():
    """Caffe keeps sums whose weights decay; after one batch they are that batch's, as torch's with momentum 1."""
    net, (x,) = make("BatchNorm", "", [IMAGE])
    net.forward(x0=x)
    mean, variance = torch.zeros(4, dtype=torch.double), torch.ones(4, dtype=torch.double)
    F.batch_norm(torch.tensor(x), mean, variance, training=True, momentum=1)
    factor = net.params["out"][2].data
    close(net.params["out"][0].data / factor, mean, "mean")
    close(net.params["out"][1].data / factor, variance, "variance")

    tested, _ = make("BatchNorm", "batch_norm_param { use_global_stats: true eps: 0.125 }", [IMAGE])
    tested.share_with(net)
    assert_agree(lambda x, *_: F.batch_norm(x, mean, variance, eps=0.125), tested, [x])


# Our solver's text, and torch's optimiser. Both are given weight decay and, for biases, twice the rate and none.
# Adam's eps is 0 as Caffe adds it to another multiple of the root.
SOLVERS = [
    ("type: 'SGD' base_lr: 0.0625 momentum: 0.9", lambda p: torch.optim.SGD(p, momentum=0.9)),
    ("type: 'Nesterov' base_lr: 0.0625 momentum: 0.9", lambda p: torch.optim.SGD(p, momentum=0.9, nesterov=True)),
    ("type: 'AdaGrad' base_lr: 0.0625 delta: 1e-6", lambda p: torch.optim.Adagrad(p, eps=1e-6)),
    ("type: 'RMSProp' base_lr: 0.0625 rms_decay: 0.9 delta: 1e-6",
     lambda p: torch.optim.RMSprop(p, alpha=0.9, eps=1e-6)),
    ("type: 'AdaDelta' base_lr: 4 momentum: 0.95 delta: 1e-6",
     lambda p: torch.optim.Adadelta(p, rho=0.95, eps=1e-6)),
    ("type: 'Adam' base_lr: 0.0625 momentum: 0.9 momentum2: 0.999 delta: 1e-30",
     lambda p: torch.optim.Adam(p, eps=1e-30)),
]
LEARNS = "param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }"
TRAINED = f"""
lr_policy: 'step' gamma: 0.5 stepsize: 2 weight_decay: 0.01 random_seed: 3
net_param {{
  layer {{ name: 'in' type: 'Input' top: 'x' top: 'label'
          input_param {{ shape {{ dim: 8 dim: 2 dim: 6 dim: 7 }} shape {{ dim: 8 }} }} }}
  layer {{ name: 'c' type: 'Convolution' bottom: 'x' top: 'c' {LEARNS}
          convolution_param {{ num_output: 4 kernel_size: 3 {GAUSS} }} }}
  layer {{ name: 'r' type: 'ReLU' bottom: 'c' top: 'c' }}
  layer {{ name: 'ip' type: 'InnerProduct' bottom: 'c' top: 'ip' {LEARNS}
          inner_product_param {{ num_output: 3 weight_filler {{ type: 'xavier' }} }} }}
  layer {{ name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' }}
}}
"""


@pytest.mark.parametrize("text, optimizer", SOLVERS, ids=[text.split("'")[1] for text, _ in SOLVERS])
def test_five_steps_of_a_solver(text, optimizer):
    solver = Solver(parse_solver(TRAINED + text))
    net = solver.net
    w, b, w2, b2 = ps = [torch.tensor(np.array(entry.blob.data), requires_grad=True) for entry in net.learnable]
    groups = [{"params": [w, w2], "weight_decay": 0.01}, {"params": [b, b2], "weight_decay": 0}]
    peer = optimizer(groups)
    rng = np.random.default_rng(9)
    rate = solver.lr
    for _ in range(5):
        x, label = rng.normal(size=(8, 2, 6, 7)).astype(np.float32), rng.integers(0, 3, 8)
        net.blobs["x"].data[...], net.blobs["label"].data[...] = x, label
        # Caffe's momentum holds past updates, rates and all; torch's holds past gradients.
        for p, state in peer.state.items():
            if state.get("momentum_buffer") is not None:
                state["momentum_buffer"] *= rate / solver.lr
        rate = solver.lr
        peer.param_groups[0]["lr"], peer.param_groups[1]["lr"] = rate, 2 * rate
        solver.step(1)
        peer.zero_grad()
        scores = F.linear(F.relu(F.conv2d(torch.tensor(x), w, b)).flatten(1), w2, b2)
        F.cross_entropy(scores, torch.tensor(label)).backward()
        peer.step()
        for entry, p in zip(net.learnable, ps):
            np.testing.assert_allclose(entry.blob.data, p.detach().numpy(), 2e-5, 2e-6, err_msg=entry.name)
    assert rate == solver.param.base_lr / 4
