"""Shared by the programs: arguments, and errors as one line."""
import argparse
import sys
from pathlib import Path
from typing import Any, Callable, NoReturn, Sequence

from spp import backend
from spp.errors import SppError
from spp.layers.base import PRECISIONS
from spp.pycaffe import alias

INTERRUPTED = 130      # the shell's exit code after Ctrl-C
EXIT_CODES = f"Exit codes: 0 done, 1 an error (one line on stderr says which), {INTERRUPTED} stopped by Ctrl-C."


class Parser(argparse.ArgumentParser):
    """A parser that keeps the line breaks of examples, and reports a wrong argument in one line with exit code 1."""

    def __init__(self, program: str, description: str) -> None:
        super().__init__(program, description=f"{description}\n\n{EXIT_CODES}",
                         formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(1)

    def add_precision(self) -> None:
        """Add the option for the precision of a net."""
        self.add_argument("--precision", default="fp32", choices=PRECISIONS,
                          help="number format of the products in convolutions and inner products (default: fp32; the "
                               "others need a GPU); parameters and sums are always float32")

    def add_net_options(self) -> None:
        """Add the options for a net's device and for the level and stages of its NetState."""
        self.add_argument("--device", default="auto", metavar="D",
                          help="auto (default: a GPU if one works, else the CPU), cpu, cuda or cuda:INDEX")
        self.add_threads_option()
        self.add_argument("--level", type=int, metavar="L",
                          help="level of the NetState, for the layers' include and exclude rules")
        self.add_argument("--stage", type=names, default=[], metavar="S,...",
                          help="stages of the NetState, for the same rules")

    def add_threads_option(self) -> None:
        """Add the option for the number of compute threads."""
        self.add_argument("--threads", action=_SetThreads, type=positive, metavar="N",
                          help="compute threads on the CPU (default: OMP_NUM_THREADS, else one per core); the number "
                               "of threads that read data is SPP_DATA_WORKERS")


class _SetThreads(argparse.Action):
    """Sets the number of threads as soon as the option is parsed, before any net is built."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        setattr(namespace, self.dest, values)
        try:
            backend.set_threads(values)
        except SppError as error:
            raise argparse.ArgumentError(self, str(error)) from error


def names(text: str) -> list[str]:
    """Parse a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return number


def prototxt_folder() -> Path:
    """The folder of spp's prototxt files: beside tools/ in a clone, inside spp_tools if installed."""
    here = Path(__file__).resolve().parent
    inside = here / "prototxt"
    return inside if inside.is_dir() else here.parent / "prototxt"


def existing(path: str) -> str:
    """The path of a prototxt; raises SppError if it does not exist, with a hint to spp's own file of that name."""
    if Path(path).is_file():
        return path
    own = prototxt_folder() / Path(path).name
    hint = f"spp's own is {own}" if own.is_file() else "check the path"
    raise SppError(f"File not found: {path} (looked from {Path.cwd()}); {hint}")


def rewrite(program: str, description: str, what: str, read: Callable[[str], Any], write: Callable[[Any, str], None],
            argv: Sequence[str] | None) -> int:
    """The program of the upgrade tools, with arguments IN and OUT; returns its exit code."""
    parser = Parser(program, description)
    parser.add_argument("input", metavar="IN", help=f"{what} of any dialect")
    parser.add_argument("output", metavar="OUT", help="the file to write; may be IN")
    args = parser.parse_args(argv)

    def work() -> int:
        write(read(args.input), args.output)
        print(f"Wrote upgraded {what} to {args.output}")
        return 0

    return guarded(work)


def guarded(work: Callable[[], int]) -> int:
    """Call `work` and return its exit code: 1, with one line on stderr, after an error, 130 after Ctrl-C.

    Python layers in the user's nets may import caffe: it means spp.pycaffe.
    """
    alias.install()
    if sys.stderr.isatty():
        backend.on_compilation(lambda: print("compiling kernels for their first use on this machine; later runs "
                                             "start at once", file=sys.stderr))
    try:
        return work()
    except SppError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"error: {what}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 1
