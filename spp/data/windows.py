"""R-CNN's window files: images, and their windows with class and overlap."""
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

import numpy as np

from spp.data.listing import as_prefix
from spp.errors import DataError

FORM = "class overlap x1 y1 x2 y2"
LARGEST = 1 << 24           # coordinates and classes are exact in float32 below this


@dataclass
class WindowImage:
    """An image of a window file: its path, its size, and the line of its first window."""

    path: str
    height: int
    width: int
    first_line: int
    first_window: int


@dataclass
class WindowFile:
    """The contents of a window file. Window i of N is `boxes[i]` in image `images[image[i]]`.

    `label` (int32) is the class, `overlap` (float32) the overlap with an object of that class, `boxes`
    (int32, N x 4) has the boxes in the convention of `spp.boxes`. All images have `channels`.
    """

    source: str
    channels: int
    images: list[WindowImage]
    image: np.ndarray
    label: np.ndarray
    overlap: np.ndarray
    boxes: np.ndarray

    def place(self, window: int) -> str:
        """`FILE:LINE` of a window."""
        image = self.images[self.image[window]]
        return f"{self.source}:{image.first_line + window - image.first_window}"


def read_windows(source: str, root_folder: str = "") -> WindowFile:
    """Read a window file: for each image `# index`, its path, channels, height, width, number of windows,
    and one line `class overlap x1 y1 x2 y2` per window; the indices are 0, 1, 2 ...

    `root_folder` is a prefix of the paths. Raises DataError, with the line, for another format or order, an empty
    window, a window outside its image, or an overlap outside 0 to 1.
    """
    root = as_prefix(root_folder)
    images: list[WindowImage] = []
    channels: list[int] = []
    tables: list[np.ndarray] = []
    count = 0
    try:
        with open(source, encoding="utf-8", errors="surrogateescape") as file:
            lines = _Lines(source, file)
            while (line := lines.next()) is not None:
                if line.split() != ["#", str(len(images))]:
                    raise lines.wrong(f"`# {len(images)}` (the images are numbered 0, 1, 2 ... in order)", line)
                path = lines.expect("the path of an image").strip()
                depth, height, width, more = lines.numbers(["channels", "height", "width", "number of windows"])
                if depth not in (1, 3) or channels and depth != channels[0]:
                    raise lines.wrong("1 or 3 channels, the same for all images", str(depth))
                channels.append(depth)
                images.append(WindowImage(root + path, height, width, lines.number + 1, count))
                tables.append(lines.windows(more, height, width))
                count += more
    except OSError as error:
        raise DataError(f"window file '{source}' cannot be read: {error.strerror}; check the path") from error
    if not images:
        raise DataError(f"window file '{source}' is empty; give one in R-CNN's format, `# 0` and so on")
    table = np.concatenate(tables)
    return WindowFile(source, channels[0], images, np.repeat(np.arange(len(images)), [len(t) for t in tables]),
                      table[:, 0].astype(np.int32), table[:, 1].astype(np.float32), table[:, 2:].astype(np.int32))


class _Lines:
    """The lines of a window file, read with checks of their contents."""

    def __init__(self, source: str, file: TextIO) -> None:
        self.source = source
        self.number = 0
        self._file: Iterator[str] = iter(file)

    def next(self) -> str | None:
        """The next line that is not empty; None at the end."""
        for line in self._file:
            self.number += 1
            if line.strip():
                return line
        return None

    def expect(self, content: str) -> str:
        line = self.next()
        if line is None:
            raise self.wrong(content, None)
        return line

    def wrong(self, expected: str, found: str | None, line: int | None = None) -> DataError:
        """The error for a line; found is None at the end of the file."""
        words = "the end of the file" if found is None else repr(found.strip())
        return DataError(f"{self.source}:{line or self.number}: expected {expected}, found {words}")

    def numbers(self, names: list[str]) -> list[int]:
        """Whole numbers of 0 or more, on one line or on several."""
        numbers: list[int] = []
        while len(numbers) < len(names):
            line = self.expect(names[len(numbers)])
            for word in line.split():
                if not word.isascii() or not word.isdigit() or len(numbers) == len(names):
                    raise self.wrong(" ".join(names[len(numbers):]) or "a window on the next line", line)
                numbers.append(int(word))
        return numbers

    def windows(self, count: int, height: int, width: int) -> np.ndarray:
        """`count` lines as a count x 6 array of float64, checked."""
        first = self.number + 1
        lines = list(itertools.islice(self._file, count))
        self.number += len(lines)
        if len(lines) < count:
            raise self.wrong(f"{count - len(lines)} more windows `{FORM}`", None)
        rows = [line.split() for line in lines]
        try:
            table = np.array([list(map(float, row)) for row in rows], np.float64).reshape(count, 6)
        except ValueError:
            at = next(i for i, row in enumerate(rows) if not _is_window(row))
            raise self.wrong(f"a window `{FORM}`", lines[at], first + at) from None
        whole = table[:, [0, 2, 3, 4, 5]]
        x1, y1, x2, y2 = table[:, 2:].T
        for good, rule in (
                (((whole == np.floor(whole)) & (np.abs(whole) < LARGEST)).all(1), "whole numbers but for the overlap"),
                (table[:, 0] >= 0, "a class of 0 or more"),
                ((table[:, 1] >= 0) & (table[:, 1] <= 1), "an overlap of 0 to 1"),
                ((x1 <= x2) & (y1 <= y2), "x1 <= x2 and y1 <= y2"),
                ((x1 < width) & (y1 < height) & (x2 >= 0) & (y2 >= 0),
                 f"a window that overlaps its image of {height} x {width} pixels (height x width)")):
            if not good.all():
                at = int(np.argmin(good))
                raise self.wrong(rule, lines[at], first + at)
        return table


def _is_window(row: list[str]) -> bool:
    try:
        return len([float(word) for word in row]) == 6
    except ValueError:
        return False
