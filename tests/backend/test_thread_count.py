"""How many threads compute: by OMP_NUM_THREADS, by `set_threads`, and by the programs' --threads."""
import ctypes
import os
import subprocess
import sys

import numba
import pytest
from numpy import linalg

from programs import NET, run
from spp import backend
from spp.errors import SppError

MOST = numba.get_num_threads()
TOO_MANY = (f"cannot compute with {MOST + 1} threads: this process may use 1 to {MOST}, the value of "
            "OMP_NUM_THREADS when it started or else the number of cores")


@pytest.fixture(autouse=True)
def all_threads():
    yield
    backend.set_threads(MOST)


def blas_threads():
    """Of NumPy's BLAS, or None where it is not the OpenBLAS of its wheel."""
    library = ctypes.CDLL(linalg._umath_linalg.__file__)
    name = "scipy_openblas_get_num_threads64_"
    return getattr(library, name)() if hasattr(library, name) else None


def test_the_number_is_set():
    for count in (1, MOST):
        backend.set_threads(count)
        assert numba.get_num_threads() == count
        assert blas_threads() in (count, None)


@pytest.mark.parametrize("count", [0, -1, MOST + 1])
def test_too_many_or_none(count):
    with pytest.raises(SppError, match=TOO_MANY.replace(str(MOST + 1), str(count), 1)):
        backend.set_threads(count)


@pytest.mark.parametrize("value, expected", [("1", 1), ("1,3", 1), ("0", None), ("-2", None), ("", None)])
def test_the_environment(value, expected):
    """A wrong value counts for nothing, as for OpenMP itself."""
    environment = {**os.environ, "OMP_NUM_THREADS": value}
    environment.pop("NUMBA_NUM_THREADS", None)
    code = "import os, spp.backend; print(os.environ.get('NUMBA_NUM_THREADS'))"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(expected)


@pytest.mark.parametrize("program, arguments", [
    ("time_net", ["--model", "net.prototxt", "--iterations", 1]),
    ("train_net", ["--solver", "no.prototxt"]),
    ("test_net", ["--model", "net.prototxt", "--weights", "no.caffemodel"]),
    ("extract_features", ["no.caffemodel", "net.prototxt", "fc", "out", 1]),
    ("classify", ["--model", "net.prototxt", "--weights", "no.caffemodel", "no.jpg"]),
])
def test_programs(program, arguments, tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    run(program, *arguments, "--threads", 1, cwd=tmp_path)
    assert numba.get_num_threads() == 1
    for wrong, message in [("two", "'two' is not an integer of at least 1"),
                           (0, "'0' is not an integer of at least 1"), (MOST + 1, TOO_MANY)]:
        ended = run(program, *arguments, "--threads", wrong, cwd=tmp_path)
        assert ended.returncode == 1
        assert ended.stderr == f"error: argument --threads: {message}; see {program} --help\n"
