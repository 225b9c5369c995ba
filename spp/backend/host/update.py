"""Parameter updates in one pass over memory."""
import numba
import numpy as np


@numba.njit(parallel=True, cache=True, nogil=True)
def _sgd(data, diff, history, rate, momentum, decay, l1, scale):
    for i in numba.prange(data.size):
        w = data[i]
        gradient = scale * diff[i] + decay * (np.sign(w) if l1 else w)
        step = momentum * history[i] + rate * gradient
        history[i] = step
        data[i] = w - step


def sgd_update(data: np.ndarray, diff: np.ndarray, history: np.ndarray, rate: float, momentum: float, decay: float,
               l1: bool, scale: float) -> None:
    """SGD with momentum and weight decay; see spp.ops.update.sgd."""
    kind = data.dtype.type
    _sgd(data.reshape(-1), diff.reshape(-1), history.reshape(-1), kind(rate), kind(momentum), kind(decay), l1,
         kind(scale))
