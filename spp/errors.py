"""Errors that a user of spp can cause; each message names the object, the rule, the actual value and the remedy."""
from collections.abc import Sequence


def format_shape(shape: Sequence[int]) -> str:
    """A shape for a message: "2 x 3", or "()" for a shape without axes."""
    return " x ".join(map(str, shape)) or "()"


class SppError(Exception):
    """Base of every error that spp raises on purpose."""


class ProtoError(SppError):
    """A prototxt, caffemodel or other protobuf file cannot be read or written."""


class DataError(SppError):
    """A database, an image or a mean file cannot be read, or does not fit the net."""


class NetError(SppError):
    """A net cannot be built, reshaped, run, or given these weights."""


def too_little_memory(error: MemoryError) -> NetError:
    """The error for a layer that cannot allocate memory; a GPU's `error` says how much it needs."""
    return NetError(f"needs more memory than there is ({error}); make its sizes, the input or the batch smaller")


class DeviceError(SppError):
    """A GPU has failed; this process cannot use it any more."""


class SolverError(SppError):
    """A solver cannot be built, resumed or continued."""


class ConvertError(SppError):
    """A net or its weights cannot be converted without guessing."""
