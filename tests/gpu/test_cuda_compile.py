"""The kernels compile for every GPU that is supported, and touch no memory but their arrays."""
import ctypes
import glob
import importlib
import itertools
import os
import subprocess
import sys

import pytest

import cuda_cpu
import emulated_cupy
import nvrtc
from folders import ROOT

HERE = os.path.dirname(os.path.abspath(__file__))
ARCHITECTURES = [70, 75, 80, 86, 89, 90, 100, 120]      # Volta to Blackwell
CUPYS = ["-ftz=true", "--device-as-default-execution-space"]    # options that CuPy adds


# --- NVIDIA's compiler, which needs no GPU

@pytest.fixture(scope="module", name="nvrtc")
def loaded_nvrtc():
    return nvrtc.library()


def supported(nvrtc):
    count = ctypes.c_int()
    assert nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count)) == 0
    numbers = (ctypes.c_int * count.value)()
    assert nvrtc.nvrtcGetSupportedArchs(numbers) == 0
    return list(numbers)


def compiled(nvrtc, source, options):
    """The machine code; raises AssertionError with the compiler's messages."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None) == 0
    try:
        encoded = [option.encode() for option in options]
        result = nvrtc.nvrtcCompileProgram(program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded))
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        assert result == 0, f"{nvrtc.nvrtcGetErrorString(result).decode()}\n{log.value.decode()}"
        assert nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0
        code = ctypes.create_string_buffer(size.value)
        assert nvrtc.nvrtcGetCUBIN(program, code) == 0
        return code.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def sources():
    """Each source's text, with the sets of options that it is compiled with."""
    with emulated_cupy.installed():
        kernels = importlib.import_module("spp.backend.cuda.kernels")
        half = kernels.source("half.cu")
        return {"float": (kernels.source(), [*kernels.OPTIONS, "-Dreal=float"]),
                "double": (kernels.source(), [*kernels.OPTIONS, "-Dreal=double"]),
                "fp16": (half, ["--std=c++17", "-DFP16=1"]), "bf16": (half, ["--std=c++17"])}


@pytest.fixture(scope="module")
def quickly(nvrtc):
    """The option that makes NVRTC 7 times as fast, without its optimisations; none where it is too old for that."""
    try:
        compiled(nvrtc, "", ["--gpu-architecture=sm_80", "--Ofast-compile=max"])
    except AssertionError:
        return []
    return ["--Ofast-compile=max"]


@pytest.mark.parametrize("kind, architecture", [*itertools.product(["float", "double", "fp16", "bf16"], ARCHITECTURES),
                                                ("as it is used", 90)])
def test_every_kernel_compiles(nvrtc, quickly, kind, architecture):
    if architecture not in supported(nvrtc):
        pytest.skip(f"this NVRTC does not know sm_{architecture}")
    source, options = sources()["float" if kind == "as it is used" else kind]
    options = options + (CUPYS if kind == "as it is used" else quickly)
    names = cuda_cpu.kernel_names(source)
    assert len(names) > (1 if kind.endswith("16") else 40)
    code = compiled(nvrtc, source, [*options, f"--gpu-architecture=sm_{architecture}"])
    for name in names:
        assert f".text.{name}\0".encode() in code


def test_an_error_is_seen(nvrtc):
    with pytest.raises(AssertionError, match="kernels.cu.*nothing"):
        compiled(nvrtc, 'extern "C" __global__ void f() { nothing(); }', ["--gpu-architecture=sm_80"])


# --- the address sanitizer

@pytest.fixture(scope="module")
def sanitized():
    """Runs Python code in a process in which g++'s address sanitizer watches the kernels; gives its result."""
    if cuda_cpu.COMPILER is None:
        pytest.skip(cuda_cpu.MISSING)
    library = subprocess.run([cuda_cpu.COMPILER, "-print-file-name=libasan.so"], capture_output=True,
                             text=True).stdout.strip()
    if not os.path.isabs(library):
        pytest.skip("g++ has no address sanitizer (libasan)")

    def run(code):
        environment = {**os.environ, "SPP_TEST_DEVICE": "cpu", "LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0",
                       "PYTHONPATH": os.pathsep.join([HERE, str(ROOT / "tests" / "support"),
                                                        str(ROOT)])}
        begin = "import cuda_cpu; cuda_cpu.FLAGS = ('-fsanitize=address',)\n"
        return subprocess.run([sys.executable, "-c", begin + code], env=environment, capture_output=True, text=True)

    return run


def test_no_kernel_leaves_its_arrays(sanitized):
    """All tests of the kernels in single precision, with the sanitizer watching."""
    result = sanitized(f"""
import pytest, sys
files = {sorted(glob.glob(f"{HERE}/test_cuda_kernels_*.py"))}
sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-k', 'not float64', *files]))
""")
    assert result.returncode == 0 and " passed" in result.stdout, result.stdout[-3000:] + result.stderr[-3000:]


@pytest.mark.parametrize("beyond", [0, 1])
@pytest.mark.parametrize("waits", ["", "__syncthreads();"])
def test_a_planted_error_is_caught(sanitized, beyond, waits):
    result = sanitized(f"""
import numpy as np
kernel = cuda_cpu.Module('''extern "C" __global__ void f(int count, float *x) {{
    {waits}
    x[threadIdx.x + count] = 1;
}}
''').get_function('f')
kernel((1,), (1,), (np.int32(99 + {beyond}), np.zeros(100, np.float32)))
print('done')
""")
    assert ("done" in result.stdout) == (not beyond)
    assert ("heap-buffer-overflow" in result.stderr) == bool(beyond)
