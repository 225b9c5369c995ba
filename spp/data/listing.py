"""Which images there are and what their classes are: list files, and folders a class."""
import os

from spp.errors import DataError

Entry = tuple[str, int]         # a path, and a class


def read_list(path: str) -> list[Entry]:
    """The `path label` lines of a list file, split at the last space, as Caffe does, without empty lines.

    Raises DataError, with the line's number, for a line of another form, and if there is none.
    """
    entries = []
    try:
        # a path may have any bytes; they come back from os.fsencode
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

    The folders' names, sorted, are classes 0, 1, ...; the files may lie in deeper folders. Names that begin
    with a dot are left out. Raises DataError if there is no class folder or a class is empty.
    """
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != ".")
    if not names:
        raise DataError(f"'{root}' has no folders, one a class; make them, or give a list file of `path "
                        "label` lines after it")
    entries: list[Entry] = []
    for label, name in enumerate(names):
        files = sorted(_files(root, name))
        if not files:
            raise DataError(f"class folder '{os.path.join(root, name)}' is empty; put images there, or "
                            "remove it")
        entries += [(file, label) for file in files]
    return entries, names


def _files(root: str, folder: str) -> list[str]:
    found = []
    for entry in os.scandir(os.path.join(root, folder)):
        path = f"{folder}/{entry.name}"
        if entry.name[0] != ".":
            found += _files(root, path) if entry.is_dir() else [path]
    return found
