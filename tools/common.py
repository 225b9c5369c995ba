"""What the programs share: arguments, and errors as one line."""
import argparse
import sys
from pathlib import Path
from typing import Any, Callable, NoReturn, Sequence

from spp import backend
from spp.errors import SppError
from spp.layers.base import PRECISIONS
from spp.pycaffe import alias

INTERRUPTED = 130      # the shell's exit code for a program that Ctrl-C ended


class Parser(argparse.ArgumentParser):
    """A parser that shows examples as written, and answers a mistake with one line and exit code 1."""

    def __init__(self, program: str, description: str) -> None:
        super().__init__(program, description=description,
                         formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(1)

    def add_precision(self) -> None:
        """How exactly a net computes."""
        self.add_argument("--precision", default="fp32", choices=PRECISIONS,
                          help="what convolution and inner product multiply (default: fp32; others on a GPU); "
                               "parameters and sums are float32 in all")

    def add_net_options(self) -> None:
        """Where a net runs, and which of its layers."""
        self.add_argument("--device", default="auto", metavar="D",
                          help="auto (default: a GPU where one works, else the CPU), cpu, cuda or cuda:INDEX")
        self.add_threads_option()
        self.add_argument("--level", type=int, metavar="L",
                          help="level of the NetState, which the layers' include and exclude rules ask for")
        self.add_argument("--stage", type=names, default=[], metavar="S,...",
                          help="stages of the NetState, likewise")

    def add_threads_option(self) -> None:
        """How many threads compute."""
        self.add_argument("--threads", action=_SetThreads, type=positive, metavar="N",
                          help="threads that compute on the CPU (default: OMP_NUM_THREADS, else one a core); "
                               "those that read data are apart: SPP_DATA_WORKERS")


class _SetThreads(argparse.Action):
    """Sets the number of threads where it is read: before any net is built."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        setattr(namespace, self.dest, values)
        try:
            backend.set_threads(values)
        except SppError as error:
            raise argparse.ArgumentError(self, str(error)) from error


def names(text: str) -> list[str]:
    """An argument that is a list with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def positive(text: str) -> int:
    """An argument that is a whole number from 1 up."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return number


def prototxt_folder() -> Path:
    """The folder of the prototxt files of spp: beside tools/ in a clone, inside it if installed."""
    here = Path(__file__).resolve().parent
    inside = here / "prototxt"
    return inside if inside.is_dir() else here.parent / "prototxt"


def existing(path: str) -> str:
    """The path of a prototxt if it exists; else raises SppError, which names spp's own file of that name."""
    if Path(path).is_file():
        return path
    own = prototxt_folder() / Path(path).name
    hint = f"spp's own is {own}" if own.is_file() else "check the path"
    raise SppError(f"File not found: {path} (looked from {Path.cwd()}); {hint}")


def rewrite(program: str, description: str, what: str, read: Callable[[str], Any], write: Callable[[Any, str], None],
            argv: Sequence[str] | None) -> int:
    """A whole program `IN OUT` that writes what it has read; returns its exit code."""
    parser = Parser(program, description)
    parser.add_argument("input", metavar="IN", help=f"{what}, of any age")
    parser.add_argument("output", metavar="OUT", help="the file to write; may be IN itself")
    args = parser.parse_args(argv)

    def work() -> int:
        write(read(args.input), args.output)
        print(f"Wrote upgraded {what} to {args.output}")
        return 0

    return guarded(work)


def guarded(work: Callable[[], int]) -> int:
    """The exit code of `work`: a user's mistake is one line on stderr and 1, Ctrl-C is 130.

    `import caffe` means spp.pycaffe meanwhile, for the Python layers of the user's nets.
    """
    alias.install()
    if sys.stderr.isatty():
        backend.on_compilation(lambda: print("compiling kernels that this machine uses for the first time; later "
                                             "runs start at once", file=sys.stderr))
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
