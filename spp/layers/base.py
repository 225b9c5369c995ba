"""The interface of every layer (Caffe's Python layer), and the facts about it that are checked once, here."""
import functools
import zlib
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Callable, Sequence, TypeVar, cast

import numpy as np

from spp import filler
from spp import host_copy
from spp.backend import host
from spp.blob import Blob
from spp.errors import NetError
from spp.ops.affine import Affine
from spp.proto import arrays

TRAIN, TEST = 0, 1
PRECISIONS = "fp32", "tf32", "bf16", "fp16"     # of convolutions and inner products
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass
class Context:
    """What a layer knows of the net it is in."""

    phase: int = TEST
    dtype: Any = np.float32
    backend: ModuleType = field(default=host)
    seed: int = 0
    rank: int = 0
    source: str | None = None     # path of the prototxt, where the net came from one
    precision: str = "fp32"       # one of PRECISIONS

    def check_precision(self) -> None:
        """Raise NetError unless backend and dtype have the precision."""
        if self.precision not in PRECISIONS:
            raise NetError(f"unknown precision {self.precision!r}: expected {', '.join(PRECISIONS)}")
        if self.precision not in self.backend.precisions:
            raise NetError(f"precision {self.precision} needs a GPU, and this net is on the CPU, which computes in "
                           "fp32; drop the precision, or choose device cuda")
        if self.precision != "fp32" and self.dtype != np.float32:
            raise NetError(f"precision {self.precision} needs a net of dtype float32, found {np.dtype(self.dtype)}")

    def generator(self, *names: Any) -> np.random.Generator:
        """A random stream of its own for (seed, rank, names): a new layer does not disturb the others' streams."""
        words = [zlib.crc32(str(name).encode()) for name in names]
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, self.rank, *words])))


def on_device(method: Method) -> Method:
    """Decorator of a method whose object has a Context as `context`: it runs on that context's device."""
    @functools.wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.context.backend.use():
            return method(self, *args, **kwargs)
    return cast(Method, run)


class Blobs(list):
    """A layer's parameters."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context

    def add_blob(self, *shape: int) -> Blob:
        """Append a zero parameter of this shape (always in Caffe's memory order) and return it."""
        self.append(Blob(shape, self._context.dtype, self._context.backend, channels_last=False))
        return self[-1]


class HostBlobs(Blobs):
    """A layer's parameters on a GPU, with NumPy arrays; `blobs` is the layer's own list."""

    def __init__(self, blobs: Blobs) -> None:
        super().__init__(blobs._context)
        self.extend(map(host_copy.host_view, blobs))
        self._blobs = blobs

    def add_blob(self, *shape: int) -> Blob:
        self.append(host_copy.host_view(self._blobs.add_blob(*shape)))
        return self[-1]


def host_views(blobs: Blobs) -> Blobs:
    """A layer's parameters with NumPy arrays."""
    return HostBlobs(blobs) if blobs._context.backend.asynchronous else blobs


class Layer:
    """Base of all layers. A subclass states its facts as class attributes and overrides the four methods.

    `bottoms` and `tops` are (least, most) counts, most None for no limit.
    """

    bottoms: tuple[int, int | None] = (1, 1)
    tops: tuple[int, int | None] = (1, 1)
    one_top_per_bottom = False
    in_place = False              # may top 0 be bottom 0?
    is_loss = False               # top 0 has loss weight 1 unless the prototxt says otherwise
    fuses: Sequence[str] = ()     # kinds of layers that may follow in place and that forward does in its own pass:
    #                               "relu": it takes relu=True; "affine", "scale": affine=, for the result before that
    writes_channels = False       # is forward as fast where the top is some channels of a larger blob?
    runs_backward = True          # does the net call backward? If not, nothing need be kept for it
    param_str = param_str_ = ""   # a Python layer's own parameters, as its prototxt has them
    differentiable: Callable[[int], bool] = staticmethod(lambda bottom: True)   # may bottom i get a gradient?

    def __init__(self, param: Any, context: Context) -> None:
        self.param = param
        self.name: str = param.name
        self.type: str = param.type
        self.context = context
        self.phase = context.phase
        self.blobs = Blobs(context)
        self.param_propagate_down: list[bool] = []
        self.rng: np.random.Generator | None = None
        self.deferred_check: Any = None      # what `check_values` has not looked at yet

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read and check the parameters; create `self.blobs`."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Shape the tops; called before every forward."""

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write `top[i].data`."""

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """Write `bottom[i].diff` where `propagate_down[i]`; add to `self.blobs[i].diff`."""

    def kind(self) -> str:
        """What the layer is to one that fuses it: see graph.FusionNode."""
        return ""

    def affine(self) -> Affine:
        """The map of a layer of the kinds "affine" and "scale", with the parameters' present values."""
        raise AssertionError(f"{self.type} is no affine map")

    def state(self) -> dict[str, Any] | None:
        """What resuming needs besides the weights, as JSON values; None for nothing."""
        if self.rng is None:
            return None
        return {"random": _as_json(self.rng.bit_generator.state)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        if self.rng is not None and "random" in state:
            self.rng.bit_generator.state = _from_json(state["random"])

    def close(self) -> None:
        """Give back threads and files."""

    def random_stream(self) -> np.random.Generator:
        """The layer's own random stream, saved with the solver's state."""
        if self.rng is None:
            self.rng = self.context.generator(self.name)
        return self.rng

    def add_filled(self, shape: tuple[int, ...], filler_param: Any) -> Blob:
        """Add a parameter: from the LayerParameter's own `blobs` where it has them, else by its filler.

        The filler runs when the values are first looked at: not if weights from a file or another net come before.
        """
        index = len(self.blobs)
        blob = self.blobs.add_blob(*shape)
        if index < len(self.param.blobs):
            blob.data[...] = self.context.backend.from_host(
                arrays.fitted(self.param.blobs[index], shape, f"param {index} in the layer's own blobs"))
        else:
            filler.check(shape, filler_param)
            if filler_param.type != "constant" or filler_param.value:
                blob.memory.fill = functools.partial(_filled, shape, filler_param, self.context, self.name, index)
        return blob

    def check_values(self, wrong: Any, values: Any, explain: Callable[[Any], str]) -> None:
        """Raise NetError(explain(value)) for the first of `values` where `wrong`, an array of booleans, is true.

        At once on the host; on a GPU, which would have to be waited for, when the net's loss is next looked at.
        """
        if not wrong.size:
            return
        if not self.context.backend.asynchronous:
            if wrong.any():
                raise NetError(explain(values[wrong].ravel()[0].item()))
            return
        xp = self.context.backend.xp
        flags, found = wrong.any(), xp.take(values.reshape(-1), wrong.reshape(-1).argmax())
        if self.deferred_check is not None:      # nobody looked since: the first one counts
            before, value, _ = self.deferred_check
            flags, found = flags | before, xp.where(before, value, found)
        self.deferred_check = flags, found, explain

    def check_counts(self, bottoms: int, tops: int) -> None:
        """Hold the number of bottoms and tops against the class's facts; raises NetError."""
        for kind, found, (least, most) in (("bottom", bottoms, self.bottoms), ("top", tops, self.tops)):
            if found < least or most is not None and found > most:
                expected = (f"exactly {least}" if least == most else f"at least {least}" if most is None
                            else f"{least} to {most}")
                raise NetError(f"takes {expected} {kind} blob(s), found {found}")
        if self.one_top_per_bottom and bottoms != tops:
            raise NetError(f"makes one top for each bottom, found {bottoms} bottom(s) and {tops} top(s)")


class DeferredCheck:
    """What a layer on a GPU put off in `check_values`, on its way to the host."""

    def __init__(self, layer: Layer) -> None:
        wrong, self._found, self._explain = layer.deferred_check
        self._wrong = layer.context.backend.fetch(wrong)
        self.layer = layer
        layer.deferred_check = None

    def raise_if_failed(self) -> None:
        """Wait for it; raises NetError if something was wrong."""
        if self._wrong():
            raise NetError(self._explain(self._found.item()))


def _filled(shape: tuple[int, ...], filler_param: Any, context: Context, *names: Any) -> Any:
    """New values as a flat array of the context's device and dtype."""
    values = filler.fill(shape, filler_param, context.generator(*names))
    with context.backend.use():
        return context.backend.from_host(np.require(values, context.dtype, ["C", "W"]).reshape(-1))


def canonical_axis(axis: int, ndim: int, name: str = "axis") -> int:
    """A possibly negative axis as 0 <= axis < ndim; raises NetError out of range."""
    if not -ndim <= axis < ndim:
        raise NetError(f"{name} {axis} is out of range for a blob of {ndim} axes")
    return axis % ndim


def format_shape(shape: Sequence[int]) -> str:
    """A shape, or other numbers by axis, for a message: "2 x 3", and "()" where there is no axis."""
    return " x ".join(map(str, shape)) or "()"


def _as_json(state: Any) -> Any:
    """A bit generator's state with its arrays as lists."""
    if isinstance(state, dict):
        return {key: _as_json(value) for key, value in state.items()}
    return [int(v) for v in state] if isinstance(state, np.ndarray) else state


def _from_json(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _from_json(value) for key, value in state.items()}
    return np.array(state, np.uint64) if isinstance(state, list) else state
