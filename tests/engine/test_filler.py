"""Fillers: ranges, spreads and shapes of the initial values."""
import numpy as np
import pytest

from spp import filler
from spp.errors import NetError
from spp.filler import fill
from spp.net import Net
from spp.proto import caffe_pb2
from spp.proto.text import parse_net

SHAPE = (40, 30, 5, 5)


FC = """layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: 2 dim: 4 } } }
    layer { name: 'fc' type: 'InnerProduct' bottom: 'x' top: 'fc' inner_product_param { num_output: 3
      weight_filler { type: 'gaussian' std: 0.5 } bias_filler { type: 'constant' value: 2 } } }"""


def filled(shape=SHAPE, **fields):
    return fill(shape, caffe_pb2.FillerParameter(**fields), np.random.default_rng(1))


def test_constant_is_the_default():
    assert (filled() == 0).all() and (filled(value=2.5) == 2.5).all()


def test_uniform_and_gaussian():
    values = filled(type="uniform", min=-1, max=3)
    assert -1 <= values.min() < -0.99 and 2.99 < values.max() <= 3 and abs(values.mean() - 1) < 0.03
    values = filled(type="gaussian", mean=2, std=0.5)
    assert abs(values.mean() - 2) < 0.01 and abs(values.std() - 0.5) < 0.01


def test_a_large_gaussian_is_drawn_in_pieces_and_always_the_same(monkeypatch):
    monkeypatch.setattr(filler, "PART", 1 << 16)
    values = filled((1000, 1000), type="gaussian", std=1)
    pieces = [values.reshape(-1)[start:start + (1 << 16)] for start in range(0, 1_000_000, 1 << 16)]
    assert len({piece[:100].tobytes() for piece in pieces}) == len(pieces) == 16
    assert abs(values.mean()) < 0.01 and abs(values.std() - 1) < 0.01
    for _ in range(5):      # threads that raced for the stream's state drew others each time
        np.testing.assert_array_equal(filled((1000, 1000), type="gaussian", std=1), values)


def test_sparse_gaussian_keeps_sparse_over_num_output():
    values = filled((50, 400), type="gaussian", std=1, sparse=10)
    assert abs((values != 0).mean() - 10 / 50) < 0.02


@pytest.mark.parametrize("norm, n", [("FAN_IN", 750), ("FAN_OUT", 1000), ("AVERAGE", 875)])
def test_xavier_and_msra(norm, n):
    values = filled(type="xavier", variance_norm=norm)
    assert np.abs(values).max() <= np.sqrt(3 / n) and np.abs(values).max() > 0.99 * np.sqrt(3 / n)
    assert filled(type="msra", variance_norm=norm).std() == pytest.approx(np.sqrt(2 / n), rel=0.02)


def test_positive_unitball_rows_sum_to_one():
    values = filled((4, 3, 5), type="positive_unitball")
    np.testing.assert_allclose(values.reshape(4, -1).sum(1), 1, 1e-6)
    assert values.min() >= 0 and values.std() > 0


def test_bilinear_upsampling_kernel():
    # a kernel of 4 has f = 2, c = 3/4: taps 1/4, 3/4, 3/4, 1/4; one of 3: f = 2, c = 2/4: taps 1/2, 1, 1/2
    tap = np.array([0.25, 0.75, 0.75, 0.25])
    np.testing.assert_allclose(filled((2, 1, 4, 4), type="bilinear"),
                               np.broadcast_to(np.outer(tap, tap), (2, 1, 4, 4)))
    tap = np.array([0.5, 1, 0.5])
    np.testing.assert_allclose(filled((1, 1, 3, 3), type="bilinear")[0, 0], np.outer(tap, tap))


@pytest.mark.parametrize("shape, fields, message", [
    (SHAPE, {"type": "gausian"}, "unknown filler 'gausian'; known fillers: bilinear, constant, gaussian"),
    ((3, 4), {"type": "bilinear"}, r"'bilinear' needs a 4-axis parameter with a square kernel, found shape \(3, 4\)"),
    (SHAPE, {"type": "xavier", "sparse": 3}, "filler 'xavier' does not take 'sparse'")])
def test_errors(shape, fields, message):
    with pytest.raises(NetError, match=message):
        filled(shape, **fields)


def test_fillers_run_when_the_values_are_wanted(monkeypatch, tmp_path):
    """Not where weights come from a file or from another net before anybody looks."""
    run = []

    def counted(shape, param, rng):
        run.append(shape)
        return fill(shape, param, rng)

    monkeypatch.setattr(filler, "fill", counted)
    net, again = (Net(parse_net(FC), seed=5) for _ in range(2))
    assert run == []
    weight = net.params["fc"][0].data
    assert run == [(3, 4)] and weight.std() > 0.1
    assert (net.params["fc"][1].data == 2).all() and run == [(3, 4), (3,)]
    weight[...] *= 2
    assert net.params["fc"][0].data is weight
    again.forward()
    np.testing.assert_array_equal(again.params["fc"][0].data * 2, weight)
    net.save(str(tmp_path / "fc.caffemodel"))
    run.clear()
    loaded, sharing = Net(parse_net(FC), weights=str(tmp_path / "fc.caffemodel")), Net(parse_net(FC))
    sharing.share_with(net)
    for other in (loaded, sharing):
        other.forward()
        np.testing.assert_array_equal(other.params["fc"][0].data, weight)
    assert run == []
    with pytest.raises(NetError, match="layer 'fc' .InnerProduct.: unknown filler 'gauss'"):
        Net(parse_net(FC.replace("gaussian", "gauss")))
