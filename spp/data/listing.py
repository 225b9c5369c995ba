"""Lists of images and their classes: list files, and folders with one folder per class."""
import os

import numpy as np

from spp.data import images
from spp.errors import DataError

Entry = tuple[str, int]         # a path, and a class


def read_list(path: str) -> list[Entry]:
    """The `path label` lines of a list file, split at the last space as in Caffe; empty lines are skipped.

    Raises DataError, with the line's number, for a line of another form, and for an empty file.
    """
    entries = []
    try:
        # a path may contain any bytes; os.fsencode restores them
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    entries.append(_entry(line.strip("\r\n\t "), f"{path}:{number}"))
    except OSError as error:
        raise DataError(f"list file '{path}' cannot be read: {error.strerror}; give a text file of `path "
                        "label` lines") from error
    if not entries:
        raise DataError(f"list file '{path}' is empty; give a text file of `path label` lines")
    return entries


def _entry(line: str, place: str) -> Entry:
    name, _, label = line.rpartition(" ")
    try:
        number = int(label)
    except ValueError:
        number = 2 ** 31
    if not name or not -2 ** 31 <= number < 2 ** 31:
        raise DataError(f"{place}: expected `path label`, the label a whole number, found {line!r}")
    return name.rstrip(), number


def list_folders(root: str) -> tuple[list[Entry], list[str]]:
    """The files in a folder of class folders, as (path from `root`, class) sorted, and the class names.

    The folders' names, sorted, are classes 0, 1, ...; files in deeper folders are included. Names that begin
    with a dot are left out. Raises DataError if there is no class folder or a class is empty.
    """
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != ".")
    if not names:
        raise DataError(f"'{root}' has no class folders; create one per class, or give a list file of "
                        "`path label` lines after it")
    entries: list[Entry] = []
    for label, name in enumerate(names):
        files = sorted(_files(root, name))
        if not files:
            raise DataError(f"class folder '{os.path.join(root, name)}' is empty; put images there, or remove it")
        entries += [(file, label) for file in files]
    return entries, names


def _files(root: str, folder: str) -> list[str]:
    paths = []
    for entry in os.scandir(os.path.join(root, folder)):
        path = f"{folder}/{entry.name}"
        if entry.name[0] != ".":
            paths += _files(root, path) if entry.is_dir() else [path]
    return paths


class ListImages:
    """The labelled images of a list file, by index: a source of `batches.Batches` (Caffe: ImageData).

    `root_folder` is a prefix of the paths, with a "/" added if it is a folder; the images are resized to `size`
    (height, width); `color` is the default of `read`. Raises DataError like `read_list`.
    """

    def __init__(self, source: str, root_folder: str = "", size: tuple[int, int] | None = None,
                 color: bool = True) -> None:
        self.source = source
        self.entries = read_list(source)
        self._root = as_prefix(root_folder)
        self._size = size
        self._color = color

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        """Description of image `index` for messages: its line of the list file, and its path."""
        return f"{self.source}:{self._line(index)}: image '{self._root}{self.entries[index][0]}'"

    def read(self, index: int, color: bool | None = None) -> tuple[np.ndarray, int]:
        """Image (H x W x C uint8) and label; raises DataError, without the name, if it cannot be read."""
        path, label = self.entries[index]
        image = images.decode(read_bytes(self._root + path), self._color if color is None else color)
        return images.resize(image, *self._size) if self._size else image, label

    def close(self) -> None:
        """Nothing is open."""

    def _line(self, index: int) -> int:
        """The number of image `index`'s line; reads the list again, since only messages need it."""
        with open(self.source, encoding="utf-8", errors="surrogateescape") as file:
            return [number for number, line in enumerate(file, 1) if line.strip()][index]


def as_prefix(root_folder: str) -> str:
    """A root_folder as a prefix of paths, as in Caffe; a "/" is added if it is a folder."""
    return root_folder + "/" if os.path.isdir(root_folder) and root_folder[-1] != "/" else root_folder


def read_bytes(path: str) -> bytes:
    """The bytes of a listed file; raises DataError, without its name."""
    try:
        with open(os.fsencode(path), "rb") as file:
            return file.read()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror} (looked from {os.getcwd()}); correct the path, or the "
                        "layer's root_folder, which is put before it") from error
