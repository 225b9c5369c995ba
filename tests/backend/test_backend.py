"""Backends: which device an array and a name mean, and how many threads the host takes."""
import os
import subprocess
import sys

import numpy as np
import pytest

from spp import backend
from spp.backend import host
from spp.errors import SppError


def test_an_array_and_a_name_tell_the_backend():
    assert backend.of(np.zeros(3)) is host and backend.select("cpu") is host
    with pytest.raises(TypeError, match="no backend for arrays of type builtins.list"):
        backend.of([1, 2])


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cuda:", "cpu:0"])
def test_devices_that_there_are_not(device):
    with pytest.raises(SppError, match=f"unknown device '{device}': expected auto, cpu, cuda or cuda:<index>"):
        backend.select(device)


@pytest.mark.parametrize("settings, threads", [({"OMP_NUM_THREADS": "1"}, "1"),
                                               ({"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "1"}, "1")])
def test_threads_follow_the_environment(settings, threads):
    clean = {key: value for key, value in os.environ.items() if not key.endswith("NUM_THREADS")}
    run = subprocess.run([sys.executable, "-c", "import spp.backend.host, numba; print(numba.get_num_threads())"],
                         env={**clean, **settings}, capture_output=True, text=True)
    assert run.stdout.strip() == threads, run.stderr
