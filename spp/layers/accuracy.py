"""Accuracy of a classifier."""
from spp.errors import NetError
from spp.layers.base import Layer, canonical_axis
from spp.layers.labels import ClassIndices, check_shapes
from spp.layers.registry import register
from spp.ops import accuracy


@register("Accuracy")
class Accuracy(Layer):
    """The share of samples whose label is among the top_k scores (Caffe: Accuracy); top 1: the share by class."""

    bottoms = (2, 2)
    tops = (1, 2)

    @staticmethod
    def differentiable(bottom):
        return False

    def setup(self, bottom, top):
        p = self.param.accuracy_param
        self.ignored = p.ignore_label if p.HasField("ignore_label") else None
        self.indices = ClassIndices(self)

    def reshape(self, bottom, top):
        p, scores = self.param.accuracy_param, bottom[0].shape
        self.axis = canonical_axis(p.axis, len(scores))
        self.label_shape = check_shapes(scores, bottom[1].shape, bottom[1].count, self.axis)
        self.classes = scores[self.axis]
        if not 1 <= p.top_k <= self.classes:
            raise NetError(f"top_k must be 1 to {self.classes}, the number of classes; found {p.top_k}")
        top[0].reshape(())
        if len(top) > 1:
            top[1].reshape(self.classes)

    def forward(self, bottom, top):
        labels, counted = self.indices.read(bottom[1].data, self.label_shape, self.classes, self.ignored)
        right = accuracy.correct(bottom[0].data, labels, self.axis, self.param.accuracy_param.top_k)
        right &= counted
        xp = self.context.backend.xp
        top[0].data[...] = right.sum() / xp.maximum(counted.sum(), 1)
        if len(top) > 1:
            samples = xp.bincount(labels[counted], minlength=self.classes)
            hits = xp.bincount(labels[right], minlength=self.classes)
            top[1].data[...] = hits / xp.maximum(samples, 1)
