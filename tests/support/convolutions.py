"""Convolutions for the tests of every kernel: cases, random arrays, the definition as loops, and what spp computes."""
from typing import Any

import numpy as np

from spp.backend import host
from spp.backend.types import Epilogue, Geometry
from spp.ops import convolution

CASES = [       # input N x C x ..., outputs, kernel, stride, pad, dilation, group
    ((2, 3, 9, 7), 4, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((1, 2, 7, 10), 3, (3, 2), (2, 3), (0, 1), (1, 1), 1),
    ((2, 3, 11, 13), 2, (5, 4), (2, 1), (3, 2), (1, 1), 1),
    ((1, 2, 8, 9), 2, (2, 2), (3, 4), (1, 0), (1, 1), 1),           # stride > kernel: pixels that no window sees
    ((1, 3, 9, 8), 2, (3, 2), (1, 2), (2, 3), (2, 3), 1),           # dilation
    ((2, 4, 6, 5), 6, (3, 3), (2, 1), (1, 0), (1, 1), 2),           # groups
    ((1, 6, 5, 7), 3, (2, 3), (1, 1), (1, 2), (2, 1), 3),           # a group of one output
    ((2, 5, 7, 6), 5, (3, 2), (2, 1), (1, 1), (1, 2), 5),           # depthwise
    ((1, 3, 5, 6), 6, (3, 3), (1, 1), (1, 1), (1, 1), 3),           # depthwise with two outputs per channel
    ((3, 5, 4, 3), 4, (1, 1), (1, 1), (0, 0), (1, 1), 1),           # pointwise
    ((2, 4, 5, 6), 6, (1, 1), (1, 1), (0, 0), (1, 1), 2),
    ((2, 5, 5, 6), 4, (1, 1), (2, 3), (0, 0), (1, 1), 1),
    ((2, 5, 3, 4), 4, (1, 1), (1, 1), (1, 0), (1, 1), 1),
    ((5, 3, 1, 1), 4, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    ((2, 3, 4, 5), 7, (4, 5), (1, 1), (0, 0), (1, 1), 1),           # the kernel is the map
    ((1, 2, 3, 4), 2, (3, 3), (1, 1), (6, 5), (1, 1), 1),           # windows in the padding alone
    ((1, 2, 2, 5), 2, (4, 3), (3, 2), (0, 0), (1, 1), 1),           # larger than the map by less than a stride
    ((2, 4, 9), 6, (3,), (2,), (2,), (1,), 2),
    ((1, 2, 2), 3, (4,), (3,), (0,), (1,), 1),
    ((2, 3, 4, 5, 3), 4, (2, 3, 2), (1, 2, 1), (1, 0, 1), (1, 1, 2), 1),
    ((1, 2, 3, 2, 3, 2), 2, (2, 1, 2, 2), (1, 1, 2, 1), (0, 1, 0, 0), (1, 1, 1, 1), 2),
    ((3, 4), 6, (), (), (), (), 2),
]


def identity(case):
    return "-".join("x".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in case)


def arrays(case, dtype=np.float64, seed=0):
    """x, weight, bias, dy of a case; the output has the case's size."""
    shape, outputs, kernel, stride, pad, dilation, group = case
    out = tuple(map(convolution.output_size, shape[2:], kernel, stride, pad, dilation))
    rng = np.random.default_rng(seed)
    shapes = shape, (outputs, shape[1] // group, *kernel), (outputs,), (shape[0], outputs, *out)
    return [rng.normal(size=s).astype(dtype) for s in shapes]


def geometry_of(case):
    return Geometry(*case[2:])


def products(case, y_shape):
    """The index of y, of x and of the weight of every single product that the definition adds up."""
    shape, outputs, kernel, stride, pad, dilation, group = case
    depth = shape[1] // group
    for n, o, *place in np.ndindex(*y_shape):
        for tap in np.ndindex(*kernel):
            at = [i * s - p + t * d for i, s, p, t, d in zip(place, stride, pad, tap, dilation)]
            if all(0 <= a < size for a, size in zip(at, shape[2:])):
                for c in range(depth):
                    yield (n, o, *place), (n, o // (outputs // group) * depth + c, *at), (o, c, *tap)


def expected(case, x, weight, bias, dy):
    """y, dx, dweight, dbias in float64."""
    y = np.zeros(dy.shape) + bias.reshape(-1, *[1] * (x.ndim - 2))
    dx, dweight = np.zeros(x.shape), np.zeros(weight.shape)
    for i, j, k in products(case, dy.shape):
        y[i] += float(x[j]) * weight[k]
        dx[j] += float(dy[i]) * weight[k]
        dweight[k] += float(dy[i]) * x[j]
    return y, dx, dweight, dy.sum((0, *range(2, dy.ndim)), dtype=np.float64)


def computed(case, x, weight, bias, dy):
    """The same by spp; outputs hold NaN before, and parameter gradients start at 1."""
    geometry = geometry_of(case)
    y, dx = np.full_like(dy, np.nan), np.full_like(x, np.nan)
    dweight, dbias = np.ones_like(weight), np.ones_like(bias)
    convolution.forward(x, weight, y, geometry, Epilogue(bias))
    convolution.backward_data(dy, weight, dx, geometry)
    convolution.backward_weights(x, dy, dweight, dbias, geometry)
    return y, dx, dweight - 1, dbias - 1


def assert_near(results, reference, tolerance):
    """Compare arrays within `tolerance` of the largest expected value."""
    for name, a, e in zip(("y", "dx", "dweight", "dbias"), results, reference):
        np.testing.assert_allclose(a, e, 0, tolerance * np.abs(e).max(), err_msg=name)


def scaled(case, inputs, relu, bias=True):
    """y with scale and shift by spp, and the reference, computed from y without them in float64."""
    x, weight, b, dy = inputs
    dtype, b = x.dtype, b if bias else None
    scale, shift = np.linspace(-1.3, 2, len(weight)), np.linspace(3, -2, len(weight))
    results = np.full_like(dy, np.nan)
    host.convolution_forward(x, weight, results, geometry_of(case),
                             Epilogue(b, scale.astype(dtype), shift.astype(dtype), relu))
    reference = np.empty(dy.shape)
    exact: Any = [None if a is None else a.astype(np.float64) for a in (x, weight, b)]
    host.convolution_forward(exact[0], exact[1], reference, geometry_of(case), Epilogue(exact[2]))
    by_channel = [-1] + [1] * (x.ndim - 2)
    reference = reference * scale.reshape(by_channel) + shift.reshape(by_channel)
    return results, np.maximum(reference, 0) if relu else reference
