"""Snapshots that lose nothing: kill -9, a full disk, moved and damaged files, Caffe's own."""
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from small_solver import NET, SOLVER, Recorder
from spp.training import snapshot
from spp.errors import SolverError, SppError
from spp.solver import Solver


def test_caffes_snapshot_starts_data_anew_and_says_so(make, tmp_path):
    recorder = Recorder()
    solver = make(listeners=[recorder])
    solver.step(2)
    path = solver.snapshot()
    state = snapshot.read(path)
    state.resume = {}
    snapshot.write(path, state)
    other = make(listeners=[recorder])
    other.restore(path)
    assert other.iter == 2
    assert "is Caffe's: it does not say where the data and random streams were" in recorder.messages[0]


def test_moved_snapshots_find_their_weights_beside_them(make, tmp_path):
    solver = make()
    solver.step(1)
    path = solver.snapshot()
    os.mkdir(tmp_path / "moved")
    for kind in ("solverstate", "caffemodel"):
        os.rename(tmp_path / f"s_iter_1.{kind}", tmp_path / "moved" / f"s_iter_1.{kind}")
    make().restore(str(tmp_path / "moved" / os.path.basename(path)))
    os.remove(tmp_path / "moved" / "s_iter_1.caffemodel")
    with pytest.raises(SolverError, match="are neither in the current folder nor beside it; put the .caffemodel"):
        make().restore(str(tmp_path / "moved" / os.path.basename(path)))


@pytest.mark.parametrize("damage, message", [
    (lambda path: os.remove(path), "snapshot .* not found; give the path of a .solverstate"),
    (lambda path: os.truncate(path, 200), "truncated"),
    (lambda path: Path(path).write_bytes(b"\x89HDF\r\n\x1a\nrest"),
     "no solver state in Caffe's HDF5 layout, or damaged"),
    (lambda path: history(path, -1), "holds 3 history blobs, this net and solver need 4"),
    (lambda path: history(path, 0),
     r"the history of conv\[0\] has shape \(2,\), the net's parameter has \(6, 3, 3, 3\)")])
def test_damaged_states(make, damage, message):
    solver = make()
    path = solver.snapshot()
    damage(path)
    with pytest.raises(SppError, match=message):
        make().restore(path)


def history(path, index):
    state = snapshot.read(path)
    if index < 0:
        state.history.pop()
    else:
        state.history[index] = np.zeros(2, np.float32)
    snapshot.write(path, state)


KILLED = """
    import os, sys, threading, time
    from spp.proto.text import parse_solver
    from spp.solver import Solver
    solver = Solver(parse_solver(sys.argv[1]))
    delay = float(sys.argv[2])
    solver.step(1)
    solver.snapshot()
    print("ready", flush=True)
    threading.Thread(target=lambda: (time.sleep(delay), os.kill(os.getpid(), 9)), daemon=True).start()
    while True:
        solver.iter += 1
        solver.snapshot()
"""


@pytest.mark.parametrize("delay", [0.005, 0.02, 0.031, 0.05])
def test_kill_9_in_a_snapshot_leaves_the_previous_one(make, database, tmp_path, delay):
    big = NET.replace("num_output: 6", "num_output: 4000")
    text = SOLVER % (big % (database, database), tmp_path / "s", "")
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), text, str(delay)], capture_output=True,
                         text=True)
    assert run.returncode == -signal.SIGKILL and run.stdout == "ready\n", run.stderr
    states = [name for name in os.listdir(tmp_path) if name.endswith(".solverstate")]
    assert states
    newest = snapshot.latest(str(tmp_path / "s"))
    solver = make(net=big)
    for name in states:
        solver.restore(str(tmp_path / name))
    solver.restore(newest)
    assert solver.iter == max(int(name.removeprefix("s_iter_").removesuffix(".solverstate")) for name in states)


def test_full_disk_keeps_the_previous_snapshot(make, tmp_path, monkeypatch):
    solver = make()
    solver.step(1)
    path = solver.snapshot()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    solver.step(1)
    with pytest.raises(SppError, match="the disk is full; free some space and try again"):
        solver.snapshot()
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["s_iter_1.caffemodel", "s_iter_1.solverstate"]
    make().restore(path)


def test_resume_holds_json(make):
    solver = make()
    solver.step(2)
    resume = snapshot.read(solver.snapshot()).resume
    assert json.loads(json.dumps(resume)) == resume
    assert resume["seed"] == 3 and set(resume["net"]) == {"data", "drop"} and resume["net"]["data"]["position"] == 2


def test_a_net_is_a_net_param_or_a_file_found_from_the_solver(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "net.prototxt").write_text(
        'layer { name: "d" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 } } }')
    (tmp_path / "models" / "solver.prototxt").write_text('net: "models/net.prototxt" base_lr: 1 lr_policy: "fixed"')
    monkeypatch.chdir("/")
    assert Solver(str(tmp_path / "models" / "solver.prototxt")).net.blobs["x"].shape == (2,)
    (tmp_path / "models" / "net.prototxt").unlink()
    with pytest.raises(SppError, match=r"File not found: models/net.prototxt \(named in .*solver.prototxt\); looked"):
        Solver(str(tmp_path / "models" / "solver.prototxt"))
