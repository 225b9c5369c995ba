"""NVRTC, NVIDIA's compiler of GPU kernels, which needs no GPU."""
import ctypes
import glob
import importlib.util

import pytest


def library() -> ctypes.CDLL:
    """NVRTC of a wheel of NVIDIA's, of any CUDA; loaded, so that CuPy finds it too. Skips the test without a wheel."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec else []
    paths = [path for folder in folders for path in sorted(glob.glob(f"{folder}/*/lib/libnvrtc.so.*"))
             if "builtins" not in path and "alt" not in path]
    if not paths:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12")
    nvrtc = ctypes.CDLL(paths[0])
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
    return nvrtc
