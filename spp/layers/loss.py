"""Losses: SoftmaxWithLoss."""
from spp.blob import Blob
from spp.errors import NetError
from spp.layers.base import Layer, canonical_axis
from spp.layers.labels import check_shapes, class_indices
from spp.layers.registry import register
from spp.ops import softmax
from spp.proto import caffe_pb2


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


def normalizer(mode: caffe_pb2.LossParameter.NormalizationMode, outer: int, inner: int, counted: int) -> float:
    """What a summed loss is divided by (LossParameter.NormalizationMode); at least 1, as in Caffe."""
    name = caffe_pb2.LossParameter.NormalizationMode.Name(mode)
    return max(1.0, {"FULL": outer * inner, "VALID": counted, "BATCH_SIZE": outer, "NONE": 1}[name])


@register("SoftmaxWithLoss")
class SoftmaxWithLoss(Loss):
    """Softmax and the mean of -log(probability of the label) (Caffe: SoftmaxWithLoss). A second top gets the softmax.

    loss_param: ignore_label, normalization (VALID unless given; the older `normalize` counts if it alone is given).
    """

    tops = (0, 2)

    def setup(self, bottom, top):
        p = self.param.loss_param
        self.ignored = p.ignore_label if p.HasField("ignore_label") else None
        self.mode = p.normalization
        if not p.HasField("normalization") and p.HasField("normalize"):
            self.mode = p.VALID if p.normalize else p.BATCH_SIZE
        self.own_prob = Blob((), self.context.dtype, self.context.backend)

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        scores = bottom[0].shape
        self.axis = canonical_axis(self.param.softmax_param.axis, len(scores))
        self.label_shape = check_shapes(scores, bottom[1].shape, bottom[1].count, self.axis)
        self.prob = top[1] if len(top) > 1 else self.own_prob
        self.prob.reshape(scores)

    def forward(self, bottom, top):
        softmax.softmax_forward(bottom[0].data, self.prob.data, self.axis)
        self.labels, self.counted = class_indices(
            bottom[1].data, self.label_shape, bottom[0].shape[self.axis], self.ignored)
        loss = softmax.loss_forward(self.prob.data, self.labels, self.axis, self.counted)
        outer = 1
        for size in bottom[0].shape[:self.axis]:
            outer *= size
        inner = self.labels.size // outer if outer else 0
        self.divisor = normalizer(self.mode, outer, inner, int(self.counted.sum()))
        top[0].data[...] = loss / self.divisor

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            scale = float(top[0].diff) / self.divisor
            softmax.loss_backward(self.prob.data, self.labels, self.axis, self.counted, scale, bottom[0].diff)
