"""LMDB folders of records in the order of their keys: reading by index, and atomic writing."""
import itertools
import os
import shutil
import threading
import uuid
import weakref
from types import TracebackType
from typing import Any

import lmdb

from spp.errors import DataError

BATCH_RECORDS = 1000            # records per transaction, as in Caffe's convert_imageset
BATCH_BYTES = 64 << 20          # at most in the memory of a transaction
FIRST_MAP_SIZE = 1 << 30        # bytes; doubled when it is full
LONGEST_KEY = 511
LEAST_PAGE = 4096               # bytes; the size of LMDB's pages depends on the machine that wrote them
BUILD = "build it with tools/convert_imageset ROOT_FOLDER LISTFILE {}"

# LMDB allows one environment per database in a process, so all readers of a file share it:
# (device, inode) -> [environment, number of readers]
_environments: dict[tuple[int, int], list[Any]] = {}
_lock = threading.Lock()


class Database:
    """A read-only LMDB: `len()` records in the order of their keys. Several threads may read it.

    No lock file is needed, so the folder may be read-only. Raises DataError, with a remedy, if the database is
    missing, of another kind, empty, truncated or damaged.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        file = os.path.join(path, "data.mdb")
        _check_folder(path, file)
        identity, self._environment = _acquire(path, file)
        self._release = weakref.finalize(self, _release, identity)
        self._count: int = self._environment.stat()["entries"]
        if self._count == 0:
            raise DataError(f"LMDB '{path}' holds no records; {BUILD.format(path)}")
        self._keys: list[bytes] = []
        self._keys_lock = threading.Lock()
        try:
            self._walk: Any = self._environment.begin().cursor().iternext(keys=True, values=False)
        except lmdb.Error as error:
            raise self._damaged(error) from error

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> bytes:
        """The key of record `index`; keys are read up to it only, so that a large database opens at once."""
        if len(self._keys) <= index:
            with self._keys_lock:
                missing = index + BATCH_RECORDS - len(self._keys)
                try:
                    self._keys.extend(itertools.islice(self._walk, max(missing, 0)))
                except lmdb.Error as error:
                    raise self._damaged(error) from error
            if len(self._keys) <= index:
                raise self._damaged(f"{len(self._keys)} of {self._count} records")
        return self._keys[index]

    def value(self, index: int) -> bytes:
        """The value of record `index`."""
        key = self.key(index)
        try:
            with self._environment.begin() as transaction:
                return transaction.get(key)
        except lmdb.Error as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        """Release the file. May be called twice; no thread may be reading."""
        self._walk = None
        self._release()

    def _damaged(self, what: object) -> DataError:
        return DataError(f"LMDB '{self.path}' is damaged ({what}); copy it again or {BUILD.format(self.path)}")


class DatabaseWriter:
    """Builds an LMDB beside `path` and renames it when the `with` block ends.

    If the block raises, nothing is left. `folder` is the temporary folder: other files in it become part of the
    database's folder. Raises DataError if `path` exists already or cannot be created.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.normpath(path)
        if os.path.lexists(self.path):
            raise DataError(f"'{path}' exists already; remove it, or give the database another name")
        parent = os.path.dirname(self.path) or "."
        self.folder = f"{self.path}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            os.makedirs(self.folder)
        except OSError as error:
            raise DataError(f"'{path}' cannot be created: {error.strerror}; '{parent}' must be a folder "
                            "that can be written to") from error
        self.records = 0
        self._batch: list[tuple[bytes, bytes]] = []
        self._batch_bytes = 0
        self._map_size = FIRST_MAP_SIZE
        # no other process uses this folder, so no locks; it is incomplete until the end, so one sync then
        self._environment = lmdb.open(self.folder, self._map_size, mode=0o644, lock=False, sync=False)

    def put(self, key: bytes, value: bytes) -> None:
        """Add a record. Raises DataError for a key that exists or has not 1 to 511 bytes, or a full disk."""
        if not 1 <= len(key) <= LONGEST_KEY:
            raise DataError(f"LMDB '{self.path}': the key {_text(key)} has {len(key)} bytes, and LMDB takes "
                            f"1 to {LONGEST_KEY}; give the images shorter paths")
        self._batch.append((key, value))
        self._batch_bytes += len(value)
        if len(self._batch) >= BATCH_RECORDS or self._batch_bytes >= BATCH_BYTES:
            self._commit()

    def __enter__(self) -> "DatabaseWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._environment.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _finish(self) -> None:
        self._commit()
        try:
            self._environment.sync(True)
            self._environment.close()
            if os.path.lexists(self.path):
                raise DataError(f"'{self.path}' was created by another program in the meantime; nothing was written")
            os.rename(self.folder, self.path)
        except (OSError, lmdb.Error) as error:
            raise DataError(f"LMDB '{self.path}' cannot be written: {error}") from error

    def _commit(self) -> None:
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in self._batch:
                        if not transaction.put(key, value, overwrite=False):
                            raise DataError(f"LMDB '{self.path}': two records have the key {_text(key)}; "
                                            "keys must differ")
                break
            except lmdb.MapFullError:
                self._map_size *= 2
                self._environment.set_mapsize(self._map_size)
            except lmdb.Error as error:
                raise DataError(f"LMDB '{self.path}' cannot be written: {error}") from error
        self.records += len(self._batch)
        self._batch.clear()
        self._batch_bytes = 0


def _text(key: bytes) -> str:
    return repr(key.decode(errors="replace"))


def _check_folder(path: str, file: str) -> None:
    if not os.path.exists(path):
        raise DataError(f"LMDB '{path}' not found (looked from {os.getcwd()}); {BUILD.format(path)}")
    if not os.path.isdir(path):
        raise DataError(f"'{path}' is a file, not an LMDB; give the folder that holds data.mdb")
    if not os.path.exists(file):
        if any(name == "CURRENT" or name.startswith("MANIFEST") or name.endswith(".ldb") for name in os.listdir(path)):
            raise DataError(f"'{path}' is a LevelDB, and only LMDB can be read; build it again from the "
                            "images, under another name, with tools/convert_imageset, which writes LMDB")
        raise DataError(f"'{path}' is not an LMDB: the folder has no data.mdb; {BUILD.format(path)}")


def _acquire(path: str, file: str) -> tuple[tuple[int, int], Any]:
    """The shared environment of a database file; its first user opens it after a check of the file's size."""
    remedy = f"copy it again or {BUILD.format(path)}"
    with _lock:
        try:
            status = os.stat(file)
            identity = (status.st_dev, status.st_ino)
            if identity in _environments:
                _environments[identity][1] += 1
                return identity, _environments[identity][0]
            # reading a mapped page after the end of the file would kill the process with SIGBUS
            if status.st_size < 2 * LEAST_PAGE:
                raise DataError(f"LMDB '{path}' is truncated: data.mdb has {status.st_size} bytes; {remedy}")
            environment = lmdb.open(path, readonly=True, lock=False, create=False)
        except PermissionError as error:
            raise DataError(f"LMDB '{path}' cannot be read: {error.strerror}; set its permissions") from error
        except lmdb.Error as error:
            raise DataError(f"LMDB '{path}' cannot be opened ({error}); {remedy}") from error
        expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if status.st_size < expected:
            environment.close()
            raise DataError(f"LMDB '{path}' is truncated: data.mdb has {status.st_size} of {expected} bytes; {remedy}")
        _environments[identity] = [environment, 1]
        return identity, environment


def _release(identity: tuple[int, int]) -> None:
    with _lock:
        entry = _environments[identity]
        entry[1] -= 1
        if entry[1] == 0:
            del _environments[identity]
            entry[0].close()
