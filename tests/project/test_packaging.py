"""What is installed: every package, data file and command, from the sdist and from the wheel."""
import configparser
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from folders import ROOT


def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def programs() -> list[str]:
    return sorted(path.stem for path in (ROOT / "tools").glob("*.py") if path.stem not in ("__init__", "common"))


def test_every_package_is_listed():
    folders = [path.parent.relative_to(ROOT) for path in (ROOT / "spp").rglob("__init__.py")]
    packages = {".".join(folder.parts) for folder in folders} | {"spp_tools", "spp_tools.prototxt"}
    assert set(config()["options"]["packages"].split()) == packages


def test_every_program_has_a_command():
    lines = config()["options.entry_points"]["console_scripts"].strip().splitlines()
    assert lines == [f"spp-{name.replace('_', '-')} = spp_tools.{name}:main" for name in programs()]


def test_the_version_is_the_packages_own():
    import spp
    assert config()["metadata"]["version"] == spp.__version__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from the sdist as pip builds it, without the network."""
    pytest.importorskip("setuptools", "70.1", "building needs setuptools 70.1 or newer: pip install 'spp[test]'")
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    for name in ("spp", "tools", "prototxt"):
        shutil.copytree(ROOT / name, source / name, symlinks=True,
                        ignore=shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc"))
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source / name)
    build = "from setuptools import build_meta; print(build_meta.build_sdist('..'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "sdist", filter="data")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
                    "--no-index", "--wheel-dir", str(folder), str(next((folder / "sdist").iterdir()))],
                   check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_file(wheel):
    def files(folder: str, *patterns: str) -> set[str]:
        paths = {path.relative_to(ROOT) for pattern in patterns for path in (ROOT / folder).rglob(pattern)}
        return {path.as_posix() for path in paths if "__pycache__" not in path.parts}
    expected = files("spp", "*.py", "*.proto", "*.pyi", "*.cu")
    expected |= {"spp_" + name for name in files("tools", "*.py")}
    expected |= {"spp_tools/" + name for name in files("prototxt", "*.prototxt")}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = {Path(name).name: archive.read(name).decode() for name in archive.namelist()
                    if ".dist-info/" in name}
    assert names == expected
    assert "spp/proto/caffe.proto" in names and "spp_tools/prototxt/zf5_spp_solver.prototxt" in names
    assert "BSD 2-Clause" in metadata["LICENSE"]
    for name in programs():
        assert f"= spp_tools.{name}:main" in metadata["entry_points.txt"]


def test_the_installed_programs_find_the_installed_nets(wheel, tmp_path):
    """Unpacked as pip unpacks it, and run from elsewhere."""
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = ("from spp import paths; from spp.proto import text; from spp_tools.common import prototxt_folder\n"
            "solver = str(prototxt_folder() / 'zf5_spp_solver.prototxt')\n"
            "print(paths.find(text.read_solver(solver).net, solver))")
    result = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True,
                            env={**os.environ, "PYTHONPATH": str(site)})
    assert result.stdout.strip() == str(site / "spp_tools" / "prototxt" / "zf5_spp_train_val.prototxt"), result
    for name in programs():
        result = subprocess.run([sys.executable, "-m", f"spp_tools.{name}", "--help"], cwd=elsewhere,
                                capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(site)})
        assert result.returncode == 0 and result.stdout.startswith("usage: "), result
