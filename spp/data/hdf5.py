"""Batches of rows from HDF5 files, read ahead; and a writer that appends batches to an HDF5 file."""
import functools
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import h5py
import numpy as np

from spp.atomic import replacing
from spp.data.stream import Batch, Stream
from spp.data.transform import ORDER, ROWS, generator
from spp.errors import DataError

PREFETCH = 2            # batches; on one thread, since the HDF5 library runs one call at a time


class HDF5Batches(Stream):
    """Batches of rows of the datasets `names` in the files that a text file lists, epoch after epoch, read ahead.

    `next` returns one array of `dtype` per name, batch_size x the dataset's other axes; a batch may have rows of
    several files. Only a batch's rows are read, so files may have any size. `shuffle` permutes the files, and the
    rows in each, anew for every epoch.

    Raises DataError if a file or dataset is missing or of the wrong kind, or the datasets do not fit together.
    """

    def __init__(self, source: str, names: Sequence[str], batch_size: int, shuffle: bool = False,
                 dtype: Any = np.float32, seed: int = 0) -> None:
        super().__init__(batch_size, seed, PREFETCH, threads=1)
        self._names = list(names)
        self._shuffle = shuffle
        self._dtype = dtype
        self._paths = _listed(source)
        self._counts = np.zeros(len(self._paths), np.int64)
        self._tails: list[tuple[int, ...]] = []
        for i, path in enumerate(self._paths):
            self._counts[i] = self._check_file(path, source)
        if not self._counts.any():
            raise DataError(f"the HDF5 files in '{source}' hold no rows")
        self._order = functools.lru_cache(2)(self._draw_order)
        self._rows = functools.lru_cache(2)(self._draw_rows)
        self._open: tuple[str, Any] = "", None      # the file that was read last

    def __len__(self) -> int:
        return int(self._counts.sum())

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of a batch's arrays."""
        return [(self._batch_size, *tail) for tail in self._tails]

    def close(self) -> None:
        """End the thread and close the file. May be called twice."""
        super().close()
        if self._open[1]:
            self._open[1].close()

    def _check_file(self, path: str, source: str) -> int:
        """Compare a file's datasets with each other and with earlier files; returns the number of its rows."""
        with _opened(path, f"HDF5 file '{path}', listed in '{source}',") as file:
            datasets = [_dataset(file, path, name) for name in self._names]
            rows = {name: dataset.shape[0] for name, dataset in zip(self._names, datasets)}
            if len(set(rows.values())) > 1:
                counts = ", ".join(f"{name!r} {count}" for name, count in rows.items())
                raise DataError(f"HDF5 file '{path}': its datasets differ in the number of rows (axis 0): {counts}")
            tails = [dataset.shape[1:] for dataset in datasets]
            if not self._tails:
                self._tails = tails
            for name, tail, first in zip(self._names, tails, self._tails):
                if tail != first:
                    raise DataError(f"HDF5 file '{path}': a row of dataset {name!r} has the shape {tail}, but in "
                                    f"'{self._paths[0]}' {first}; all rows must have the same shape")
        return rows[self._names[0]]

    def _draw_order(self, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the files in an epoch, and the numbers of rows up to the end of each."""
        count = len(self._paths)
        order = generator(seed, ORDER, epoch).permutation(count) if self._shuffle else np.arange(count)
        return order, np.cumsum(self._counts[order])

    def _draw_rows(self, seed: int, epoch: int, file: int) -> np.ndarray:
        return generator(seed, ROWS, epoch * len(self._paths) + file).permutation(self._counts[file])

    def _pieces(self, batch: int) -> Iterator[tuple[slice, int, slice]]:
        """The pieces of files that make up a batch: the place in the batch, the file, and its rows."""
        done = 0
        while done < self._batch_size:
            epoch, place = divmod(batch * self._batch_size + done, len(self))
            order, ends = self._order(self.seed, epoch)
            k = int(np.searchsorted(ends, place, "right"))
            file = int(order[k])
            count = min(self._batch_size - done, int(ends[k]) - place)
            first = place - int(ends[k] - self._counts[file])
            rows: Any = slice(first, first + count)
            yield slice(done, done + count), file, (
                self._rows(self.seed, epoch, file)[rows] if self._shuffle else rows)
            done += count

    def _make(self, batch: int) -> Batch | None:
        arrays = tuple(np.empty(shape, self._dtype) for shape in self.shapes)
        for part, index, rows in self._pieces(batch):
            if self._unwanted:
                return None
            path = self._paths[index]
            try:
                for array, name in zip(arrays, self._names):
                    _copy(self._file(path)[name], rows, array[part])
            except (OSError, KeyError, ValueError) as error:
                raise DataError(f"HDF5 file '{path}' is damaged or has changed: {error}") from error
        return Batch(arrays)

    def _file(self, path: str) -> Any:
        if self._open[0] != path:
            if self._open[1]:
                self._open[1].close()
            self._open = path, h5py.File(path, "r")
        return self._open[1]


def _listed(source: str) -> list[str]:
    try:
        if h5py.is_hdf5(source):
            raise DataError(f"source '{source}' is an HDF5 file itself; give a text file that holds its path")
        with open(source, encoding="utf-8", errors="surrogateescape") as file:
            paths = file.read().split()
    except OSError as error:
        raise DataError(f"source '{source}' cannot be read: {error.strerror} (looked from {os.getcwd()}); give a "
                        "text file that lists HDF5 files") from error
    if not paths:
        raise DataError(f"source '{source}' lists no files; write the paths of HDF5 files into it")
    return paths


def _opened(path: str, words: str) -> Any:
    if not os.path.exists(path):
        raise DataError(f"{words} not found (looked from {os.getcwd()}); correct the path")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{words} is no HDF5 file, or damaged: {error}") from error


def _dataset(file: Any, path: str, name: str) -> Any:
    """The dataset of a top's name, checked."""
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        known = ", ".join(repr(key) for key in file if isinstance(file[key], h5py.Dataset)) or "none"
        raise DataError(f"HDF5 file '{path}' has no dataset {name!r}, the name of a top; its datasets are {known}")
    if dataset.dtype.kind not in "iuf":
        raise DataError(f"HDF5 file '{path}': dataset {name!r} holds {dataset.dtype}; expected integers or floats")
    if not dataset.shape:
        raise DataError(f"HDF5 file '{path}': dataset {name!r} is a single value; expected rows along axis 0")
    return dataset


def _copy(dataset: Any, rows: Any, out: np.ndarray) -> None:
    if isinstance(rows, slice):
        out[...] = dataset[rows]
    else:
        for i, row in enumerate(rows):      # faster than h5py's selection of scattered rows
            out[i] = dataset[row]


class HDF5Writer:
    """An HDF5 file to which arrays are appended, batch by batch, along axis 0 of one dataset per name.

    The file is written beside `path` (`path`.NUMBERS.tmp) and flushed after every batch, so that a killed run
    leaves a readable file. It is renamed to `path`, replacing an older file, by `close`, when the writer is
    garbage-collected, or when the program ends. Without a batch no file is written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.rows = 0
        self._file: Any = None
        self._stack = ExitStack()
        self._finish = weakref.finalize(self, self._stack.close)

    def append(self, arrays: dict[str, np.ndarray]) -> None:
        """Append to the datasets; the arrays' shapes may differ only in axis 0 between calls. Raises DataError."""
        if not self._finish.alive:
            raise DataError(f"HDF5 file '{self.path}' is finished; build the net again to write another")
        if self._file is None:
            temporary = self._stack.enter_context(replacing(self.path, DataError))
            self._file = self._stack.enter_context(h5py.File(temporary, "w"))
        for name, array in arrays.items():
            if name not in self._file:
                self._file.create_dataset(name, (0, *array.shape[1:]), array.dtype, maxshape=(None, *array.shape[1:]))
            if self._file[name].shape[1:] != array.shape[1:]:
                raise DataError(f"HDF5 file '{self.path}': a row of {name!r} has the shape {array.shape[1:]}, but "
                                f"before it was {self._file[name].shape[1:]}; all rows must have the same shape")
        try:
            for name, array in arrays.items():
                self._file[name].resize(self.rows + len(array), 0)
                self._file[name][self.rows:] = array
            self._file.flush()
        except OSError as error:
            raise DataError(f"HDF5 file '{self.path}' cannot be written: {error}") from error
        self.rows += len(next(iter(arrays.values())))

    def close(self) -> None:
        """Finish the file and rename it to `path`. May be called twice. Raises DataError."""
        self._finish()
