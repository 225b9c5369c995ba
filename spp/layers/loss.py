"""Losses over items with a label (multinomial, hinge), values (Euclidean, sigmoid, smooth L1) and pairs."""
import math
from typing import Any, Callable, Sequence

from spp.backend.types import Array
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, format_shape
from spp.layers.labels import ClassIndices, ignored_label
from spp.layers.registry import register
from spp.ops import losses


class Loss(Layer):
    """Base of losses: bottoms prediction and label, N x ... each; a top without axes, which may be left out.

    Raises NetError if the bottoms differ in N.
    """

    bottoms = (2, 2)
    tops = (0, 1)
    differentiable_bottoms: int | None = 1
    is_loss = True
    equal_counts = False    # must bottoms 0 and 1 have equally many elements?

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if not bottom[0].shape or bottom[0].shape[:1] != bottom[1].shape[:1]:
            raise NetError(f"the data and label should have the same first dimension: data is {bottom[0].shape}, "
                           f"label is {bottom[1].shape}")
        if self.equal_counts and bottom[0].count != bottom[1].count:
            raise NetError(f"bottoms 0 and 1 must have as many elements as each other: found shapes "
                           f"{format_shape(bottom[0].shape)} and {format_shape(bottom[1].shape)}")
        top[0].reshape(())

    def weight(self, top: Sequence[Blob]) -> Any:
        """The gradient of the loss, a backend's number."""
        return self.context.backend.number(top[0].diff)

    @staticmethod
    def values(bottom: Sequence[Blob], i: int) -> Array | None:
        """The values of bottom i in the shape of bottom 0, or None if the layer has no such bottom."""
        return losses.in_shape(bottom[i].data, bottom[0].shape, f"losses.bottom{i}") if i < len(bottom) else None


def check_one_each(items: Blob, labels: Blob, what: str) -> None:
    """Raise NetError unless `labels` has one element for each of `items` (axis 0)."""
    if labels.count != items.shape[0]:
        raise NetError(f"needs one {what} for each of the {items.shape[0]} items, found {labels.count} in shape "
                       f"{format_shape(labels.shape)}")


def normalizer(p: Any, outer: int, inner: int, counted: Any, default: str = "VALID") -> Any:
    """The divisor of a summed loss by a LossParameter, a number: at least 1, as in Caffe.

    outer, inner: the number of labels before and after the axis of the classes; counted: how many of them are not the
    ignored label, as `losses.count` returns it. `default` is the mode of a parameter that sets none; the older
    `normalize` is used only if it is set alone.
    """
    if p.HasField("normalization"):
        mode = p.NormalizationMode.Name(p.normalization)
    elif p.HasField("normalize"):
        mode = "VALID" if p.normalize else "BATCH_SIZE"
    else:
        mode = default
    if mode == "VALID" and not isinstance(counted, int):
        return counted      # a comparison would wait for the GPU
    return max(1.0, {"FULL": outer * inner, "VALID": counted, "BATCH_SIZE": outer, "NONE": 1,
                     "PRE_FIXED": p.pre_fixed_normalizer}[mode])


class ItemLoss(Loss):
    """Base of losses with one label per item: scores N x C (C: all axes after the first), and N labels.

    functions: forward(scores, labels, *options) and backward(scores, labels, *options, scale, dx) of spp.ops.losses;
    the sum is divided by N. Raises NetError for another number of labels, or a label that is no class.
    """

    functions: tuple[Callable[..., Array], Callable[..., None]]
    indices: ClassIndices
    labels: Array       # of the last forward: the class index of each item

    @property
    def options(self) -> tuple[Any, ...]:
        """The further arguments of both functions."""
        return ()

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.indices = ClassIndices(self)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        check_one_each(bottom[0], bottom[1], "label")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = losses.by_item(bottom[0].data, "losses.x")
        self.labels = self.indices.read(bottom[1].data, x.shape[:1], x.shape[1], None)[0]
        top[0].data[...] = self.functions[0](x, self.labels, *self.options) / max(1, len(x))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            x = losses.by_item(bottom[0].data, "losses.x")
            scale = self.weight(top) / max(1, len(x))
            self.functions[1](x, self.labels, *self.options, scale, bottom[0].diff)


@register("MultinomialLogisticLoss")
class MultinomialLogisticLoss(ItemLoss):
    """The mean over the items of -log(the label's probability in bottom 0) (Caffe: MultinomialLogisticLoss)."""

    functions = losses.multinomial_forward, losses.multinomial_backward


@register("HingeLoss")
class HingeLoss(ItemLoss):
    """The sum of max(0, 1 - sign * score) over classes and items / the number of items (Caffe: HingeLoss).

    The sign is 1 for the label's class, else -1. With `norm: L2` the terms are squared.
    """

    functions = losses.hinge_forward, losses.hinge_backward

    @property
    def options(self) -> tuple[Any, ...]:
        p = self.param.hinge_loss_param
        return (p.norm == p.L2,)


@register("EuclideanLoss")
class EuclideanLoss(Loss):
    """The sum of (a - b)^2 / (2 N), N the number of items, not of elements (Caffe: EuclideanLoss).

    Bottoms a, b: N x ... with equally many elements (else NetError). Both get gradients. loss_param is ignored.
    """

    differentiable_bottoms = 2
    equal_counts = True
    difference: Blob    # a - b, kept for backward

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.difference = self.buffer()

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.difference.reshape(bottom[0].shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        a = bottom[0].data
        total = losses.euclidean_forward(a, self.values(bottom, 1), self.difference.data)
        top[0].data[...] = total / max(1, len(a))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        scale = self.weight(top) / max(1, bottom[0].shape[0])
        for blob, propagate, sign in zip(bottom, propagate_down, (1, -1)):
            if propagate:
                losses.euclidean_backward(self.difference.data, sign * scale, blob.diff)


@register("ContrastiveLoss")
class ContrastiveLoss(Loss):
    """Pulls pairs of one kind together, pushes the others apart up to a margin (Caffe: ContrastiveLoss).

    The sum, over 2 N, of d^2 for similar pairs and max(margin - d, 0)^2 for the others, or max(margin - d^2, 0) with
    legacy_version; d is the Euclidean distance over all axes after the first. Bottoms: a and b, N x ... with equally
    many elements; similar, N, where 0 means dissimilar. Raises NetError for other shapes.
    """

    bottoms = (3, 3)
    differentiable_bottoms = 2
    equal_counts = True
    difference: Blob    # a - b, kept for backward
    similar: Array      # booleans, of the last forward

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.difference = self.buffer()

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        check_one_each(bottom[0], bottom[2], "similarity")
        self.difference.reshape(bottom[0].shape[0], math.prod(bottom[0].shape[1:]))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        a, b = (losses.by_item(blob.data, f"losses.{name}") for blob, name in zip(bottom, "ab"))
        self.similar = bottom[2].data.reshape(len(a)).astype("int64") != 0
        p = self.param.contrastive_loss_param
        total = losses.contrastive_forward(a, b, self.similar, p.margin, p.legacy_version, self.difference.data)
        top[0].data[...] = total / max(1, len(a))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        p, scale = self.param.contrastive_loss_param, self.weight(top) / max(1, bottom[0].shape[0])
        for blob, propagate, sign in zip(bottom, propagate_down, (1, -1)):
            if propagate:
                losses.contrastive_backward(self.difference.data, self.similar, p.margin, p.legacy_version,
                                            sign * scale, blob.diff)


@register("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Loss):
    """-(t log(p) + (1 - t) log(1 - p)) summed over the elements, p = sigmoid(score) (Caffe: SigmoidCrossEntropyLoss).

    Bottoms: scores N x ..., and as many targets t from 0 to 1. loss_param: ignore_label (elements whose target, cut
    to an integer, is this label are not counted), and normalization (BATCH_SIZE by default; the older `normalize` is
    used only if it is set alone). Raises NetError for other shapes.
    """

    equal_counts = True
    divisor: Any        # of the last forward

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, target = bottom[0].data, self.values(bottom, 1)
        counted = self._counted(target)
        count = x.size if counted is None else losses.count(counted, self.context.dtype)
        self.divisor = normalizer(self.param.loss_param, len(x), math.prod(x.shape[1:]), count, "BATCH_SIZE")
        top[0].data[...] = losses.sigmoid_cross_entropy_forward(x, target, counted) / self.divisor

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            target, scale = self.values(bottom, 1), self.weight(top) / self.divisor
            losses.sigmoid_cross_entropy_backward(bottom[0].data, target, self._counted(target), scale, bottom[0].diff)

    def _counted(self, target: Array) -> Array | None:
        """Which targets are not the ignored label, booleans in a scratch buffer; None if no label is ignored."""
        ignored = ignored_label(self.param.loss_param)
        return None if ignored is None else losses.other_labels(target, ignored)


@register("SmoothL1Loss")
class SmoothL1Loss(Loss):
    """sum of w_out * f(w_in * (bottom 0 - bottom 1)) / N, f the smooth L1 function with sigma (Fast R-CNN, Sec. 2.3).

    Bottoms: prediction, target, and maybe w_in (SSD's weights, Fast R-CNN's inside weights) and w_out (its outside
    weights), all of one shape N x ...; the top has no axes. The first two get gradients. For a weight other than 0
    and 1, SSD's layer leaves the weight out of the gradient; this layer does not. Raises NetError for other shapes,
    or a sigma that is not above 0.
    """

    bottoms = (2, 4)
    differentiable_bottoms = 2
    sigma: float
    difference: Blob        # w_in * (bottom 0 - bottom 1), kept for backward

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.sigma = self.param.smooth_l1_loss_param.sigma
        self.difference = self.buffer()
        if not self.sigma > 0:
            raise NetError(f"smooth_l1_loss_param's sigma must be above 0, found {self.sigma:g}")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        for i, blob in enumerate(bottom[1:], 1):
            if blob.count != bottom[0].count or blob.shape[:1] != shape[:1] or not shape:
                raise NetError(f"bottoms must have one shape: bottom 0 is {format_shape(shape)}, bottom {i} is "
                               f"{format_shape(blob.shape)}")
        self.difference.reshape(shape)
        top[0].reshape(())

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        difference, target = self.difference.data, self.values(bottom, 1)
        losses.weighted_difference(bottom[0].data, target, self.values(bottom, 2), difference)
        total = losses.smooth_l1_forward(difference, self.sigma, self.values(bottom, 3))
        top[0].data[...] = total / max(len(difference), 1)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not any(propagate_down[:2]):
            return
        gradient = losses.smooth_l1_backward(self.difference.data, self.sigma)
        for i in range(2, len(bottom)):
            gradient *= self.values(bottom, i)
        gradient *= self.weight(top) / max(len(gradient), 1)
        for i, sign in ((0, 1), (1, -1)):
            if propagate_down[i]:
                losses.euclidean_backward(gradient, sign, bottom[i].diff)
