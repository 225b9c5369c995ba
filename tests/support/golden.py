"""The numbers of the reference implementation, and how close to them is close enough."""
import os

import numpy as np

from folders import GOLDEN

LAYER_TOLERANCE = (2e-4, 2e-5)      # relative, and of the array's largest value: float32 summation order
SOLVER_TOLERANCE = (1e-3, 1e-4)


def cases(kind: str) -> list[str]:
    """The names of all cases of a kind ("layers", "solvers")."""
    return sorted(os.listdir(os.path.join(GOLDEN, kind)))


def path(*parts: str) -> str:
    """The path of a golden file."""
    return os.path.join(GOLDEN, *parts)


def assert_close(actual, expected, what, tolerance=LAYER_TOLERANCE):
    """Shapes equal, values within the tolerance."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    relative, of_largest = tolerance
    largest = np.abs(expected).max() if expected.size else 0
    np.testing.assert_allclose(actual, expected, relative, of_largest * largest, err_msg=what)
