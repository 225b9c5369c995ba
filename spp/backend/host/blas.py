"""The number of threads of BLAS: one for SciPy's, which `np.dot` in Numba code calls.

Kernels call it from all of Numba's threads at once. Threads of its own on top of these would make it many
times slower, and so would waiting for NumPy's BLAS threads between two Numba kernels.

The libraries' own setters are called: threadpoolctl's set_num_threads takes 1.3 microseconds instead of 0.15, and
since its version 3.8 does nothing in all threads but the first that called it.
"""
import ctypes
import glob
import os
from typing import Any, Callable

import numba
import numpy as np
import scipy
from numpy import linalg
from scipy.linalg import cython_blas

from spp.backend.types import Array

_SETTERS = ("scipy_openblas_set_num_threads", "scipy_openblas_set_num_threads64_", "openblas_set_num_threads",
            "MKL_Set_Num_Threads")


def _find_setter(package: Any, linked: Any) -> Callable[[int], Any]:
    """The function with which a package's BLAS sets its number of threads; one that does nothing if BLAS has none.

    linked: a module of the package that is linked to its BLAS.
    """
    # On Linux and macOS the symbols of a library are found through the module that is linked to it; not on Windows.
    folder = os.path.dirname(package.__file__) + ".libs"
    for path in [linked.__file__, *glob.glob(os.path.join(folder, "*openblas*.dll"))]:
        library = ctypes.CDLL(path)
        for name in _SETTERS:
            if hasattr(library, name):
                return getattr(library, name)
    return lambda threads: None


_set_threads = _find_setter(scipy, cython_blas)
set_numpy_threads = _find_setter(np, linalg._umath_linalg)


def one_thread() -> None:
    """Limit SciPy's BLAS to the calling thread; NumPy's own BLAS is not changed. Takes 0.15 microseconds."""
    _set_threads(1)


@numba.njit(cache=True, nogil=True)
def product(a: Array, b: Array, out: Array) -> None:
    """Compute out = a b in a kernel; a separate function, so that Numba does not rewrite it as a loop."""
    np.dot(a, b, out)
