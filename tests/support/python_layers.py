"""Python layers for the tests, written as users write them."""
import numpy as np

from spp.layers import TRAIN, Layer


class Times(Layer):
    """param_str times bottom 0."""

    def setup(self, bottom, top):
        self.value = float(self.param_str)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.value * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.value * top[0].diff


class Affine(Layer):
    """A learnable factor and shift per channel; two bottoms that are added first."""

    def setup(self, bottom, top):
        self.blobs.add_blob(bottom[0].channels)
        self.blobs.add_blob(1)
        self.blobs[0].data[...] = np.linspace(0.5, 2, bottom[0].channels)
        self.blobs[1].data[0] = 0.25

    def reshape(self, bottom, top):
        top[0].reshape(bottom[0].num, bottom[0].channels, bottom[0].height, bottom[0].width)

    def forward(self, bottom, top):
        self.sum = bottom[0].data + bottom[1].data
        self.factor = self.blobs[0].data.reshape(1, -1, 1, 1)
        top[0].data[...] = self.sum * self.factor + self.blobs[1].data[0]

    def backward(self, top, propagate_down, bottom):
        dy = top[0].diff
        self.blobs[0].diff[...] += (dy * self.sum).sum((0, 2, 3))
        self.blobs[1].diff[0] += dy.sum()
        for blob, propagates in zip(bottom, propagate_down):
            if propagates:
                blob.diff[...] = dy * self.factor


class Squares(Layer):
    """A loss: half the sum of the squares of the difference of two bottoms; checks its bottoms as users do."""

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise RuntimeError("need two bottoms")

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise ValueError("inputs must have the same size")
        self.difference = np.zeros_like(bottom[0].data)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.difference[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.difference ** 2) / 2

    def backward(self, top, propagate_down, bottom):
        for i, sign in enumerate((1, -1)):
            if propagate_down[i]:
                bottom[i].diff[...] = sign * self.difference * top[0].diff[0]


class Source(Layer):
    """A data layer with a constructor of its own, attributes named like the engine's, and noise."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.roidb = []
        self.made = True

    def setup(self, bottom, top):
        self.param = {"length": int(self.param_str_)}
        self.name, self.type, self.tops = "mine", "data", (7, 8)
        self.rng = np.random.RandomState(3)     # type: ignore[assignment]

    def set_roidb(self, roidb):
        self.roidb = roidb

    def reshape(self, bottom, top):
        top[0].reshape(len(self.roidb), self.param["length"])
        top[1].reshape()

    def forward(self, bottom, top):
        for i, roi in enumerate(self.roidb):
            top[0].data[i] = roi
        top[0].data[...] += self.random_stream().integers(1, 1000) / 1000
        top[1].data[...] = self.phase == TRAIN


class Counter(Layer):
    """States facts, and a state to resume from."""

    bottoms = (0, 0)
    in_place = False
    count = 0
    closed = False

    def forward(self, bottom, top):
        self.count += 1
        top[0].data[...] = self.count

    def state(self):
        return {"count": self.count}

    def restore(self, state):
        self.count = state["count"]

    def close(self):
        self.closed = True


class Bad(Layer):
    """Raises in the method that param_str names."""

    def fail(self, method):
        if self.param_str == method:
            raise KeyError("my own words")

    def setup(self, bottom, top):
        self.fail("setup")

    def reshape(self, bottom, top):
        self.fail("reshape")
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        self.fail("forward")
        top[0].data[...] = bottom[0].data

    def backward(self, top, propagate_down, bottom):
        self.fail("backward")


class OnlyForward(Layer):
    """Computes, and has no gradient."""

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = 2 * bottom[0].data


class NoForward(Layer):
    """Forgot the main thing."""


class NoLayer:
    """Derives from nothing."""
