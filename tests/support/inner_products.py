"""Inner products for the tests of every kernel: sizes, random arrays, the definition, and what spp computes."""
import numpy as np

from spp.backend.types import Epilogue
from spp.ops import inner_product

# N, inputs, outputs
SIZES = [(1, 5, 3), (2, 7, 1), (4, 6, 9), (5, 1, 4), (7, 13, 10), (33, 20, 3), (0, 4, 3), (4, 0, 3)]


def arrays(n, inputs, outputs, transpose, dtype=np.float64):
    """x, weight, bias, dy."""
    rng = np.random.default_rng(n)
    weight = (inputs, outputs) if transpose else (outputs, inputs)
    return [rng.normal(size=shape).astype(dtype) for shape in ((n, inputs), weight, (outputs,), (n, outputs))]


def expected(operands, transpose):
    """y, dx, dweight, dbias in float64."""
    x, weight, bias, dy = (a.astype(np.float64) for a in operands)
    k, order = ("io", "ni,no->io") if transpose else ("oi", "no,ni->oi")
    pair = (x, dy) if transpose else (dy, x)
    return (np.einsum(f"ni,{k}->no", x, weight) + bias, np.einsum(f"no,{k}->ni", dy, weight),
            np.einsum(order, *pair), np.einsum("no->o", dy))


def computed(operands, transpose):
    """The same by spp; outputs hold NaN before, and parameter gradients start at 1."""
    x, weight, bias, dy = operands
    y, dx = np.full_like(dy, np.nan), np.full_like(x, np.nan)
    dweight, dbias = np.ones_like(weight), np.ones_like(bias)
    inner_product.forward(x, weight, y, Epilogue(bias), 1, transpose)
    inner_product.backward_data(dy, weight, dx, 1, transpose)
    inner_product.backward_weights(x, dy, dweight, 1, transpose)
    inner_product.backward_bias(dy, dbias)
    return y, dx, dweight - 1, dbias - 1


def assert_near(results, requested, tolerance):
    """Compare arrays within `tolerance` of the largest expected value."""
    for name, a, e in zip(("y", "dx", "dweight", "dbias"), results, requested):
        np.testing.assert_allclose(a, e, 0, tolerance * np.abs(e).max(initial=1), err_msg=name)
