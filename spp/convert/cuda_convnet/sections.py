"""The text of cuda-convnet's files: [name] sections of option=value lines, as Python 2's ConfigParser read them."""
import re

from spp.errors import ConvertError
from spp.proto.files import read_bytes


class Section:
    """A section's options. Names of options are not case sensitive. read: the options that were used."""

    def __init__(self, name: str, path: str, line: int) -> None:
        self.name, self.line, self.where = name, line, f"{path}:{line}"
        self.options: dict[str, tuple[str, str]] = {}       # by lower-case name: value, where
        self.read: set[str] = {"type"}

    def add(self, other: "Section") -> None:
        """Add the options of the same section in another file."""
        for key, (value, where) in other.options.items():
            if key in self.options:
                raise ConvertError(f"{where}: layer {self.name!r}: {key} is in both files")
            self.options[key] = value, where

    def error(self, option: str, message: str) -> ConvertError:
        """An error at an option's line, or at the section's where it lacks the option."""
        where = self.options.get(option.lower(), ("", self.where))[1]
        return ConvertError(f"{where}: layer {self.name!r}: {message}")

    def has(self, option: str) -> bool:
        """Whether an option is set; it counts as used."""
        self.read.add(option.lower())
        return option.lower() in self.options

    def refuse(self, option: str, reason: str) -> None:
        """Raise ConvertError if the option is set, to something other than zeros or false."""
        if any(not re.fullmatch(r"false|0*\.?0*", part.lower()) for part in self.names(option, ["0"])):
            raise self.error(option, f"{option} cannot be converted: {reason}")

    def text(self, option: str, default: str | None = None) -> str:
        """An option's value; raises ConvertError if it is missing and has no default."""
        if self.has(option):
            return self.options[option.lower()][0]
        if default is None:
            raise self.error(option, f"option {option} is missing")
        return default

    def names(self, option: str, default: list[str] | None = None) -> list[str]:
        """A list with commas."""
        if default is not None and not self.has(option):
            return default
        return [part.strip() for part in self.text(option).split(",")]

    def as_number(self, option: str, text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise self.error(option, f"{option}: {text!r} is no number") from None

    def number(self, option: str, default: float | None = None) -> float:
        return self.listed(option, 1, default)[0]

    def whole(self, option: str, default: int | None = None) -> int:
        return self.wholes(option, 1, default)[0]

    def wholes(self, option: str, count: int, default: int | None = None) -> list[int]:
        """As `listed`, of whole numbers."""
        numbers = self.listed(option, count, default)
        if any(number != int(number) for number in numbers):
            raise self.error(option, f"{option} must be whole, found {self.text(option)}")
        return [int(number) for number in numbers]

    def listed(self, option: str, count: int, default: float | None = None) -> list[float]:
        """A number for each of `count` inputs; the option has one number, or one per input."""
        if default is not None and not self.has(option):
            return [default] * count
        return self._of_inputs(option, count, [self.as_number(option, part) for part in self.names(option)])

    def _of_inputs(self, option: str, count: int, numbers: list[float]) -> list[float]:
        if len(numbers) not in (1, count):
            raise self.error(option, f"{option} needs one number, or one for each of {count} inputs; found "
                                     f"{len(numbers)}")
        return numbers * count if len(numbers) == 1 else numbers

    def schedules(self, option: str, count: int) -> list[float]:
        """Learning rates: numbers, or const[base=number]; other schedules depend on the length of the run."""
        parts = []
        for part in self.names(option):
            match = re.fullmatch(r"(\w+)\s*\[\s*(.*)\]", part)
            if match and match[1] != "const":
                raise self.error(option, f"{option}={part}: a schedule depends on the length of the run, which "
                                         "these files do not contain; give a number, and an lr_policy in the solver")
            parts.append(self.as_number(option, re.sub(r"\s*base\s*=\s*", "", match[2]) if match else part))
        return self._of_inputs(option, count, parts)

    def check_all_read(self, ignored: tuple[str, ...]) -> None:
        """Raise ConvertError for an option that was not used."""
        for key in self.options:
            if key not in self.read and key not in ignored and not self._learning(key):
                raise self.error(key, f"option {key} of type={self.text('type')} is not known, or cannot be converted")

    def _learning(self, key: str) -> bool:
        """Whether an option sets how a layer with weights learns."""
        return key in ("epsw", "epsb", "momw", "momb", "wc") and self.text("type") in ("conv", "fc")


def sections(path: str) -> dict[str, Section]:
    """The sections of a file, in order; raises ConvertError with the line of what cannot be read."""
    text = read_bytes(path).decode("utf-8", "replace")
    result: dict[str, Section] = {}
    section = None
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"\s[;#].*", "", raw).strip()
        if not line or line[0] in "#;":
            continue
        header = re.fullmatch(r"\[([^\]]+)\]", line)
        option = re.match(r"([^\s=:]+)\s*[=:]\s*(.*)", line)
        if header:
            name = header[1].strip()
            if name in result:
                raise ConvertError(f"{path}:{number}: a second section [{name}]; the first is in line "
                                   f"{result[name].line}")
            section = result[name] = Section(name, path, number)
        elif option and section is not None:
            section.options[option[1].lower()] = option[2].strip(), f"{path}:{number}"
        else:
            raise ConvertError(f"{path}:{number}: {line!r} is neither a [section] nor an option=value of one")
    if not result:
        raise ConvertError(f"{path}: no [section] in it; give a layer definition or layer parameter file of "
                           "cuda-convnet")
    return result
