"""Fixtures that several files of tests use."""
import signal

import numpy as np
import pytest

from small_solver import NET, SOLVER
from spp.data import datum
from spp.data.database import DatabaseWriter
from spp.proto.text import parse_solver
from spp.solver import Solver

# A run in the background is started with SIGINT ignored, and so would be the programs that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("db") / "db")
    rng = np.random.default_rng(0)
    with DatabaseWriter(path) as writer:
        for i in range(13):
            image = rng.integers(0, 255, (12, 11, 3), np.uint8)
            image[:, :, i % 3] //= 4
            writer.put(b"%08d" % i, datum.raw(image, i % 3))
    return path


@pytest.fixture
def make(database, tmp_path):
    made = []

    def solver(extra="", net=NET, **arguments):
        text = SOLVER % (net % (database, database), tmp_path / "s", extra)
        made.append(Solver(parse_solver(text), **arguments))
        return made[-1]

    yield solver
    for one in made:
        one.close()
