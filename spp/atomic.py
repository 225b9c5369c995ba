"""Files that are written completely or not at all."""
import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager

from spp.errors import SppError

_number = itertools.count()


@contextmanager
def replacing(path: str | os.PathLike[str], error: type[SppError] = SppError) -> Iterator[str]:
    """Yield a temporary path in the folder of `path`; the file written there replaces `path` when the block ends.

    The file is fsynced, then renamed. If the block raises, `path` is unchanged and the temporary file is removed. A
    symbolic link is followed: the file that it points to is replaced.

    Raises `error`, an SppError, for every OSError, and before the block if there is no folder or `path` is no file.
    """
    name = os.fspath(path)
    target = os.path.realpath(name)
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise error(f"{name}: cannot be written: there is no folder {folder}; make it first")
    if os.path.exists(target) and not os.path.isfile(target):
        raise error(f"{name}: cannot be written: it is a folder or a device; give the name of a file")
    temporary = f"{target}.{os.getpid()}-{next(_number)}.tmp"
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as problem:
        raise error(f"{name}: cannot be written: {_reason(problem, temporary)}") from problem
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _reason(problem: OSError, temporary: str) -> str:
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and try again"
    place = "" if problem.filename in (None, temporary) else f" ({problem.filename})"
    return f"{problem.strerror or problem}{place}; check that the folder may be written to"
