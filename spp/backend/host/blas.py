"""The BLAS behind `np.dot` in Numba code, which is SciPy's, kept to one thread.

Kernels call it from all of Numba's threads at once. Threads of its own on top of these would make it many
times slower, and so would waiting for NumPy's BLAS threads between two Numba kernels.
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
    """The function of the BLAS of a package that sets its number of threads; one that does nothing where it has none.

    linked: a module of the package that is linked to its BLAS.
    """
    # On Linux and macOS a symbol of a library is found through the module that is linked to it; not on Windows.
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
    """Keep SciPy's BLAS to the thread that calls it; NumPy's own BLAS is not touched. Costs a microsecond."""
    _set_threads(1)


@numba.njit(cache=True, nogil=True)
def product(a: Array, b: Array, out: Array) -> None:
    """out = a b, for kernels; a function of its own, so that Numba does not rewrite it as a loop of its own."""
    np.dot(a, b, out)
