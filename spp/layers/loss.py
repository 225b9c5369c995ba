"""Losses: of classes (softmax, hinge, infogain ...), of values (Euclidean, sigmoid), of pairs (contrastive)."""
import math
from typing import Any

from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, canonical_axis, format_shape
from spp.layers.labels import ClassIndices, check_shapes
from spp.layers.registry import register
from spp.ops import losses, softmax
from spp.proto import arrays, binary


class Loss(Layer):
    """Base of losses: (prediction, label) to a scalar whose loss weight is 1; the top may be left out."""

    bottoms = (2, 2)
    tops = (0, 1)
    is_loss = True

    @staticmethod
    def differentiable(bottom):
        return bottom != 1

    def reshape(self, bottom, top):
        if not bottom[0].shape or bottom[0].shape[:1] != bottom[1].shape[:1]:
            raise NetError(f"the data and label should have the same first dimension: data is {bottom[0].shape}, "
                           f"label is {bottom[1].shape}")
        top[0].reshape(())

    def weight(self, top):
        """The gradient of the loss, a number."""
        return self.context.backend.number(top[0].diff)

    def count(self, counted):
        """How many of the booleans are true, a number."""
        if not self.context.backend.asynchronous:
            return int(counted.sum())
        return self.context.backend.xp.maximum(counted.sum(dtype=self.context.dtype), 1)

    def buffer(self):
        """Memory that grows with the batch, for what the forward pass keeps for the backward pass."""
        return Blob((), self.context.dtype, self.context.backend)


def check_counts(bottom: list[Blob]) -> None:
    """Raise NetError unless bottoms 0 and 1 have as many elements as each other."""
    if bottom[0].count != bottom[1].count:
        raise NetError(f"bottoms 0 and 1 must have as many elements as each other: found shapes "
                       f"{format_shape(bottom[0].shape)} and {format_shape(bottom[1].shape)}")


def check_one_each(items: Blob, labels: Blob, what: str) -> None:
    """Raise NetError unless `labels` has one element for each of `items` (axis 0)."""
    if labels.count != items.shape[0]:
        raise NetError(f"needs one {what} for each of the {items.shape[0]} items, found {labels.count} in shape "
                       f"{format_shape(labels.shape)}")


def ignored_label(p: Any) -> int | None:
    """The label of a LossParameter that counts for nothing, or None."""
    return p.ignore_label if p.HasField("ignore_label") else None


def normalizer(p: Any, outer: int, inner: int, counted: Any, default: str = "VALID") -> Any:
    """What a LossParameter divides a summed loss by, a number: at least 1, as in Caffe.

    outer, inner: how many places there are before and after the axis of the classes; counted: how many of
    them have no ignored label; on a GPU an array, then at least 1. `default` is the mode where the parameter gives
    none; the older `normalize` counts if it alone is given.
    """
    if p.HasField("normalization"):
        mode = p.NormalizationMode.Name(p.normalization)
    elif p.HasField("normalize"):
        mode = "VALID" if p.normalize else "BATCH_SIZE"
    else:
        mode = default
    if mode == "VALID" and not isinstance(counted, int):
        return counted      # a comparison would have to be waited for
    return max(1.0, {"FULL": outer * inner, "VALID": counted, "BATCH_SIZE": outer, "NONE": 1,
                     "PRE_FIXED": p.pre_fixed_normalizer}[mode])


@register("SoftmaxWithLoss")
class SoftmaxWithLoss(Loss):
    """Softmax and the mean of -log(probability of the label) (Caffe: SoftmaxWithLoss). A second top gets the softmax.

    loss_param: ignore_label, normalization (VALID unless given; the older `normalize` counts if it alone is given).
    """

    tops = (0, 2)

    def setup(self, bottom, top):
        self.ignored = ignored_label(self.param.loss_param)
        self.own_prob = self.buffer()
        self.indices = ClassIndices(self)

    def class_axis(self):
        return self.param.softmax_param.axis

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        scores = bottom[0].shape
        self.axis = canonical_axis(self.class_axis(), len(scores))
        self.label_shape = check_shapes(scores, bottom[1].shape, bottom[1].count, self.axis)
        self.prob = top[1] if len(top) > 1 else self.own_prob
        self.prob.reshape(scores)

    def forward(self, bottom, top):
        softmax.softmax_forward(bottom[0].data, self.prob.data, self.axis)
        self.labels, self.counted = self.indices.read(
            bottom[1].data, self.label_shape, bottom[0].shape[self.axis], self.ignored)
        outer = math.prod(bottom[0].shape[:self.axis])
        inner = math.prod(bottom[0].shape[self.axis + 1:])
        counted = self.counted.size if self.ignored is None else self.count(self.counted)
        self.divisor = normalizer(self.param.loss_param, outer, inner, counted)
        top[0].data[...] = self.total(bottom) / self.divisor

    def total(self, bottom):
        return softmax.loss_forward(self.prob.data, self.labels, self.axis, self.counted)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            self.gradient(self.weight(top) / self.divisor, bottom[0].diff)

    def gradient(self, scale, dx):
        softmax.loss_backward(self.prob.data, self.labels, self.axis, self.counted, scale, dx)


@register("InfogainLoss")
class InfogainLoss(SoftmaxWithLoss):
    """Softmax and the mean of -sum over classes of H[label, class] * log(probability) (Caffe: InfogainLoss).

    The infogain matrix H, classes x classes, is bottom 2, or else the BlobProto file that
    infogain_loss_param's `source` names; it gets no gradient. A second top gets the softmax. loss_param as
    in SoftmaxWithLoss: `normalize` is taken too, where Caffe refuses it.
    """

    bottoms = (2, 3)

    @staticmethod
    def differentiable(bottom):
        return bottom == 0

    def setup(self, bottom, top):
        super().setup(bottom, top)
        self.from_file: Any = None
        if len(bottom) < 3:
            source = self.param.infogain_loss_param.source
            if not source:
                raise NetError("needs its infogain matrix, classes x classes: as bottom 2, or as a binaryproto file "
                               "that infogain_loss_param's source names")
            values = arrays.from_proto(binary.read_blob_proto(source), source)
            self.from_file = self.context.backend.from_host(values.astype(self.context.dtype))

    def class_axis(self):
        return self.param.infogain_loss_param.axis

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        classes = bottom[0].shape[self.axis]
        shape = self.from_file.shape if len(bottom) < 3 else bottom[2].shape
        if math.prod(shape) != classes ** 2:
            raise NetError(f"the infogain matrix must be {classes} x {classes}, one row and column a class; found "
                           f"shape {format_shape(shape)}")
        self.matrix_shape = classes, classes

    def total(self, bottom):
        matrix = self.from_file if len(bottom) < 3 else bottom[2].data
        self.matrix = matrix.reshape(self.matrix_shape)
        prob = softmax.class_last(self.prob.data, self.axis)
        return losses.infogain_forward(prob, self.labels, self.matrix, self.counted)

    def gradient(self, scale, dx):
        prob, by_class = (softmax.class_last(x, self.axis) for x in (self.prob.data, dx))
        losses.infogain_backward(prob, self.labels, self.matrix, self.counted, scale, by_class)


class ItemLoss(Loss):
    """Base of losses with one label an item, whose classes are all axes after the first."""

    def setup(self, bottom, top):
        self.indices = ClassIndices(self)

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        check_one_each(bottom[0], bottom[1], "label")

    def read(self, bottom):
        """Items by classes, and the class index of each item, held against the number of classes."""
        x = losses.by_item(bottom[0].data, "losses.x")
        return x, self.indices.read(bottom[1].data, x.shape[:1], x.shape[1], None)[0]


@register("MultinomialLogisticLoss")
class MultinomialLogisticLoss(ItemLoss):
    """The mean of -log(probability of the label) over the items (Caffe: MultinomialLogisticLoss).

    Bottom 0 holds probabilities, items x classes (all axes after the first): put it behind a Softmax.
    """

    def forward(self, bottom, top):
        prob, self.labels = self.read(bottom)
        top[0].data[...] = losses.multinomial_forward(prob, self.labels) / max(1, len(prob))

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            prob = losses.by_item(bottom[0].data, "losses.x")
            scale = self.weight(top) / max(1, len(prob))
            losses.multinomial_backward(prob, self.labels, scale, bottom[0].diff)


@register("HingeLoss")
class HingeLoss(ItemLoss):
    """The margins max(0, 1 - sign * score), one class against all others, per item (Caffe: HingeLoss).

    The sign is 1 for the label's class, else -1; the classes are all axes after the first. The margins are
    summed, or with `norm: L2` their squares, and divided by the number of items.
    """

    def setup(self, bottom, top):
        super().setup(bottom, top)
        p = self.param.hinge_loss_param
        self.squared = p.norm == p.L2

    def forward(self, bottom, top):
        x, self.labels = self.read(bottom)
        top[0].data[...] = losses.hinge_forward(x, self.labels, self.squared) / max(1, len(x))

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            x = losses.by_item(bottom[0].data, "losses.x")
            scale = self.weight(top) / max(1, len(x))
            losses.hinge_backward(x, self.labels, self.squared, scale, bottom[0].diff)


@register("EuclideanLoss")
class EuclideanLoss(Loss):
    """The sum of (a - b)^2 by twice the number of items, not of elements (Caffe: EuclideanLoss).

    Both bottoms get gradients. loss_param is not looked at.
    """

    @staticmethod
    def differentiable(bottom):
        return True

    def setup(self, bottom, top):
        self.difference = self.buffer()

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        check_counts(bottom)
        self.difference.reshape(bottom[0].shape)

    def forward(self, bottom, top):
        a, b = bottom[0].data, bottom[1].data
        total = losses.euclidean_forward(a, losses.in_shape(b, a.shape, "losses.x"), self.difference.data)
        top[0].data[...] = total / max(1, len(a))

    def backward(self, top, propagate_down, bottom):
        scale = self.weight(top) / max(1, bottom[0].shape[0])
        for blob, wanted, sign in zip(bottom, propagate_down, (1, -1)):
            if wanted:
                losses.euclidean_backward(self.difference.data, sign * scale, blob.diff)


@register("ContrastiveLoss")
class ContrastiveLoss(Loss):
    """Draws pairs of one kind together, others apart up to a margin (Caffe: ContrastiveLoss).

    Bottoms: a, b (pairs x features), similar (pairs; 0 is dissimilar). The sum of d^2 for similar pairs and
    max(margin - d, 0)^2 for the others, or max(margin - d^2, 0) with legacy_version, by twice the number of
    pairs; d is the Euclidean distance over all axes after the first.
    """

    bottoms = (3, 3)

    @staticmethod
    def differentiable(bottom):
        return bottom != 2

    def setup(self, bottom, top):
        p = self.param.contrastive_loss_param
        self.margin, self.legacy = p.margin, p.legacy_version
        self.difference = self.buffer()

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        check_counts(bottom)
        check_one_each(bottom[0], bottom[2], "similarity")
        self.difference.reshape(bottom[0].shape[0], math.prod(bottom[0].shape[1:]))

    def forward(self, bottom, top):
        a, b = (losses.by_item(blob.data, f"losses.{name}") for blob, name in zip(bottom, "ab"))
        self.similar = bottom[2].data.reshape(len(a)).astype("int64") != 0
        total = losses.contrastive_forward(a, b, self.similar, self.margin, self.legacy, self.difference.data)
        top[0].data[...] = total / max(1, len(a))

    def backward(self, top, propagate_down, bottom):
        scale = self.weight(top) / max(1, bottom[0].shape[0])
        for blob, wanted, sign in zip(bottom, propagate_down, (1, -1)):
            if wanted:
                losses.contrastive_backward(self.difference.data, self.similar, self.margin, self.legacy,
                                            sign * scale, blob.diff)


@register("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Loss):
    """-(t log(p) + (1 - t) log(1 - p)) of each element, p = sigmoid(score) (Caffe: SigmoidCrossEntropyLoss).

    Bottoms: scores, and as many targets t from 0 to 1. loss_param: ignore_label (elements whose target, cut
    to an integer, is this count for nothing), normalization (BATCH_SIZE unless given; the older `normalize`
    counts if it alone is given).
    """

    def setup(self, bottom, top):
        self.ignored = ignored_label(self.param.loss_param)

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        check_counts(bottom)

    def forward(self, bottom, top):
        x, target = bottom[0].data, self._target(bottom)
        counted = self._counted(target)
        self.divisor = normalizer(self.param.loss_param, len(x), math.prod(x.shape[1:]),
                                  x.size if counted is None else self.count(counted), "BATCH_SIZE")
        top[0].data[...] = losses.sigmoid_cross_entropy_forward(x, target, counted) / self.divisor

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            target, scale = self._target(bottom), self.weight(top) / self.divisor
            losses.sigmoid_cross_entropy_backward(bottom[0].data, target, self._counted(target), scale,
                                                  bottom[0].diff)

    @staticmethod
    def _target(bottom):
        return losses.in_shape(bottom[1].data, bottom[0].shape, "losses.target")

    def _counted(self, target):
        """Where the target is not the ignored label, booleans in a scratch buffer; None where there is no such."""
        if self.ignored is None:
            return None
        device = self.context.backend
        whole, counted = (device.scratch_like("losses.counted", target, dtype) for dtype in ("int64", bool))
        whole[...] = target
        device.xp.not_equal(whole, self.ignored, out=counted)
        return counted
