"""Files that appear whole or not at all."""
import errno
import os

import pytest

from spp.atomic import replacing
from spp.errors import ProtoError, SppError


def write(path, text, **kwargs):
    with replacing(path, **kwargs) as temporary:
        with open(temporary, "w") as file:
            file.write(text)


def test_new_and_replaced(tmp_path):
    path = tmp_path / "a.txt"
    write(path, "one")
    write(str(path), "two")
    assert path.read_text() == "two"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_temporary_lies_in_the_same_folder_and_old_content_stays_till_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        assert os.path.dirname(temporary) == str(tmp_path) and temporary != str(path)
        with replacing(path) as other:
            assert other != temporary
            open(other, "w").close()
        path.write_text("old again")
        open(temporary, "w").close()
    assert path.read_text() == ""


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write(tmp_path / "a", "x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_symbolic_link_is_followed(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "real")
    write(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "deep" / "real").read_text() == "x"


def test_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("a", "x")
    assert (tmp_path / "a").read_text() == "x"


@pytest.mark.parametrize("error", [ValueError("other"), SppError("ours"), KeyboardInterrupt()])
def test_failure_of_the_block_changes_nothing(tmp_path, error):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(type(error)) as excinfo:
        with replacing(path) as temporary:
            with open(temporary, "w") as file:
                file.write("half")
            raise error
    assert excinfo.value is error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("number, reason", [
    (errno.ENOSPC, "the disk is full; free some space and try again"),
    (errno.EDQUOT, "the disk is full; free some space and try again"),
    (errno.EIO, "Input/output error; check that the folder may be written to"),
])
@pytest.mark.parametrize("kind", [SppError, ProtoError])
def test_system_errors(tmp_path, monkeypatch, number, reason, kind):
    path = tmp_path / "a"
    path.write_text("old")

    def fail(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SppError) as excinfo:
        write(path, "new", error=kind)
    assert type(excinfo.value) is kind
    assert str(excinfo.value) == f"{path}: cannot be written: {reason}"
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_system_error_about_another_file_names_it(tmp_path):
    with pytest.raises(SppError) as excinfo:
        with replacing(tmp_path / "a"):
            open(tmp_path / "no")
    assert str(excinfo.value) == (f"{tmp_path / 'a'}: cannot be written: No such file or directory "
                                  f"({tmp_path / 'no'}); check that the folder may be written to")


@pytest.mark.parametrize("name, reason", [
    ("no/a", "there is no folder {folder}/no; make it first"),
    (".", "it is a folder or a device; give the name of a file"),
    ("/dev/null", "it is a folder or a device; give the name of a file"),
])
def test_places_that_cannot_hold_a_file(tmp_path, name, reason):
    path = tmp_path / name
    with pytest.raises(SppError) as excinfo:
        with replacing(path):
            pytest.fail("the block ran")
    assert str(excinfo.value) == f"{path}: cannot be written: {reason.format(folder=tmp_path)}"
