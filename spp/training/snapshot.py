"""Solver states on disk: Caffe's .solverstate (binary) and .solverstate.h5, with additional state for resuming."""
import json
import os
import re
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from spp import weights
from spp.atomic import replacing
from spp.errors import SolverError
from spp.proto import arrays, binary, caffe_pb2


@dataclass
class State:
    """A snapshot without the weights, which are in the file `learned_net`."""

    iteration: int
    learned_net: str
    history: list[np.ndarray]
    current_step: int = 0
    resume: dict[str, Any] = field(default_factory=dict)    # random streams, positions, plateau; empty if Caffe's


def make_folder(prefix: str) -> None:
    """Create the folder of a snapshot_prefix, before a training; raises SolverError if it cannot be written to."""
    folder = os.path.dirname(prefix) or "."
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise SolverError(f"cannot make the folder {folder} of snapshot_prefix: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise SolverError(f"cannot write to the folder {folder} of snapshot_prefix; set its permissions, or "
                          "choose another one")


def write(path: str, state: State) -> None:
    """Write a state, completely or not at all; as HDF5 if the path ends in .h5."""
    resume = json.dumps(state.resume).encode()
    if path.endswith(".h5"):
        with replacing(path) as temporary, h5py.File(temporary, "w") as file:
            # one-element arrays and a string of fixed length, because Caffe reads nothing else
            file["iter"] = np.array([state.iteration], np.int32)
            file["current_step"] = np.array([state.current_step], np.int32)
            file["learned_net"] = np.bytes_(state.learned_net.encode())
            file["resume"] = np.frombuffer(resume, np.uint8)
            group = file.create_group("history")
            for i, values in enumerate(state.history):
                group[str(i)] = values
        return
    proto = caffe_pb2.SolverState(iter=state.iteration, learned_net=state.learned_net,
                                  current_step=state.current_step, resume=resume)
    for values in state.history:
        proto.history.append(arrays.to_proto(values))
    binary.write_binary(proto, path)


def read(path: str) -> State:
    """Read a state written by `write` or by Caffe; the format is recognised by the content, not by the suffix.

    Raises SolverError or ProtoError if the file is missing, damaged, or not a solver state.
    """
    if not os.path.isfile(path):
        raise SolverError(f"snapshot {path} not found; give the path of a .solverstate or .solverstate.h5 file")
    if weights.is_hdf5(path):
        try:
            with h5py.File(path, "r") as file:
                group = file["history"]
                state = State(int(file["iter"][0]), file["learned_net"][()].decode(),
                              [group[str(i)][...] for i in range(len(group))], int(file["current_step"][0]),
                              json.loads(bytes(file["resume"][...])) if "resume" in file else {})
        except (OSError, LookupError, ValueError, AttributeError, TypeError, RuntimeError) as error:
            raise SolverError(f"{path}: no solver state in Caffe's HDF5 layout, or damaged: {error}; "
                              "resume from an older snapshot") from error
    else:
        proto = binary.read_solver_state(path)
        history = [arrays.from_proto(blob, f"{path}: history {i}") for i, blob in enumerate(proto.history)]
        try:
            resume = json.loads(proto.resume) if proto.resume else {}
        except ValueError as error:
            raise SolverError(f"{path}: damaged: {error}; resume from an older snapshot") from error
        if isinstance(proto.learned_net, bytes):        # protobuf's value of a string that is not UTF-8
            raise SolverError(f"{path}: damaged: the name of its weights is not UTF-8; resume from an older snapshot")
        state = State(proto.iter, proto.learned_net, history, proto.current_step, resume)
    state.learned_net = _model_path(path, state.learned_net)
    return state


def _model_path(path: str, learned_net: str) -> str:
    """The path of the weights: beside the state if both were moved, else as the state names it."""
    beside = os.path.join(os.path.dirname(path), os.path.basename(learned_net))
    for candidate in (beside, learned_net):
        if learned_net and os.path.isfile(candidate):
            return candidate
    raise SolverError(f"{path}: its weights {learned_net!r} are neither in the current folder nor beside it; "
                      "put the .caffemodel beside the .solverstate")


def latest(prefix: str) -> str | None:
    """The path of the newest snapshot `<prefix>_iter_<N>.solverstate[.h5]` (largest N), or None."""
    folder, stem = os.path.split(prefix)
    name = re.compile(re.escape(stem) + r"_iter_([0-9]+)\.solverstate(\.h5)?")
    matches = map(name.fullmatch, os.listdir(folder or ".") if os.path.isdir(folder or ".") else [])
    snapshots = [(int(match[1]), os.path.join(folder, match[0])) for match in matches if match]
    return max(snapshots)[1] if snapshots else None
