"""Loading oneDNN: absent, switched off, broken, and where a program first needs it."""
import functools
import logging
import os
import subprocess
import sys

import numpy as np
import pytest

import convolutions
import inner_products
from convolutions import arrays, assert_near
from onednn_cases import CASE, needs_library, without
from spp.backend.host.onednn import library as onednn_library


@pytest.fixture
def loading(monkeypatch, caplog):
    """Loads the library anew, and gives what `library()` returns and the lines it logged in three calls."""
    def load():
        with caplog.at_level(logging.INFO, "spp.backend"):
            found = {onednn_library.library() for _ in range(3)}
        return found.pop(), [record.getMessage() for record in caplog.records]

    monkeypatch.delenv("SPP_ONEDNN", raising=False)
    # with a cache of its own: what other tests made goes with the library that they loaded
    monkeypatch.setattr(onednn_library, "_load", functools.cache(onednn_library._load.__wrapped__))
    return load


def test_absent_it_is_passed_over_in_silence(loading, monkeypatch):
    monkeypatch.setattr(onednn_library, "WHEEL", "no-such-wheel")
    assert loading() == (None, [])
    convolutions.computed(CASE, *arrays(CASE, np.float32))
    inner_products.computed(inner_products.arrays(3, 5, 4, False, np.float32), False)


def test_switched_off_by_the_environment(loading, monkeypatch):
    monkeypatch.setenv("SPP_ONEDNN", "0")
    assert loading() == (None, [])


def test_a_broken_library_is_told_once(loading, monkeypatch, tmp_path):
    pytest.importorskip("cffi")
    path = tmp_path / "libdnnl.so.3"
    path.write_text("not a library")
    monkeypatch.setattr(onednn_library, "_path", lambda: str(path))
    found, (line,) = loading()
    assert found is None and str(path) in line and "computing without it" in line
    assert "pip install --force-reinstall onednn-cpu-gomp cffi" in line
    given = arrays(CASE, np.float32)
    assert_near(convolutions.computed(CASE, *given), without(
        monkeypatch, convolutions.computed, CASE, *given), 1e-7)


def test_another_library_is_told_once(loading, monkeypatch):
    pytest.importorskip("cffi")
    monkeypatch.setattr(onednn_library, "_path", lambda: "libc.so.6")
    found, (line,) = loading()
    assert found is None and "dnnl_engine_create" in line


def test_cffi_missing_is_told_once(loading, monkeypatch):
    monkeypatch.setattr(onednn_library, "_path", lambda: "anything")
    monkeypatch.setitem(sys.modules, "cffi", None)
    found, (line,) = loading()
    assert found is None and "cffi" in line


def test_a_package_without_the_library_is_told_once(loading, monkeypatch):
    monkeypatch.setattr(onednn_library, "WHEEL", "numpy")
    found, (line,) = loading()
    assert found is None and "libdnnl.so.3 is not among the files of the package" in line


@needs_library
def test_it_is_found_where_a_program_first_needs_it():
    program = ("import sys, numpy as np; from spp.backend import host; assert 'cffi' not in sys.modules; "
               "x, w, y = np.ones((1, 3, 9, 9), 'f'), np.ones((8, 3, 3, 3), 'f'), np.ones((1, 8, 7, 7), 'f'); "
               "host.convolution_forward(x, w, None, y, (1, 1), (0, 0), (1, 1), 1); "
               "assert 'cffi' in sys.modules; print(y.sum())")
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                         env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert run.stdout.strip() == str(8 * 49 * 27.0) and not run.stderr
