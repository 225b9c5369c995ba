"""Fuzzing: mutated prototxts, solvers, weights and snapshots must give a net or an SppError, soon, in little memory.

    python tests/support/fuzz.py --cases 10000 --seed 0        (make fuzz)

A case is a pure function of (seed, number): `--only NUMBER` runs it again. Failing cases are stored in build/fuzz.
"""
import argparse
import contextlib
import logging
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Sequence

import numpy as np

from folders import GOLDEN, ROOT
from spp.training import snapshot
from spp.errors import SppError
from spp.net import Net
from spp.proto import caffe_pb2, parse_net, parse_solver, read_net, read_solver, to_text
from spp.solver import Solver

SECONDS = 60            # a case may take; the widest net, 77 million random weights, takes 5 on an idle machine
SMALL = 100000          # values in all blobs of a net that is run as well as built
MEMORY = 6 << 30        # bytes of address space above what the process has at its start

NUMBERS = ("0", "1", "2", "3", "7", "-1", "-3", "255", "65537", "1000003", "2147483647", "2147483648", "4294967295",
           "4294967296", "9223372036854775807", "18446744073709551616", "-2147483649", "0.5", "-0.0", "1e9", "1e39",
           "1e309", "nan", "inf", "-inf", "true", "MAX", "0x7fffffff", "017")
BYTES = (b"\x00", b"\xff", b"\x80", b"\x7f", b"\x01", b"\xff\xff\xff\xff\x0f", b"\xff" * 9 + b"\x01", b"\x0a", b"\x08")
MESSAGES = {"net": caffe_pb2.NetParameter, "solver": caffe_pb2.SolverParameter, "weights": caffe_pb2.NetParameter,
            "state": caffe_pb2.SolverState}
TOKEN = re.compile(r'"[^"\n]*"|[A-Za-z_]\w*|[+-]?[\d.][\w.+-]*|\S|\s+')


@dataclass
class Case:
    """What one number stands for: a kind of file, the file it came from, and its mutated content."""

    number: int
    kind: str           # net, solver, weights, state
    origin: str
    content: bytes


class Corpus:
    """The sound files that mutations begin from, by kind, and the words that they use.

    `folders` are where nets and solvers come from, below the root.
    """

    def __init__(self, folders: Sequence[str] = ("tests/golden", "prototxt")) -> None:
        def find(*patterns: str) -> list[Path]:
            return sorted(path for pattern in patterns for path in ROOT.glob(pattern))

        golden = "tests/golden/"
        solvers = find(*(f"{folder}/**/*solver*.prototxt" for folder in folders))
        nets = set(find(*(f"{folder}/**/*.prototxt" for folder in folders))) - set(solvers)
        self.files = {"net": sorted(nets), "solver": solvers,
                      "weights": find(golden + "solvers/*/*.caffemodel*"),
                      "state": find(golden + "solvers/*/*.solverstate*")}
        self.contents = {path: path.read_bytes() for paths in self.files.values() for path in paths}
        words = {token for path in nets for token in TOKEN.findall(self.contents[path].decode("utf-8", "replace"))
                 if re.match(r'["A-Za-z_]', token)}
        self.words = sorted(words)

    def case(self, seed: int, number: int) -> Case:
        """The case of a number."""
        rng = random.Random(f"{seed}/{number}")
        kind = rng.choices(("net", "solver", "weights", "state"), (12, 2, 4, 2))[0]
        path = rng.choice(self.files[kind])
        content = self.contents[path]
        is_text = kind in ("net", "solver")
        mutations = rng.choice((1, 1, 1, 2, 3, 8))
        if path.suffix != ".h5" and rng.random() < 0.6:
            content = self._fields(rng, content, kind, mutations)
        else:
            for _ in range(mutations):
                content = (self._text if is_text and rng.random() < 0.9 else self._bytes)(rng, content, kind)
        return Case(number, kind, str(path.relative_to(ROOT)), content)

    def _fields(self, rng: random.Random, content: bytes, kind: str, mutations: int) -> bytes:
        """Still of the schema: other values, fields more and fewer."""
        message: Any = MESSAGES[kind]()
        if kind == "net":
            message = parse_net(content.decode())
        elif kind == "solver":
            message = parse_solver(content.decode())
        else:
            message.ParseFromString(content)
        for _ in range(mutations):
            parts = list(_parts(message))
            layers = [layer for layer in getattr(message, "layer", ()) if layer.type != "Input"]
            if layers and rng.random() < 0.8:       # what a layer is about, rather than names and shapes
                inside = list(_parts(rng.choice(layers)))
                part = rng.choice([part for part in inside if part.DESCRIPTOR.name.endswith("Parameter")])
            else:
                part = rng.choice(parts)
            present = [field for field, _ in part.ListFields()]
            field = rng.choice(present if present and rng.random() < 0.7 else list(part.DESCRIPTOR.fields))
            self._change(rng, part, field, [other for other in parts if other.DESCRIPTOR is field.message_type])
        return to_text(message).encode() if kind in ("net", "solver") else message.SerializePartialToString()

    def _change(self, rng: random.Random, part: Any, field: Any, donors: list[Any]) -> None:
        value = getattr(part, field.name)
        if hasattr(value, "__delitem__"):       # repeated
            if len(value) and rng.random() < 0.6:
                at = rng.randrange(len(value))
                if field.message_type is None:
                    value[at] = self._value(rng, field)
                elif rng.random() < 0.5:
                    value.add().CopyFrom(value[at])
                else:
                    del value[at]
            elif len(value) and rng.random() < 0.3:
                del value[rng.randrange(len(value))]
            else:
                for _ in range(rng.choice((1, 1, 2, 40))):
                    if field.message_type is None:
                        value.append(self._value(rng, field))
                    else:
                        value.add()
        elif rng.random() < 0.1:
            part.ClearField(field.name)
        elif field.message_type is None:
            setattr(part, field.name, self._value(rng, field))
        elif donors:
            value.CopyFrom(rng.choice(donors))
        else:
            value.SetInParent()

    def _value(self, rng: random.Random, field: Any) -> Any:
        if field.enum_type is not None:
            return rng.choice(field.enum_type.values).number
        if field.cpp_type == field.CPPTYPE_BOOL:
            return rng.random() < 0.5
        if field.type == field.TYPE_BYTES:
            return rng.choice(BYTES)
        if field.cpp_type == field.CPPTYPE_STRING:
            return rng.choice(self.words).strip('"')
        if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
            return rng.choice((0.0, 1.0, -1.0, 0.5, 2.0, 1e30, -1e30, 1e-30, float("nan"), float("inf")))
        bits = 32 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 64
        signed = field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64)
        least, most = (-2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2 ** bits - 1)
        number = rng.choice((0, 1, 2, 3, 4, 5, 7, -1, -2)) if rng.random() < 0.8 else rng.choice(
            (least, most, most // 2, 65537, 1000003, 2 ** 31, 2 ** 31 - 1))
        return min(max(number, least), most)

    def _text(self, rng: random.Random, content: bytes, kind: str) -> bytes:
        tokens = TOKEN.findall(content.decode("utf-8", "replace"))
        solid = [i for i, token in enumerate(tokens) if not token.isspace()]
        if not solid:
            return content
        at = rng.choice(solid)
        numbers = [i for i in solid if re.match(r"[+-]?[\d.]", tokens[i])]
        choice = rng.randrange(14)
        if choice < 8 and numbers:
            tokens[rng.choice(numbers)] = rng.choice(NUMBERS)
        elif choice < 10:
            tokens[at] = rng.choice(self.words)
        elif choice == 10:
            del tokens[at]
        elif choice == 11:
            other = rng.choice(solid)
            tokens[at], tokens[other] = tokens[other], tokens[at]
        elif choice == 12:      # a stretch of it again, somewhere
            length = rng.choice((1, 3, 10, 60))
            place = rng.choice(solid)
            tokens[place:place] = [" ", *tokens[at:at + length], " "]
        else:                   # a stretch of another file
            other_tokens = TOKEN.findall(self.contents[rng.choice(self.files[kind])].decode("utf-8", "replace"))
            start = rng.randrange(len(other_tokens))
            tokens[at:at] = [" ", *other_tokens[start:start + rng.choice((5, 40, 200))], " "]
        return "".join(tokens).encode()

    def _bytes(self, rng: random.Random, content: bytes, kind: str) -> bytes:
        if not content:
            return content
        data = bytearray(content)
        # the messages' frames are near the beginning, and the values after them are worth less
        at = rng.randrange(min(len(data), rng.choice((64, 600, len(data)))))
        choice = rng.randrange(6)
        if choice == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif choice == 1:
            data[at] = rng.randrange(256)
        elif choice == 2:
            return bytes(data[:at])
        elif choice == 3:
            data[at:at] = rng.choice(BYTES)
        elif choice == 4:
            del data[at:at + rng.choice((1, 2, 8, 100))]
        else:
            data[at:at] = data[at:at + rng.choice((1, 4, 50))]
        return bytes(data)


def run(case: Case, folder: Path) -> str:
    """Read and build what a case describes, and run it if it is small: "built", or "refused" if that raised SppError.
    """
    path = folder / ({"net": "net.prototxt", "solver": "solver.prototxt"}.get(case.kind, "file"))
    path.write_bytes(case.content)
    try:
        if case.kind == "net":
            net_text = read_net(path)
            for phase in (0, 1):
                with Net(net_text, phase, device="cpu") as net:
                    if sum(blob.count for blob in net.blobs.values()) < SMALL:
                        net.forward()
                        net.backward()
        elif case.kind == "solver":
            read_solver(path)
            with Solver(str(path), "cpu"):
                pass
        elif case.kind == "weights":
            with Net(str(GOLDEN / "solvers" / Path(case.origin).parent.name / "net.prototxt"), 0, device="cpu") as net:
                net.copy_from(str(path))
        else:
            snapshot.read(str(path))
    except SppError as error:
        message = str(error)
        if "\n" in message or len(message) > 10000:
            raise AssertionError(f"the message is {len(message)} long, or not one line: {message[:200]!r}") from error
        return "refused"
    return "built"


def _parts(message: Any) -> Iterator[Any]:
    """A message and all messages in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if hasattr(value, "__delitem__") else [value]:
                yield from _parts(part)


class Hang(BaseException):
    """A case has taken too long."""


def _alarm(number: int, frame: object) -> None:
    raise Hang(f"over {SECONDS} s")


@contextlib.contextmanager
def bounded(folder: Path):
    """No case may hang, take much memory, or leave files outside `folder`."""
    before = os.getcwd(), signal.signal(signal.SIGALRM, _alarm), resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[2][1]))
    logging.disable(logging.CRITICAL)
    os.chdir(folder)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.chdir(before[0])
        logging.disable(logging.NOTSET)
        signal.signal(signal.SIGALRM, before[1])
        resource.setrlimit(resource.RLIMIT_AS, before[2])


def failures(corpus: Corpus, seed: int, numbers: range,
             progress: bool = False) -> tuple[list[tuple[Case, str]], dict[str, int]]:
    """The cases that went wrong with the reason of each, and how many were built and refused."""
    wrong, counts = [], {"built": 0, "refused": 0}
    with tempfile.TemporaryDirectory() as name, bounded(Path(name)):
        folder = Path(name)
        for path in [*GOLDEN.glob("solvers/sgd/*.caffemodel"), *GOLDEN.glob("solvers/sgd_hdf5/*.h5")]:
            (folder / path.name).write_bytes(path.read_bytes())     # what solverstates name
        solver_net = (GOLDEN / "solvers" / "sgd" / "net.prototxt").read_bytes()
        for number in numbers:
            case = corpus.case(seed, number)
            (folder / "net.prototxt").write_bytes(solver_net)
            began = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                counts[run(case, folder)] += 1
            except KeyboardInterrupt:
                raise
            except BaseException:       # that is what fuzzing looks for
                wrong.append((case, traceback.format_exc()))
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if time.monotonic() - began > SECONDS / 4 and progress:
                print(f"case {number} ({case.origin}) took {time.monotonic() - began:.1f} s", flush=True)
            if progress and number % 1000 == 999:
                print(f"{number + 1} cases: {counts}, {len(wrong)} failed", flush=True)
    return wrong, counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of the one case to run")
    args = parser.parse_args()
    numbers = range(args.cases) if args.only is None else range(args.only, args.only + 1)
    wrong, counts = failures(Corpus(), args.seed, numbers, progress=True)
    folder = ROOT / "build" / "fuzz"
    reasons: dict[str, int] = {}
    for case, reason in wrong:
        folder.mkdir(parents=True, exist_ok=True)
        name = folder / f"{args.seed}_{case.number}_{case.kind}"
        name.write_bytes(case.content)
        places = re.findall(rf'File "{re.escape(str(ROOT))}/(spp/\S+)", line (\d+)', reason) or [("?", "?")]
        words = f"{':'.join(places[-1])}: {reason.strip().splitlines()[-1]}"
        if words not in reasons:
            print(f"\n--- case {case.number}, {case.kind} from {case.origin}, stored as {name}\n{reason}")
        reasons[words] = reasons.get(words, 0) + 1
    for words, count in sorted(reasons.items(), key=lambda item: -item[1]):
        print(f"{count:5d} x {words}")
    print(f"{sum(counts.values()) + len(wrong)} cases: {counts['built']} built, {counts['refused']} refused, "
          f"{len(wrong)} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
