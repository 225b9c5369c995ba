"""What the host's kernels share: layouts, scratch memory, and a BLAS of one thread."""
import ctypes
import threading

import numpy as np
import pytest
from scipy.linalg import cython_blas

from spp.backend.host.blas import one_thread
from spp.backend.host.layout import empty_matrix, load_channels_last, load_matrix, store
from spp.backend.host.scratch import scratch


def test_channels_last_is_a_view_where_it_can_be():
    x = np.arange(24.0).reshape(2, 3, 4, 1)
    copy = load_channels_last(x, "test")
    assert copy.shape == (2, 4, 1, 3) and copy.flags.c_contiguous and not np.may_share_memory(copy, x)
    again = load_channels_last(copy.transpose(0, 3, 1, 2), "other")
    assert np.shares_memory(again, copy) and again.flags.c_contiguous
    np.testing.assert_array_equal(copy[1, 2, 0], x[1, :, 2, 0])


def test_matrices():
    x = np.arange(24.0).reshape(2, 3, 4)
    assert np.shares_memory(empty_matrix(x, 2, "test"), x) and empty_matrix(x, 2, "test").shape == (6, 4)
    transposed = x.transpose(0, 2, 1)
    loaded = load_matrix(transposed, 1, "test")
    np.testing.assert_array_equal(loaded, transposed.reshape(2, 12))
    assert np.shares_memory(loaded, empty_matrix(transposed, 1, "test"))
    loaded[...] = 5
    store(loaded.reshape(transposed.shape), transposed)
    assert (x == 5).all()
    assert empty_matrix(np.empty((0, 3, 4)), 1, "test").shape == (0, 12)


def test_scratch_is_reused_grows_and_belongs_to_its_thread():
    first = scratch("test.a", (3, 4), np.float32)
    assert first.shape == (3, 4) and first.dtype == np.float32 and first.flags.c_contiguous
    assert scratch("test.a", (2, 5), np.float32).ctypes.data == first.ctypes.data
    assert not np.may_share_memory(scratch("test.a", (3, 4), np.float64), first)
    assert not np.may_share_memory(scratch("test.b", (3, 4), np.float32), first)
    larger = scratch("test.a", (100,), np.float32)
    assert larger.shape == (100,) and scratch("test.a", (3, 4), np.float32).ctypes.data == larger.ctypes.data
    others = []
    thread = threading.Thread(target=lambda: others.append(scratch("test.a", (100,), np.float32)))
    thread.start()
    thread.join()
    assert not np.may_share_memory(others[0], larger)


def test_the_kernels_blas_has_one_thread():
    library = ctypes.CDLL(cython_blas.__file__)
    if not hasattr(library, "scipy_openblas_get_num_threads"):
        pytest.skip("this SciPy has another BLAS than its wheels' OpenBLAS")
    library.scipy_openblas_set_num_threads(2)
    one_thread()
    assert library.scipy_openblas_get_num_threads() == 1
