"""What `spp` itself offers: four classes, imported when they are first asked for."""
import subprocess
import sys

import pytest

import spp


def test_the_classes_are_those_of_their_modules():
    from spp import Blob, Layer, Net, Solver, blob, layers, net, solver
    assert (Blob, Layer, Net, Solver) == (blob.Blob, layers.Layer, net.Net, solver.Solver)
    assert {cls.__name__ for cls in (Blob, Layer, Net, Solver)} == set(spp.__all__)


def test_an_import_of_spp_alone_imports_nothing_more():
    code = "import sys; before = set(sys.modules); import spp; print(*sorted(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["spp"]


def test_another_name_is_an_error():
    with pytest.raises(AttributeError, match="^module 'spp' has no attribute 'Network'$"):
        getattr(spp, "Network")
