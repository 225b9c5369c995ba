"""The line that says why a first run takes long."""
import subprocess
import sys

import numba
import numpy as np

from spp import backend


def test_compilation_is_told_once():
    messages = []
    backend.on_compilation(lambda: messages.append("replaced"))
    backend.on_compilation(lambda: messages.append("compiling"))
    kernels = [numba.njit(lambda x, n=n: x + n) for n in range(2)]
    assert messages == []
    assert [kernel(np.float32(1)) for kernel in kernels] == [1, 2]
    assert messages == ["compiling"]
    kernels[0](np.float32(2))
    assert messages == ["compiling"]


def test_kernels_from_the_cache_are_not_told():
    code = ("from spp import backend; import numpy as np; x = np.ones(8, np.float32); "
            "backend.on_compilation(lambda: print('compiling')); backend.of(x).relu(x, x, 0); print('done')")
    for _ in range(2):      # the first one may find no cache
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "done\n"
