"""Loading oneDNN: absent, switched off, broken, and only when it is first needed."""
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
    """A function that loads the library anew; it returns the result of `library()` and the lines of three calls."""
    def load():
        with caplog.at_level(logging.INFO, "spp.backend"):
            libraries = {onednn_library.library() for _ in range(3)}
        return libraries.pop(), [record.getMessage() for record in caplog.records]

    monkeypatch.delenv("SPP_ONEDNN", raising=False)
    # with a cache of its own: objects of other tests belong to the library that they loaded
    monkeypatch.setattr(onednn_library, "_load", functools.cache(onednn_library._load.__wrapped__))
    return load


def test_nothing_is_logged_if_it_is_absent(loading, monkeypatch):
    monkeypatch.setattr(onednn_library, "WHEEL", "no-such-wheel")
    assert loading() == (None, [])
    convolutions.computed(CASE, *arrays(CASE, np.float32))
    inner_products.computed(inner_products.arrays(3, 5, 4, False, np.float32), False)


def test_switched_off_by_the_environment(loading, monkeypatch):
    monkeypatch.setenv("SPP_ONEDNN", "0")
    assert loading() == (None, [])


def test_a_broken_library_is_reported_once(loading, monkeypatch, tmp_path):
    pytest.importorskip("cffi")
    path = tmp_path / "libdnnl.so.3"
    path.write_text("not a library")
    monkeypatch.setattr(onednn_library, "_path", lambda: str(path))
    library, (line,) = loading()
    assert library is None and str(path) in line and "computing without it" in line
    assert "pip install --force-reinstall onednn-cpu-gomp cffi" in line
    inputs = arrays(CASE, np.float32)
    assert_near(convolutions.computed(CASE, *inputs), without(
        monkeypatch, convolutions.computed, CASE, *inputs), 1e-7)


def test_another_library_is_reported_once(loading, monkeypatch):
    pytest.importorskip("cffi")
    monkeypatch.setattr(onednn_library, "_path", lambda: "libc.so.6")
    library, (line,) = loading()
    assert library is None and "dnnl_engine_create" in line


def test_missing_cffi_is_reported_once(loading, monkeypatch):
    monkeypatch.setattr(onednn_library, "_path", lambda: "anything")
    monkeypatch.setitem(sys.modules, "cffi", None)
    library, (line,) = loading()
    assert library is None and "cffi" in line


def test_a_package_without_the_library_is_reported_once(loading, monkeypatch):
    monkeypatch.setattr(onednn_library, "WHEEL", "numpy")
    library, (line,) = loading()
    assert library is None and "libdnnl.so.3 is not among the files of the package" in line


@needs_library
def test_it_is_loaded_when_first_needed():
    program = ("import sys, numpy as np; from spp.backend import host, types; assert 'cffi' not in sys.modules; "
               "x, w, y = np.ones((1, 3, 9, 9), 'f'), np.ones((8, 3, 3, 3), 'f'), np.ones((1, 8, 7, 7), 'f'); "
               "host.convolution_forward(x, w, y, types.Geometry((3, 3), (1, 1), (0, 0), (1, 1))); "
               "assert 'cffi' in sys.modules; print(y.sum())")
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                         env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert run.stdout.strip() == str(8 * 49 * 27.0) and not run.stderr


def test_the_package_has_one_door():
    """Others import the package itself, none of its modules, so that it can be removed at once."""
    package = os.path.dirname(onednn_library.__file__)
    root = os.path.dirname(os.path.dirname(package))
    for folder, _, names in os.walk(root):
        for path in (os.path.join(folder, name) for name in names if name.endswith(".py") and folder != package):
            with open(path, encoding="utf-8") as file:
                assert "host.onednn." not in file.read().replace("from spp.backend.host.onednn import", ""), path
