"""LMDB folders: what is written is what is read, whole or not at all; every broken one has its message."""
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import pytest

import golden
from spp.data import database
from spp.data.database import Database, DatabaseWriter
from spp.errors import DataError

RAW = golden.path("data", "raw_lmdb")


def build(path, records):
    with DatabaseWriter(str(path)) as writer:
        for key, value in records:
            writer.put(key, value)
    return str(path)


def is_open(path):
    status = os.stat(os.path.join(path, "data.mdb"))
    return (status.st_dev, status.st_ino) in database._environments


def numbered(count, size=10):
    return [(b"%08d" % i, b"%d" % i * size) for i in range(count)]


def test_records_come_in_the_order_of_their_keys(tmp_path):
    path = build(tmp_path / "db", [(b"b", b"2"), (b"c", b"3"), (b"a", b"1")])
    reader = Database(path)
    assert len(reader) == 3
    assert [(reader.key(i), reader.value(i)) for i in (2, 0, 1)] == [(b"c", b"3"), (b"a", b"1"), (b"b", b"2")]
    reader.close()
    reader.close()


@pytest.mark.parametrize("records, size", [(7, 64 << 20), (1000, 45)])
def test_many_transactions_make_one_database(tmp_path, monkeypatch, records, size):
    monkeypatch.setattr(database, "BATCH_RECORDS", records)
    monkeypatch.setattr(database, "BATCH_BYTES", size)
    reader = Database(build(tmp_path / "db", numbered(50)))
    assert [reader.value(i) for i in range(50)] == [value for _, value in numbered(50)]
    reader.close()


def test_the_map_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "FIRST_MAP_SIZE", 1 << 16)
    path = build(tmp_path / "db", numbered(100, 10_000))
    assert os.path.getsize(os.path.join(path, "data.mdb")) > 1 << 20
    reader = Database(path)
    assert reader.value(99) == b"99" * 10_000 and len(reader) == 100
    reader.close()


def test_the_keys_of_a_large_database_are_collected_as_far_as_needed(tmp_path):
    reader = Database(build(tmp_path / "db", numbered(5000, 1)))
    assert reader.key(0) == b"00000000" and len(reader._keys) == 1000
    assert reader.key(3210) == b"00003210" and len(reader._keys) == 4210
    assert reader.value(4999) == b"4999" and len(reader._keys) == 5000
    reader.close()


def test_threads_read_at_once(tmp_path):
    reader = Database(build(tmp_path / "db", numbered(3000)))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(reader.value, range(3000))) == [value for _, value in numbered(3000)]
    reader.close()


def test_reading_leaves_no_file_and_needs_no_permission_to_write(tmp_path):
    path = str(tmp_path / "db")
    shutil.copytree(RAW, path)
    os.chmod(path, 0o555)
    reader = Database(path)
    assert len(reader) == 12 and reader.key(11) == b"00000011_11.png"
    reader.close()
    assert os.listdir(path) == ["data.mdb"]


def test_several_readers_share_one_database(tmp_path):
    path = build(tmp_path / "db", numbered(3))
    one, two = Database(path), Database(str(tmp_path / "." / "db"))
    one.close()
    assert two.value(1) == b"1" * 10
    shutil.rmtree(path)
    build(path, [(b"new", b"value")])
    three = Database(path)
    assert three.key(0) == b"new" and two.key(2) == b"00000002"
    assert is_open(path)
    two.close()
    three.close()
    assert not is_open(path)


def test_a_reader_that_is_forgotten_gives_the_file_back(tmp_path):
    reader = Database(build(tmp_path / "db", numbered(3)))
    assert is_open(tmp_path / "db")
    del reader
    assert not is_open(tmp_path / "db")


def test_what_was_put_beside_comes_along(tmp_path):
    with DatabaseWriter(str(tmp_path / "db") + "/") as writer:
        writer.put(b"k", b"v")
        assert os.path.basename(writer.folder).startswith("db.") and writer.folder.endswith(".tmp")
        with open(os.path.join(writer.folder, "labels.txt"), "w") as file:
            file.write("cat\n")
    assert os.listdir(tmp_path) == ["db"]
    assert sorted(os.listdir(tmp_path / "db")) == ["data.mdb", "labels.txt"]


def test_nothing_is_left_of_a_database_that_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BATCH_RECORDS", 2)
    with pytest.raises(KeyboardInterrupt):
        with DatabaseWriter(str(tmp_path / "db")) as writer:
            for key, value in numbered(5):
                writer.put(key, value)
            raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("key, message", [
    (b"", "the key '' has 0 bytes, and LMDB takes 1 to 511"),
    (b"x" * 512, "has 512 bytes, and LMDB takes 1 to 511; give the images shorter paths"),
    (b"00000001", "two records have the key '00000001'; keys must differ")])
def test_keys_that_do_not_do(tmp_path, key, message):
    with pytest.raises(DataError, match=message):
        build(tmp_path / "db", [*numbered(3), (key, b"value")])
    assert os.listdir(tmp_path) == []


def test_the_longest_key(tmp_path):
    reader = Database(build(tmp_path / "db", [(b"x" * 511, b"value")]))
    assert reader.value(0) == b"value"
    reader.close()


def test_an_existing_target_is_not_touched(tmp_path):
    path = build(tmp_path / "db", numbered(3))
    with pytest.raises(DataError, match="'.*db' exists already; remove it, or give the database another"):
        DatabaseWriter(path)
    with pytest.raises(DataError, match="'.*late' was created by another program in the meantime; nothing"):
        with DatabaseWriter(str(tmp_path / "late")) as writer:
            writer.put(b"k", b"v")
            (tmp_path / "late").touch()
    assert sorted(os.listdir(tmp_path)) == ["db", "late"]


def test_the_folders_above_are_made(tmp_path):
    with DatabaseWriter(str(tmp_path / "new" / "data" / "db")) as writer:
        writer.put(b"k", b"v")
    assert os.listdir(tmp_path / "new" / "data") == ["db"]


def test_a_target_in_a_file(tmp_path):
    (tmp_path / "no").touch()
    with pytest.raises(DataError, match="cannot be created: Not a directory; '.*/no' must be a folder that can be"):
        DatabaseWriter(str(tmp_path / "no" / "db"))


DATA = Path(RAW, "data.mdb").read_bytes()
BUILD = r"build it with tools/convert_imageset ROOT_FOLDER LISTFILE .*db"


@pytest.mark.parametrize("files, message", [
    ({}, f"'.*db' is not an LMDB: the folder has no data.mdb; {BUILD}"),
    ({"CURRENT": b""}, "'.*db' is a LevelDB, and only LMDB can be read; build it again from the images, "
                       "under another name, with tools/convert_imageset"),
    ({"MANIFEST-000002": b""}, "is a LevelDB"),
    ({"000005.ldb": b""}, "is a LevelDB"),
    ({"data.mdb": b""}, f"LMDB '.*db' is truncated: data.mdb has 0 bytes; copy it again or {BUILD}"),
    ({"data.mdb": DATA[:5000]}, "truncated: data.mdb has 5000 bytes"),
    ({"data.mdb": DATA[:9000]}, f"truncated: data.mdb has 9000 of 61440 bytes; copy it again or {BUILD}"),
    ({"data.mdb": DATA[:-1]}, "truncated: data.mdb has 61439 of 61440 bytes"),
    ({"data.mdb": b"\0" * 61440}, f"cannot be opened .*MDB_INVALID.*; copy it again or {BUILD}"),
    ({"data.mdb": DATA[:8192] + b"\xff" * 4096 + DATA[12288:]}, f"is damaged .*; copy it again or {BUILD}")])
def test_folders_that_are_no_database(tmp_path, files, message):
    path = tmp_path / "db"
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        reader = Database(str(path))
        for i in range(len(reader)):
            reader.value(i)
    assert "\n" not in str(error.value)
    del error
    assert "data.mdb" not in files or not is_open(path)


def test_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = re.escape(str(tmp_path))
    with pytest.raises(DataError, match=rf"LMDB 'db' not found \(looked from {place}\); {BUILD}"):
        Database("db")
    (tmp_path / "db").touch()
    with pytest.raises(DataError, match="'db' is a file, not an LMDB; give the folder that holds data.mdb"):
        Database("db")


def test_a_database_without_records(tmp_path):
    with pytest.raises(DataError, match=f"LMDB '.*db' holds no records; {BUILD}"):
        Database(build(tmp_path / "db", []))


def test_a_database_that_somebody_else_has_open_in_this_process(tmp_path):
    path = build(tmp_path / "db", numbered(3))
    environment = lmdb.open(path, readonly=True, lock=False)
    try:
        Database(path).close()      # older versions of lmdb allow it
    except DataError as error:
        assert "already open in this process" in str(error)
    environment.close()
