"""Accuracy of a classifier."""
from typing import Sequence

from spp.backend.types import Numbers
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, canonical_axis
from spp.layers.labels import ClassIndices, check_shapes, ignored_label
from spp.layers.registry import register
from spp.ops import accuracy


@register("Accuracy")
class Accuracy(Layer):
    """The share of samples whose label is among the top_k scores (Caffe: Accuracy).

    Bottoms: scores, with the classes on `axis`, and one label per prediction. Tops: the share, without axes, and
    maybe the share for each class (C). Samples with ignore_label are not counted. Raises NetError for a top_k that
    is not 1 to C, another number of labels, or a label that is no class.
    """

    bottoms = (2, 2)
    tops = (1, 2)
    differentiable_bottoms = 0
    axis: int                   # of the classes
    classes: int
    label_shape: Numbers        # the scores' without `axis`
    ignored: int | None
    indices: ClassIndices

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.ignored = ignored_label(self.param.accuracy_param)
        self.indices = ClassIndices(self)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, scores = self.param.accuracy_param, bottom[0].shape
        self.axis = canonical_axis(p.axis, len(scores))
        self.label_shape = check_shapes(scores, bottom[1].shape, bottom[1].count, self.axis)
        self.classes = scores[self.axis]
        if not 1 <= p.top_k <= self.classes:
            raise NetError(f"top_k must be 1 to {self.classes}, the number of classes; found {p.top_k}")
        top[0].reshape(())
        if len(top) > 1:
            top[1].reshape(self.classes)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        labels, counted = self.indices.read(bottom[1].data, self.label_shape, self.classes, self.ignored)
        right = accuracy.correct(bottom[0].data, labels, self.axis, self.param.accuracy_param.top_k)
        right &= counted
        top[0].data[...] = accuracy.share(right, counted)
        if len(top) > 1:
            top[1].data[...] = accuracy.share_by_class(right, counted, labels, self.classes)
