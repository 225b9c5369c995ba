"""cuDNN's convolutions, through nvidia-cudnn-frontend: a graph for each problem, planned once, run on CuPy's arrays.

If the library is missing, or has no engine for a problem, there is no plan, and convolution_fallback.py computes.
"""
import atexit
import functools
import logging
import math
import threading
from dataclasses import dataclass
from typing import Any

import cupy
import numpy as np

from spp.backend import EXACT
from spp.backend.cuda.failures import device_error, lacks_memory, one_line, with_free_memory
from spp.backend.types import Array, Geometry, Numbers

log = logging.getLogger("spp.backend")

WORKSPACE_BYTES = 256 << 20     # that a plan may take, or as much as the problem's arrays if that is more
KEPT_PLANS = 1024               # of the latest problems; making one takes about 30 ms
LEFT, RIGHT, RESULT, BIAS = 1, 2, 3, 4      # the graph's own names of its tensors
BYTES = {"FLOAT": 4, "DOUBLE": 8, "HALF": 2, "BFLOAT16": 2}

_local = threading.local()


@dataclass(frozen=True)
class Problem:
    """A convolution or one of its gradients, for one set of shapes: what a plan is made for.

    operation: "forward" (y from x and the weights), "data" (dx from dy and the weights) or "weights" (dweight
    from x and dy). The shapes and the geometry have two or three spatial axes. kind: FLOAT or DOUBLE, for arrays in C
    order, or HALF or BFLOAT16, for channels last. `bias`: a bias is added (forward only). `strict`: products of full
    single precision, no TF32.
    """

    operation: str
    x: Numbers
    weight: Numbers
    y: Numbers
    geometry: Geometry
    kind: str
    bias: bool = False
    strict: bool = True

    @property
    def tensors(self) -> tuple[Numbers, Numbers, Numbers]:
        """The shapes of left and right operand and of the result."""
        return {"forward": (self.x, self.weight, self.y), "data": (self.y, self.weight, self.x),
                "weights": (self.x, self.y, self.weight)}[self.operation]

    def strides(self, shape: Numbers) -> Numbers:
        """The strides in elements of an array of this problem."""
        order = (0, *range(2, len(shape)), 1) if self.kind in ("HALF", "BFLOAT16") else range(len(shape))
        strides, step = [0] * len(shape), 1
        for axis in reversed(order):
            strides[axis], step = step, step * shape[axis]
        return tuple(strides)

    @property
    def workspace(self) -> int:
        """The most bytes that a plan may work in."""
        return max(WORKSPACE_BYTES, sum(math.prod(shape) for shape in self.tensors) * BYTES[self.kind])


@functools.cache
def library() -> Any:
    """The module cudnn, or None if it or cuDNN itself is missing, which is logged once."""
    try:
        _load_runtime()
        import cudnn
        cudnn.backend_version()
    except Exception as error:      # an ImportError, or what loading a library of another CUDA raises
        if lacks_memory(error) or device_error():
            raise
        log.warning("no cuDNN (%s): convolutions are computed with im2col and cuBLAS, which is slower; for cuDNN pip "
                    "install 'nvidia-cudnn-frontend<1.19' and nvidia-cudnn-cu12 or nvidia-cudnn-cu13", one_line(error))
        return None
    atexit.register(_find.cache_clear)      # plans hold memory of the driver, which ends before Python does
    return cudnn


def _load_runtime() -> None:
    """Load libcudart, which cuDNN's frontend looks for in the process and CuPy does not always load, and cuBLAS.

    Without cuBLAS cuDNN would end the process; here an error says so.
    """
    with_free_memory(cupy.cuda.get_cublas_handle)
    try:
        from cuda import pathfinder
        pathfinder.load_nvidia_dynamic_lib("cudart")
    except Exception as error:      # then the frontend looks for it in the system's folders
        log.debug("libcudart is not among the installed packages: %s", one_line(error))


def find(problem: Problem) -> Any:
    """The plan for a problem on the current device, a graph of cuDNN that is ready to run.

    None if there is no plan, which the log explains once.
    """
    if library() is None:
        return None
    return _find(threading.get_ident(), cupy.cuda.runtime.getDevice(), problem)


@functools.lru_cache(KEPT_PLANS)
def _find(thread: int, device: int, problem: Problem) -> Any:
    """A plan belongs to a thread and a device, as does the handle that it is made with."""
    try:
        return with_free_memory(make, library(), problem, handle=_handle(device))
    except Exception as error:      # cuDNN declines with several types
        if lacks_memory(error) or device_error():
            raise
        _say_declined(problem.kind, problem.operation)
        log.info("cuDNN declines %s: %s", problem, one_line(error))
        return None


@functools.cache
def _say_declined(kind: str, operation: str) -> None:
    log.warning("cuDNN declines a convolution (%s, %s), which is computed with im2col and cuBLAS, slower; the log's "
                "level INFO shows which ones and why", kind, operation)


def make(cudnn: Any, problem: Problem, **device: Any) -> Any:
    """Plan a problem. device: `handle`; or, to plan without a GPU, `device_property`. Raises if cuDNN declines.

    Only engines that give the same result every time and add up in the accumulator's type throughout; for strict
    problems none that rounds the operands.
    """
    kind, notes = getattr(cudnn.data_type, problem.kind), cudnn.numerical_note
    accumulator = cudnn.data_type.DOUBLE if problem.kind == "DOUBLE" else cudnn.data_type.FLOAT
    graph = cudnn.pygraph(io_data_type=kind, intermediate_data_type=accumulator, compute_data_type=accumulator,
                          **device)

    def tensor(shape: Numbers, uid: int) -> Any:
        return graph.tensor(dim=list(shape), stride=list(problem.strides(shape)), data_type=kind, name=f"tensor{uid}",
                            uid=uid)

    *operands, outcome = problem.tensors
    left, right = tensor(operands[0], LEFT), tensor(operands[1], RIGHT)
    geometry = {"padding": list(problem.geometry.pad), "stride": list(problem.geometry.stride),
                "dilation": list(problem.geometry.dilation),
                "compute_data_type": accumulator, "name": problem.operation}
    if problem.operation == "forward":
        result = graph.conv_fprop(image=left, weight=right, **geometry)
    elif problem.operation == "data":
        result = graph.conv_dgrad(loss=left, filter=right, **geometry)
    else:
        result = graph.conv_wgrad(image=left, loss=right, **geometry)
    if problem.bias:
        result.set_data_type(accumulator)
        result = graph.bias(input=result, bias=tensor((1, outcome[1], *[1] * (len(outcome) - 2)), BIAS), name="bias")
    result.set_output(True).set_data_type(kind).set_uid(RESULT)
    result.set_dim(list(outcome)).set_stride(list(problem.strides(outcome)))
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    unwanted = [notes.NONDETERMINISTIC, notes.REDUCED_PRECISION_REDUCTION]
    if problem.strict:
        unwanted += [notes.TENSOR_CORE, notes.DOWN_CONVERT_INPUTS]
    if EXACT:
        unwanted += [notes.WINOGRAD, notes.FFT]
    graph.deselect_numeric_notes(unwanted)
    graph.deselect_workspace_greater_than(problem.workspace)
    graph.check_support()
    graph.build_plans()
    return graph


def run(plan: Any, left: Array, right: Array, result: Array, bias: Array | None = None) -> None:
    """Run a plan on arrays in its problem's memory order, on CuPy's current stream."""
    arrays = {LEFT: left, RIGHT: right, RESULT: result}
    if bias is not None:
        arrays[BIAS] = bias
    # From CuPy's pool, which reuses it for later work on this stream, once this function has ended.
    workspace = cupy.empty(max(plan.get_workspace_size(), 1), np.uint8)
    with_free_memory(plan.execute, {uid: array.data.ptr for uid, array in arrays.items()}, workspace.data.ptr,
                     handle=_handle(cupy.cuda.runtime.getDevice()))


def _handle(device: int) -> Any:
    """This thread's handle for the device, which is the current one, on CuPy's current stream."""
    handles = _local.__dict__.setdefault("handles", {})
    if device not in handles:
        handles[device] = with_free_memory(library().create_handle)
    library().set_stream(handles[device], cupy.cuda.get_current_stream().ptr)
    return handles[device]
