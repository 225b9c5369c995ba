"""Functions of Caffe's layers that torch lacks; a generated module contains a copy of those that it uses.

The functions and classes need torch only, and no other file of spp.
"""
# The text is copied into programs of users, which have no need of annotations.
# mypy: disable-error-code="no-untyped-def"
import math

import torch
from torch import nn
from torch.nn import functional as F


def pooled_sizes(sizes, kernel, stride, pad, ceil):
    """Caffe's number of windows along each axis, without a last one that starts after the map and its padding."""
    counts = []
    for size, k, s, p in zip(sizes, kernel, stride, pad):
        length = size + 2 * p - k
        count = (-(-length // s) if ceil else length // s) + 1
        counts.append(count - 1 if any(pad) and (count - 1) * s >= size + p else count)
    return counts


def max_pool(x, kernel, stride, pad, ceil=True):
    """Max pooling over the last axes with Caffe's windows; the padding is smaller than the kernel."""
    sizes = x.shape[2:]
    counts = pooled_sizes(sizes, kernel, stride, pad, ceil)
    border: list[int] = []
    for size, k, s, p, count in zip(sizes, kernel, stride, pad, counts):
        border = [p, max(0, (count - 1) * s + k - size - p), *border]
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(sizes) - 1]
    return pool(F.pad(x, border, value=-math.inf), kernel, stride)[(..., *map(slice, counts))]


def average_pool(x, kernel, stride, pad, ceil=True):
    """Average pooling as `max_pool`; the divisor counts the padding, but no elements outside the padded map."""
    counts = pooled_sizes(x.shape[2:], kernel, stride, pad, ceil)
    padded = F.pad(x, [p for p in reversed(pad) for _ in range(2)])
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(counts) - 1]
    return pool(padded, kernel, stride, ceil_mode=True)[(..., *map(slice, counts))]


def expected_pool(x, kernel, stride, ceil=True):
    """The result of stochastic pooling in testing: sum x^2 / sum x of each window, or 0 if all values are 0."""
    none = (0,) * len(kernel)
    total = average_pool(x, kernel, stride, none, ceil)
    return average_pool(x * x, kernel, stride, none, ceil) / torch.where(total == 0, torch.ones_like(total), total)


def sliding_bins(x, n, pool):
    """The n x n bins of SPP-net's sliding windows: window ceil(size / n), stride floor(size / n)."""
    window, stride = ([-(-size // n) for size in x.shape[2:]], [size // n for size in x.shape[2:]])
    y = pool(x, window, stride)
    if tuple(y.shape[2:]) != (n, n):
        raise ValueError(f"a map of {tuple(x.shape[2:])} has not {n} x {n} sliding windows")
    return y


def caffe_pyramid(x, height, pool):
    """Caffe's SPP: level i has 2^i x 2^i windows of size ceil(size / 2^i), with padding so that they fit."""
    levels = []
    for n in (2 ** i for i in range(height)):
        kernel = [-(-size // n) for size in x.shape[2:]]
        pad = [(k * n - size + 1) // 2 for k, size in zip(kernel, x.shape[2:])]
        levels.append(pool(x, kernel, kernel, pad).flatten(1))
    return torch.cat(levels, 1)


def lrn_within(x, size, alpha, beta):
    """Local response normalisation over size x size windows within each channel; the border counts as zeros."""
    return x * (1 + alpha * F.avg_pool2d(x * x, size, 1, size // 2)) ** -beta


def over_batch_axes(module, x, axis):
    """A convolution whose channels are on an axis other than 1: all axes before it are batch axes."""
    if axis == 0:
        return module(x.unsqueeze(0)).squeeze(0)
    return module(x.flatten(0, axis - 1)).unflatten(0, x.shape[:axis])


def im2col(x, kernel, stride, pad, dilation, axis):
    """Each window of a convolution as a column: the channels, on `axis`, become channels x kernel."""
    x = F.pad(x, [p for p in reversed(pad) for _ in range(2)])
    for i, (k, s, d) in enumerate(zip(kernel, stride, dilation), axis + 1):
        x = x.unfold(i, (k - 1) * d + 1, s)[..., ::d]
    count = len(kernel)
    return x.movedim(tuple(range(-count, 0)), tuple(range(axis + 1, axis + 1 + count))).flatten(axis, axis + count)


def along(x, values, axis):
    """`values` reshaped so that it broadcasts to x: its axes correspond to those of x from `axis` on."""
    return values.reshape(values.shape + (1,) * (x.dim() - axis - values.dim()))


def mvn(x, first, variance, eps):
    """(x - mean) / (standard deviation + eps) over the axes from `first` on; the result has at least 4 axes."""
    x = x.reshape(x.shape + (1,) * (4 - x.dim()))
    axes = tuple(range(first, x.dim()))
    x = x - x.mean(axes, keepdim=True)
    return x / (x.square().mean(axes, keepdim=True).sqrt() + eps) if variance else x


def largest(x, axis, count):
    """Indices and values of the largest elements along an axis, in descending order; the last of equal ones first."""
    values, order = torch.sort(x.flip(axis), dim=axis, descending=True, stable=True)
    return (x.shape[axis] - 1 - order).narrow(axis, 0, count).to(x.dtype), values.narrow(axis, 0, count)


def reorg(x, stride):
    """YOLO v2's Reorg, from space to channels in Darknet's order."""
    n, c, h, w = x.shape
    deep = x.reshape(n, c // stride ** 2, h, stride, w, stride).permute(0, 3, 5, 1, 2, 4)
    return deep.reshape(n, c * stride ** 2, h // stride, w // stride)


def reorg_reverse(x, stride):
    """The inverse of YOLO v2's Reorg: from channels to space."""
    n, c, h, w = x.shape
    wide = x.reshape(n, stride, stride, c // stride ** 2, h, w).permute(0, 3, 4, 1, 5, 2)
    return wide.reshape(n, c // stride ** 2, h * stride, w * stride)


def interp(x, size, zoom, shrink, first, last):
    """Bilinear resizing with aligned corners of the map without `first` and `last` pixels at its borders."""
    x = x[:, :, first:x.shape[2] - last, first:x.shape[3] - last]
    if size is None:
        inner = [(n - 1) // shrink + 1 for n in x.shape[2:]]
        size = [n + (n - 1) * (zoom - 1) for n in inner]
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def unpool(x, place, height, width):
    """A map of zeros with the values of x at the indices `place`, h * width + w."""
    flat = x.new_zeros(*x.shape[:2], height * width)
    return flat.scatter(2, place.long().flatten(2), x.flatten(2)).unflatten(2, (height, width))


def rounded(x):
    """Rounded to integers, halves away from zero."""
    return (x.sign() * (x.double().abs() + 0.5).floor()).to(x.dtype)


def roi_max_pool(x, rois, bins, scale):
    """Fast R-CNN's RoI pooling. rois: R x 5 (image, x1, y1, x2, y2); 0 for an empty bin."""
    rois = rois.reshape(-1, 5)
    corners = rounded(rois[:, 1:] * scale)
    y = x.new_zeros(len(rois), x.shape[1], *bins)
    for r, (left, top, right, bottom) in enumerate(corners.tolist()):
        image, edges = x[int(rois[r, 0])], []
        for start, end, count, limit in ((top, bottom, bins[0], x.shape[2]), (left, right, bins[1], x.shape[3])):
            width = x.new_tensor(max(end - start + 1, 1)) / count
            steps = width * torch.arange(count + 1, dtype=x.dtype, device=x.device)
            low, high = steps[:-1].floor() + start, steps[1:].ceil() + start
            edges.append(list(zip(low.clamp(0, limit).int().tolist(), high.clamp(0, limit).int().tolist())))
        for i, (first, last) in enumerate(edges[0]):
            for j, (begin, end) in enumerate(edges[1]):
                if first < last and begin < end:
                    y[r, :, i, j] = image[:, first:last, begin:end].amax((1, 2))
    return y


def roi_group_average(x, rois, outputs, bins, scale):
    """R-FCN's position-sensitive pooling: the mean of each of the bins x bins bins, each of separate channels."""
    rois = rois.reshape(-1, 5)
    corners = rounded(rois[:, 1:])
    y = x.new_zeros(len(rois), outputs, bins, bins)
    for r in range(len(rois)):
        image, edges = x[int(rois[r, 0])].unflatten(0, (outputs, bins, bins)), []
        for axis in (1, 0):
            start, end = corners[r, axis] * scale, (corners[r, axis + 2] + 1) * scale
            steps = (end - start).clamp(min=0.1) / bins * torch.arange(bins + 1, dtype=x.dtype, device=x.device)
            steps, limit = steps + start, x.shape[3 - axis]
            edges.append(list(zip(steps[:-1].floor().clamp(0, limit).int().tolist(),
                                  steps[1:].ceil().clamp(0, limit).int().tolist())))
        for i, (first, last) in enumerate(edges[0]):
            for j, (begin, end) in enumerate(edges[1]):
                if first < last and begin < end:
                    y[r, :, i, j] = image[:, i, j, first:last, begin:end].mean((1, 2))
    return y


def prior_boxes(x, image, sizes, variance, *, image_size, step, offset, clip):
    """SSD's priors: boxes of these sizes around each cell of x, relative to the image; 1 x 2 x (cells boxes 4)."""
    height, width = image_size or image.shape[2:]
    down, across = step or (height / x.shape[2], width / x.shape[3])
    y, x = torch.meshgrid((torch.arange(x.shape[2], dtype=torch.float64) + offset) * down,
                          (torch.arange(x.shape[3], dtype=torch.float64) + offset) * across, indexing="ij")
    centre = torch.stack([x, y], -1)[:, :, None]
    half, whole = torch.tensor(sizes, dtype=torch.float64) / 2, torch.tensor([width, height], dtype=torch.float64)
    boxes = torch.cat([(centre - half) / whole, (centre + half) / whole], -1).reshape(-1, 4)
    boxes = boxes.clamp(0, 1) if clip else boxes
    both = torch.stack([boxes, torch.tensor(variance, dtype=torch.float64).expand_as(boxes)])
    return both.reshape(1, 2, -1).to(image)


def lstm_unit(c, gates, cont):
    """One step of Caffe's LSTM without weights: the new cell and hidden state; gates i, f, o, g."""
    i, f, o, g = gates.chunk(4, -1)
    c = cont.unsqueeze(-1) * f.sigmoid() * c + i.sigmoid() * g.tanh()
    return c, o.sigmoid() * c.tanh()


class DropoutUnscaled(nn.Dropout):
    """Dropout that does not scale in training, and multiplies by 1 - p in testing (scale_train: false)."""

    def forward(self, x):
        return F.dropout(x, self.p, self.training) * (1 - self.p)


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation that uses the stored statistics, or those of the batch, in train() and eval() alike."""

    def __init__(self, channels, stored, **options):
        super().__init__(channels, **options)
        self.stored = stored

    def _check_input_dim(self, x):
        pass

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, not self.stored,
                            self.momentum, self.eps)


class Scale(nn.Module):
    """x * weight + bias along axes of x; either may be absent."""

    def __init__(self, shape, axis, weight=True, bias=True):
        super().__init__()
        self.axis = axis
        self.weight = nn.Parameter(torch.ones(shape)) if weight else None
        self.bias = nn.Parameter(torch.zeros(shape)) if bias else None

    def forward(self, x):
        if self.weight is not None:
            x = x * along(x, self.weight, self.axis)
        return x if self.bias is None else x + along(x, self.bias, self.axis)


class TransposedLinear(nn.Module):
    """A fully connected layer whose weight is stored as inputs x outputs."""

    def __init__(self, inputs, outputs, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x):
        return F.linear(x, self.weight.T, self.bias)


class Embed(nn.Embedding):
    """For each index a row of a table, plus a bias."""

    def __init__(self, rows, outputs):
        super().__init__(rows, outputs)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, indices):
        return super().forward(indices) + self.bias


class Normalize(nn.Module):
    """x / its L2 norm * weight; the norm of an image, or of each pixel over its channels."""

    def __init__(self, channels, across_spatial, eps):
        super().__init__()
        self.across_spatial, self.eps = across_spatial, eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        axes = tuple(range(1, x.dim())) if self.across_spatial else 1
        return x / (x.square().sum(axes, keepdim=True) + self.eps).sqrt() * along(x, self.weight, 1)


class Recurrent(nn.Module):
    """Base of Caffe's LSTM and RNN, with torch's parameter names: x is steps x streams x inputs, cont steps x streams.

    cont is 0 where a sequence starts. Unless the states are exposed, a batch starts with the last states of the
    previous batch.
    """

    gates = states = 1

    def __init__(self, inputs, outputs, static=0, exposed=False):
        super().__init__()
        self.static, self.exposed, self.carried = static, exposed, []
        self.weight_ih_l0 = nn.Parameter(torch.zeros(self.gates * outputs, inputs))
        self.weight_hh_l0 = nn.Parameter(torch.zeros(self.gates * outputs, outputs))
        self.bias_ih_l0 = nn.Parameter(torch.zeros(self.gates * outputs))
        self.register_buffer("bias_hh_l0", torch.zeros(self.gates * outputs))    # one bias learns, as in Caffe
        if static:
            self.weight_static = nn.Parameter(torch.zeros(self.gates * outputs, static))

    def forward(self, x, cont, *rest):
        sums = F.linear(x.flatten(2), self.weight_ih_l0, self.bias_ih_l0 + self.bias_hh_l0)
        if self.static:
            sums = sums + F.linear(rest[0].flatten(1), self.weight_static)
        state = [value[0] for value in rest[-self.states:]] if self.exposed else self.carried
        if not state or state[0].shape[0] != x.shape[1]:
            state = [x.new_zeros(x.shape[1], self.weight_hh_l0.shape[1]) for _ in range(self.states)]
        outputs = []
        for step in range(x.shape[0]):
            state = self.step(sums[step], cont[step].unsqueeze(-1), *state)
            outputs.append(state[0])
        if self.exposed:
            return self.outputs(torch.stack(outputs)), *(value.unsqueeze(0) for value in state)
        self.carried = [value.detach() for value in state]
        return self.outputs(torch.stack(outputs))

    def outputs(self, h):
        return h


class LSTM(Recurrent):
    """Caffe's LSTM with the parameters of torch.nn.LSTM: rows of the gates i, f, g, o."""

    gates, states = 4, 2

    def step(self, sums, cont, h, c):
        i, f, g, o = (sums + F.linear(cont * h, self.weight_hh_l0)).chunk(4, -1)
        c = cont * f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class RNN(Recurrent):
    """Caffe's RNN: torch.nn.RNN's parameters, and an output tanh(weight_out h + bias_out)."""

    def __init__(self, inputs, outputs, static=0, exposed=False):
        super().__init__(inputs, outputs, static, exposed)
        self.weight_out = nn.Parameter(torch.zeros(outputs, outputs))
        self.bias_out = nn.Parameter(torch.zeros(outputs))

    def step(self, sums, cont, h):
        return (torch.tanh(sums + F.linear(cont * h, self.weight_hh_l0)),)

    def outputs(self, h):
        return torch.tanh(F.linear(h, self.weight_out, self.bias_out))
