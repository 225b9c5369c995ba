"""Losses of a softmax: SoftmaxWithLoss, InfogainLoss."""
import math
from typing import Any, Sequence

from spp.backend.types import Array, Numbers
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import canonical_axis, format_shape
from spp.layers.labels import ClassIndices, check_shapes, ignored_label
from spp.layers.loss import Loss, normalizer
from spp.layers.registry import register
from spp.ops import losses, softmax
from spp.proto import arrays, binary


@register("SoftmaxWithLoss")
class SoftmaxWithLoss(Loss):
    """Softmax and the mean of -log(probability of the label) (Caffe: SoftmaxWithLoss).

    Bottoms: scores, with the classes on softmax_param's axis, and one label per prediction. Tops: the loss, without
    axes, and maybe the softmax, in the scores' shape. loss_param: ignore_label, and normalization (VALID by default;
    the older `normalize` only if alone). Raises NetError for another number of labels, or one that is no class.
    """

    tops = (0, 2)
    axis_param = "softmax_param"
    axis: int                   # of the classes
    label_shape: Numbers        # the scores' without `axis`
    ignored: int | None
    indices: ClassIndices
    own_prob: Blob
    prob: Blob                  # the softmax: the second top, or else own_prob
    labels: Array               # of the last forward, and which of them are not ignored:
    counted: Array
    divisor: Any

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.ignored = ignored_label(self.param.loss_param)
        self.own_prob = self.buffer()
        self.indices = ClassIndices(self)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        scores = bottom[0].shape
        self.axis = canonical_axis(getattr(self.param, self.axis_param).axis, len(scores))
        self.label_shape = check_shapes(scores, bottom[1].shape, bottom[1].count, self.axis)
        self.prob = top[1] if len(top) > 1 else self.own_prob
        self.prob.reshape(scores)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        softmax.softmax_forward(bottom[0].data, self.prob.data, self.axis)
        self.labels, self.counted = self.indices.read(
            bottom[1].data, self.label_shape, bottom[0].shape[self.axis], self.ignored)
        outer = math.prod(bottom[0].shape[:self.axis])
        inner = math.prod(bottom[0].shape[self.axis + 1:])
        counted = self.counted.size if self.ignored is None else losses.count(self.counted, self.context.dtype)
        self.divisor = normalizer(self.param.loss_param, outer, inner, counted)
        top[0].data[...] = self.total(bottom) / self.divisor

    def total(self, bottom: Sequence[Blob]) -> Any:
        """The sum of the loss over all counted labels, from `prob` and `labels`."""
        return softmax.loss_forward(self.prob.data, self.labels, self.axis, self.counted)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            self.gradient(self.weight(top) / self.divisor, bottom[0].diff)

    def gradient(self, scale: Any, dx: Array) -> None:
        """dx = scale * the gradient of `total` by the scores."""
        softmax.loss_backward(self.prob.data, self.labels, self.axis, self.counted, scale, dx)


@register("InfogainLoss")
class InfogainLoss(SoftmaxWithLoss):
    """Softmax and the mean of -sum over classes of H[label, class] * log(probability) (Caffe: InfogainLoss).

    The infogain matrix H, C x C, is bottom 2, or else the BlobProto file that infogain_loss_param's `source` names;
    it gets no gradient. All else is as in SoftmaxWithLoss, loss_param's `normalize` too, which Caffe rejects here.
    Raises NetError without a matrix, or for one of another size.
    """

    bottoms = (2, 3)
    axis_param = "infogain_loss_param"
    from_file: Array | None     # H, if it is no bottom
    matrix_shape: Numbers
    matrix: Array               # H of the last forward

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        self.from_file = None
        if len(bottom) < 3:
            source = self.param.infogain_loss_param.source
            if not source:
                raise NetError("needs its infogain matrix, classes x classes: as bottom 2, or as a binaryproto file "
                               "that infogain_loss_param's source names")
            values = arrays.from_proto(binary.read_blob_proto(source), source)
            self.from_file = self.context.backend.from_host(values.astype(self.context.dtype))

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        classes = bottom[0].shape[self.axis]
        shape = self.from_file.shape if self.from_file is not None else bottom[2].shape
        if math.prod(shape) != classes ** 2:
            raise NetError(f"the infogain matrix must be {classes} x {classes}, one row and column a class; found "
                           f"shape {format_shape(shape)}")
        self.matrix_shape = classes, classes

    def total(self, bottom: Sequence[Blob]) -> Any:
        matrix = self.from_file if self.from_file is not None else bottom[2].data
        self.matrix = matrix.reshape(self.matrix_shape)
        prob = softmax.class_last(self.prob.data, self.axis)
        return losses.infogain_forward(prob, self.labels, self.matrix, self.counted)

    def gradient(self, scale: Any, dx: Array) -> None:
        prob, by_class = (softmax.class_last(x, self.axis) for x in (self.prob.data, dx))
        losses.infogain_backward(prob, self.labels, self.matrix, self.counted, scale, by_class)
