"""A short run of the fuzzer (make fuzz is the long one), that it sees what goes wrong, and what it has found."""
import re
import time

import numpy as np
import pytest

import fuzz
from spp import filler
from spp.training import snapshot
from spp.blob import Blob
from spp.errors import NetError, SolverError
from spp.net import Net
from spp.proto import caffe_pb2, write_binary
from spp.proto.text import parse_net


@pytest.fixture(scope="module")
def corpus() -> fuzz.Corpus:
    return fuzz.Corpus(["tests/golden"])


def test_cases_that_no_one_has_seen_to(corpus):
    wrong, counts = fuzz.failures(corpus, 0, range(300))
    assert not wrong, "\n\n".join(f"{case.kind} from {case.origin}:\n{case.content!r}\n{why}" for case, why in wrong)
    assert counts["built"] > 40 and counts["refused"] > 100


def test_a_case_is_a_function_of_seed_and_number(corpus):
    assert corpus.case(1, 7) == fuzz.Corpus(["tests/golden"]).case(1, 7)
    contents = {corpus.case(seed, number).content for seed in (0, 1) for number in range(50)}
    assert len(contents) > 90
    assert {corpus.case(0, number).kind for number in range(50)} == {"net", "solver", "weights", "state"}


@pytest.mark.parametrize("work, reason", [
    (lambda: [][7], "IndexError: list index"), (lambda: time.sleep(5), "fuzz.Hang: over 0.2 s"),
    (lambda: np.ones(2 << 30), "Unable to allocate 16.0 GiB")])
def test_it_sees_errors_hangs_and_large_memory(corpus, monkeypatch, work, reason):
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    monkeypatch.setattr(fuzz, "run", lambda case, folder: work())
    (case, why), = fuzz.failures(corpus, 0, range(1))[0]
    assert case.number == 0 and reason in why


# --- found, or feared

@pytest.mark.parametrize("shape, message", [
    ([1] * 33, "a blob has at most 32 axes, found 33"),
    ([2, -1], "a blob's sizes must be at least 0, found 2 x -1"),
    ([2 ** 40, 2], r"a blob of 1099511627776 x 2 takes 8796.1 GB, and this machine has [\d.]+ GB of memory; check")])
def test_shapes_that_no_blob_can_have(shape, message):
    blob = Blob((2,))
    with pytest.raises(NetError, match=message):
        blob.reshape(shape)
    with pytest.raises(NetError, match=message):
        Blob(tuple(shape))
    assert blob.shape == (2,)
    blob.reshape(0, 3)
    blob.reshape([1] * 32)
    dims = " ".join(f"dim: {d}" for d in shape)
    with pytest.raises(NetError, match=rf"layer 'x' \(Input\): {message}"):
        Net(parse_net(f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}'))


def test_memory_that_runs_out_in_a_layer_is_an_error_of_the_net(monkeypatch):
    def full(*arguments):
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(filler, "fill", full)
    message = ("layer 'fc' (InnerProduct): needs more memory than there is (Unable to allocate 9 GiB); make its "
               "sizes, the input or the batch smaller")
    with pytest.raises(NetError, match=re.escape(message)):
        Net(parse_net('input: "x" input_shape { dim: 2 dim: 3 } layer { name: "fc" type: "InnerProduct" bottom: "x" '
                      'top: "fc" inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }')).forward()


@pytest.mark.parametrize("field, value, message", [
    ("resume", b"{", "damaged: .*; resume from an older snapshot"),
    ("resume", b"\xff\xfe", "damaged: .*; resume from an older snapshot"),
    ("learned_net", None, "the name of its weights is not UTF-8")])
def test_damaged_solver_states(tmp_path, field, value, message):
    state = caffe_pb2.SolverState(iter=3, learned_net="weights")
    if value is not None:
        setattr(state, field, value)
    path = str(tmp_path / "s.solverstate")
    write_binary(state, path)
    if value is None:
        data = (tmp_path / "s.solverstate").read_bytes()
        (tmp_path / "s.solverstate").write_bytes(data.replace(b"weights", b"we\xffghts"))
    with pytest.raises(SolverError, match=message):
        snapshot.read(path)
