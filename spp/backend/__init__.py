"""The only storey with two versions of anything: one sub-package a device, all offering the same functions.

`host` computes with NumPy and Numba. The array decides its backend: ops call `of(array)`; there is no global mode.
"""
import os
from types import ModuleType
from typing import Any

import numpy as np

from spp.errors import SppError

# Threads that wait for the next kernel sleep instead of spinning, or they would take the cores from the
# threads that read data, and from other programs: four times as fast at batch 1 beside another busy process.
# Read when OpenMP starts, at the first kernel.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Numba looks at its own variable only; users know this one.
if os.environ.get("OMP_NUM_THREADS", "").isdigit():
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])


def of(array: Any) -> ModuleType:
    """The backend whose arrays `array` is one of."""
    if isinstance(array, np.ndarray):
        from spp.backend import host
        return host
    raise TypeError(f"no backend for arrays of type {type(array).__module__}.{type(array).__name__}")


def select(device: str) -> ModuleType:
    """The backend of a device name: "auto", "cpu", "cuda" or "cuda:<index>".

    "auto" takes a GPU where one works, else the host. Raises SppError where the device is not to be had.
    """
    if device in ("auto", "cpu"):
        from spp.backend import host
        return host
    if device == "cuda" or device.startswith("cuda:"):
        raise SppError(f"device {device!r}: this version of spp computes on the CPU only; use --device cpu or auto")
    raise SppError(f"unknown device {device!r}: expected auto, cpu, cuda or cuda:<index>")
