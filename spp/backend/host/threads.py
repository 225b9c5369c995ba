"""How many threads the host computes with."""
import numba

from spp.backend.host import blas
from spp.errors import SppError


def set_threads(count: int) -> None:
    """Let kernels that the calling thread starts, and NumPy's BLAS, use `count` threads; SppError if too many."""
    most: int = getattr(numba.config, "NUMBA_NUM_THREADS")      # as it was when Numba was imported
    if not 1 <= count <= most:
        raise SppError(f"cannot compute with {count} threads: this process may use 1 to {most}, which OMP_NUM_THREADS "
                       "said when it started, else one a core")
    numba.set_num_threads(count)
    blas.set_numpy_threads(count)
