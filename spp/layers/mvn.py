"""MVN."""
from typing import Sequence

from spp.blob import Blob
from spp.layers.neuron import Neuron
from spp.layers.registry import register
from spp.ops import normalization
from spp.ops.affine import Affine
from spp.ops.normalization import Gradients, Statistics


@register("MVN")
class MVN(Neuron):
    """(x - mean) / (standard deviation + eps) of each map, or of each image if across_channels (Caffe: MVN).

    Bottom: N x C x .... With normalize_variance: false only the mean is subtracted. A top that is not the bottom has
    at least 4 axes, as in Caffe: ones are appended.
    """

    statistics: Statistics      # of each map or image: its factor is 1 / (standard deviation + eps)

    @property
    def axes(self) -> tuple[int, int]:
        """Axis and num_axes: each index of these axes has its own mean."""
        return (0, 1) if self.param.mvn_param.across_channels else (0, 2)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        if top[0] is not bottom[0]:
            top[0].reshape(shape + (1,) * (4 - len(shape)))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        p, y = self.param.mvn_param, top[0].data
        x = bottom[0].data.reshape(y.shape)     # a view: fewer than 4 axes are stored in C order
        if not x.size:
            return
        mean, variance = normalization.moments(x, *self.axes)
        if p.normalize_variance:
            self.save_input(bottom, top)
            self.statistics = Statistics(mean, 1 / (self.context.backend.xp.sqrt(variance) + p.eps))
            Affine(*self.statistics).forward(x, y, *self.axes)
        else:
            Affine(mean).forward(x, y, *self.axes)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy = top[0].diff
        if not propagate_down[0] or not dy.size:
            return
        dx = bottom[0].diff.reshape(dy.shape)
        if self.param.mvn_param.normalize_variance:
            x = self.saved_input(bottom, top).reshape(dy.shape)
            dy_sum = normalization.bias_gradient(dy, *self.axes)
            dy_y = normalization.scale_gradient(dy, x, self.statistics, dy_sum, *self.axes)
            normalization.backward(dy, x, self.statistics, Gradients(dy_y, dy_sum), dx, *self.axes)
        else:
            normalization.mean_backward(dy, dx, *self.axes)
