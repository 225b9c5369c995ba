"""One layer run by hand, without a net: its Context, Layer and Blobs; and arrays in every order of memory."""
import numpy as np

import golden
from spp.blob import Blob
from spp.layers import TEST, Context, create
from spp.proto.text import parse_net, read_net


class OneLayer:
    """A layer described as in a prototxt ("type: 'Pooling' ..."), or by its LayerParameter."""

    def __init__(self, param, *shapes, tops=1, phase=TEST, dtype=np.float64, seed=0):
        if isinstance(param, str):
            param = parse_net(f"layer {{ name: 'l' {param} }}").layer[0]
        self.layer = create(param, Context(phase, np.dtype(dtype), seed=seed))
        self.bottom = [Blob(shape, dtype) for shape in shapes]
        self.top = [Blob((), dtype) for _ in range(tops)]
        self.layer.check_counts(len(shapes), tops)
        self.layer.setup(self.bottom, self.top)
        self.layer.reshape(self.bottom, self.top)

    def forward(self, *xs):
        """Copies of the tops' data for these bottoms, of any size; one top's array alone."""
        for blob, x in zip(self.bottom, xs):
            blob.reshape(x.shape)
            blob.data[...] = x
        self.layer.reshape(self.bottom, self.top)
        self.layer.forward(self.bottom, self.top)
        tops = [blob.data.copy() for blob in self.top]
        return tops[0] if len(tops) == 1 else tops

    def backward(self, dy):
        """A copy of bottom 0's gradient for this gradient of top 0."""
        self.top[0].diff[...] = dy
        self.bottom[0].diff[...] = np.nan       # must be overwritten
        self.layer.backward(self.top, [True], self.bottom)
        return self.bottom[0].diff.copy()


def assert_gradient(one, x, step=1e-5, tolerance=1e-7):
    """Compare backward with central differences of sum(dy * y) by every element of the only bottom, in float64.

    For layers that take the images of a batch one by one: all moved inputs go through in one batch.
    """
    moves = step * np.eye(x.size).reshape(x.size, *x.shape)
    moved = one.forward(np.concatenate([x + moves, x - moves]).reshape(-1, *x.shape[1:]))
    y = one.forward(x)
    dy = np.random.default_rng(5).normal(size=y.shape)
    above, below = (moved.reshape(2, x.size, *y.shape) * dy).reshape(2, x.size, -1).sum(2)
    np.testing.assert_allclose(one.backward(dy).ravel(), (above - below) / (2 * step), tolerance, tolerance)


def assert_golden(case):
    """Compare a layer with the reference implementation's numbers, forward and backward."""
    data = np.load(golden.path("layers", case, "data.npz"))
    param = read_net(golden.path("layers", case, "net.prototxt")).layer[-1]
    one = OneLayer(param, data["in/x"].shape, tops=len(param.top), phase=int(data["phase"]), dtype=np.float32)
    one.forward(data["in/x"])
    for name, blob in zip(param.top, one.top):
        golden.assert_close(blob.data, data[f"out/{name}"], f"{case} {name}")
    golden.assert_close(one.backward(data["topdiff/y"]), data["indiff/x"], f"{case} gradient")


def in_orders(array):
    """Copies of an N x C x ... array in several orders of memory: C, channels last, reversed axes, gaps."""
    yield np.ascontiguousarray(array)
    yield np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)
    yield np.asfortranarray(array)
    wide = np.full(array.shape + (2,), 77, array.dtype)
    wide[..., 0] = array
    yield wide[..., 0]
    yield np.flip(np.flip(array, 2).copy(), 2)


def distinct(shape, low=-1.9, high=2.3, seed=0):
    """Values without ties, in a random order."""
    return np.random.default_rng(seed).permutation(np.linspace(low, high, int(np.prod(shape)))).reshape(shape)
