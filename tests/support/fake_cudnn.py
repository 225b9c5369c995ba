"""A stand-in for nvidia-cudnn-frontend: graphs of one convolution, computed by the host backend on raw pointers."""
import ctypes
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np

from spp.backend import host
from spp.backend.types import Epilogue, Geometry

KINDS = {"FLOAT": np.float32, "DOUBLE": np.float64, "HALF": np.float16, "BFLOAT16": np.uint16}
_enum: Any = Enum
data_type = _enum("data_type", list(KINDS))
heur_mode = _enum("heur_mode", ["A", "FALLBACK"])
numerical_note = _enum("numerical_note", ["TENSOR_CORE", "DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION",
                                          "NONDETERMINISTIC", "WINOGRAD", "FFT"])


class cudnnGraphNotSupportedError(RuntimeError):        # the frontend's name
    pass


class Tensor:
    """A tensor of a graph; its setters return it, as the frontend's do."""

    def __init__(self, dim=None, stride=None, data_type=None, name="", uid=None, **options) -> None:
        self.dim, self.stride, self.kind, self.uid = dim, stride, data_type, uid
        self.options, self.output = options, False

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("set_"):
            raise AttributeError(name)
        field = {"set_data_type": "kind"}.get(name, name[4:])

        def setter(value: Any) -> "Tensor":
            setattr(self, field, value)
            return self
        return setter

    def read(self, pointer: int) -> np.ndarray:
        """The array there as float64."""
        values = self.view(pointer)
        if self.kind == data_type.BFLOAT16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float64)

    def write(self, pointer: int, values: np.ndarray) -> None:
        target = self.view(pointer)
        if self.kind == data_type.BFLOAT16:
            bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
            values = (bits + 0x7fff + (bits >> 16 & 1)) >> 16
        target[...] = values

    def view(self, pointer: int) -> np.ndarray:
        assert pointer % 16 == 0
        dtype = np.dtype(KINDS[self.kind.name])
        count = sum((n - 1) * step for n, step in zip(self.dim, self.stride)) + 1
        flat = np.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(pointer), dtype)
        return np.lib.stride_tricks.as_strided(flat, self.dim, [step * dtype.itemsize for step in self.stride])


class Graph:
    """cudnn.pygraph. `instances` lists all graphs; `declines` returns whether no engine supports a graph."""

    instances: list["Graph"] = []
    declines: Any = staticmethod(lambda graph: False)

    def __init__(self, io_data_type, intermediate_data_type, compute_data_type, handle) -> None:
        self.kinds = io_data_type, intermediate_data_type, compute_data_type
        self.handle, self.runs = handle, 0
        self.tensors: dict[int, Tensor] = {}
        self.added: Tensor | None = None
        Graph.instances.append(self)

    def tensor(self, **what: Any) -> Tensor:
        tensor = self.tensors[what["uid"]] = Tensor(**what)
        return tensor

    def conv_fprop(self, image, weight, **geometry) -> Tensor:
        return self._convolution("forward", image, weight, geometry)

    def conv_dgrad(self, loss, filter, **geometry) -> Tensor:
        return self._convolution("data", loss, filter, geometry)

    def conv_wgrad(self, image, loss, **geometry) -> Tensor:
        return self._convolution("weights", image, loss, geometry)

    def _convolution(self, operation: str, left: Tensor, right: Tensor, geometry: dict[str, Any]) -> Tensor:
        self.operation, self.left, self.right = operation, left, right
        self.geometry = [tuple(geometry[name]) for name in ("stride", "padding", "dilation")]
        assert geometry["compute_data_type"] == self.kinds[2]
        self.result = Tensor()
        return self.result

    def bias(self, input, bias, name) -> Tensor:
        assert input is self.result
        self.added, self.result = bias, Tensor()
        return self.result

    def validate(self) -> None:
        assert self.result.output and self.result.uid not in self.tensors

    build_operation_graph = build_plans = validate

    def create_execution_plans(self, modes: list) -> None:
        assert modes == [heur_mode.A, heur_mode.FALLBACK]

    def deselect_numeric_notes(self, notes: list) -> None:
        self.notes = {note.name for note in notes}

    def deselect_workspace_greater_than(self, count: int) -> None:
        self.most_workspace = count

    def check_support(self) -> None:
        if Graph.declines(self):
            raise cudnnGraphNotSupportedError("no engine\nfor this graph")

    def get_workspace_size(self) -> int:
        return 4096

    def execute(self, pointers: dict[int, int], workspace: int, handle: Any) -> None:
        assert handle is self.handle and workspace
        assert set(pointers) == {*self.tensors, self.result.uid}
        self.runs += 1
        left, right = (side.read(pointers[side.uid]) for side in (self.left, self.right))
        out = np.zeros(self.result.dim)
        stride, pad, dilation = map(tuple, self.geometry)
        if self.operation == "forward":
            bias = self.added.read(pointers[self.added.uid]).ravel() if self.added else None
            geometry = Geometry(right.shape[2:], stride, pad, dilation, left.shape[1] // right.shape[1])
            host.convolution_forward(left, right, out, geometry, Epilogue(bias))
        elif self.operation == "data":
            geometry = Geometry(right.shape[2:], stride, pad, dilation, out.shape[1] // right.shape[1])
            host.convolution_backward_data(left, right, out, geometry)
        else:
            geometry = Geometry(out.shape[2:], stride, pad, dilation, left.shape[1] // out.shape[1])
            host.convolution_backward_weights(left, right, out, None, geometry)
        self.result.write(pointers[self.result.uid], out)


def module() -> ModuleType:
    """What `import cudnn` shall give; without graphs as yet."""
    Graph.instances, Graph.declines = [], staticmethod(lambda graph: False)
    result: Any = ModuleType("cudnn")
    result.data_type, result.heur_mode = data_type, heur_mode
    result.numerical_note, result.pygraph = numerical_note, Graph
    result.backend_version = lambda: 92800
    result.create_handle = lambda: {"stream": None}
    result.set_stream = lambda handle, stream: handle.update(stream=stream)
    return result
