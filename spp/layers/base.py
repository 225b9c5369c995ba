"""The interface of every layer (that of Caffe's Python layer), and the checks that all layers share."""
import functools
import zlib
from dataclasses import dataclass, field
from typing import Any, Callable, Sequence, TypeVar, cast

import numpy as np

from spp import errors, filler
from spp import host_copy
from spp.backend import host
from spp.backend.protocol import Backend
from spp.backend.types import Array, Epilogue
from spp.blob import Blob
from spp.errors import NetError
from spp.ops.affine import Affine
from spp.proto import arrays

TRAIN, TEST = 0, 1
RELU, AFFINE, SCALE = "relu", "affine", "scale"     # Layer.fusion_kind
PRECISIONS = "fp32", "tf32", "bf16", "fp16"     # of convolutions and inner products
format_shape = errors.format_shape      # for the messages of layers
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass
class Context:
    """What a layer knows about the net that it is part of."""

    phase: int = TEST
    dtype: Any = np.float32
    backend: Backend = field(default=host)
    seed: int = 0
    rank: int = 0
    source: str | None = None     # path of the prototxt that the net was read from
    precision: str = "fp32"       # one of PRECISIONS

    def check_precision(self) -> None:
        """Raise NetError if the backend or the dtype does not support the precision."""
        if self.precision not in PRECISIONS:
            raise NetError(f"unknown precision {self.precision!r}: expected {', '.join(PRECISIONS)}")
        if self.precision not in self.backend.precisions:
            raise NetError(f"precision {self.precision} needs a GPU, and this net is on the CPU, which computes in "
                           "fp32; drop the precision, or choose device cuda")
        if self.precision != "fp32" and self.dtype != np.float32:
            raise NetError(f"precision {self.precision} needs a net of dtype float32, found {np.dtype(self.dtype)}")

    def generator(self, *names: Any) -> np.random.Generator:
        """The random stream of (seed, rank, names). It depends on nothing else, so a new layer changes no other's."""
        words = [zlib.crc32(str(name).encode()) for name in names]
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, self.rank, *words])))


def on_device(method: Method) -> Method:
    """Decorator: run a method of an object that has a Context as `context` on that context's device."""
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
    """Base of all layers: Caffe's four methods, and facts about the layer.

    A subclass overrides setup, reshape, forward and backward. It states its facts as class attributes; a fact that
    depends on the parameters is a property. `bottoms` and `tops` are (least, most) counts, most None for no limit.

    A layer that can do the work of layers that follow it in place (spp/fusion.py) also states which kinds it `fuses`
    and overrides `forward_fused`. A layer whose work can be done so has a `fusion_kind`.
    """

    bottoms: tuple[int, int | None] = (1, 1)
    tops: tuple[int, int | None] = (1, 1)
    one_top_per_bottom = False
    in_place = False              # may top 0 be bottom 0?
    differentiable_bottoms: int | None = None   # how many bottoms, from the first, may get a gradient; None: all
    is_loss = False               # does top 0 have loss weight 1 unless the prototxt says otherwise?
    keeps_blobs = False           # may the layer read its blobs again after its own forward and backward?
    runs_backward = True          # does the net call backward? If it does not, nothing is saved for it
    param_str = param_str_ = ""   # a Python layer's own parameters, as its prototxt has them

    def __init__(self, param: Any, context: Context) -> None:
        self.param = param
        self.name: str = param.name
        self.type: str = param.type
        self.context = context
        self.phase = context.phase
        self.blobs = Blobs(context)
        self.param_propagate_down: list[bool] = []
        self.rng: np.random.Generator | None = None
        self.deferred_check: Any = None      # values that `check_values` has not examined yet

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read and check the parameters; create `self.blobs`."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Shape the tops; called before every forward."""

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write `top[i].data`."""

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """Write `bottom[i].diff` where `propagate_down[i]`; add to `self.blobs[i].diff`."""

    def differentiable(self, bottom: int) -> bool:
        """Whether the bottom of this index may get a gradient."""
        return self.differentiable_bottoms is None or bottom < self.differentiable_bottoms

    @property
    def writes_channels(self) -> bool:
        """Whether forward is as fast if its top is some of the channels of a larger blob."""
        return False

    @property
    def fuses(self) -> Sequence[str]:
        """The fusion kinds of the layers whose work `forward_fused` does."""
        return ()

    @property
    def fusion_kind(self) -> str:
        """What the layer computes: RELU (of negative_slope 0), AFFINE, SCALE, or "" for something else.

        AFFINE is an affine map per channel of which backward needs nothing; SCALE is one whose parameters learn.
        """
        return ""

    def affine(self) -> Affine:
        """The map of a layer of the kinds AFFINE and SCALE, with the parameters' present values."""
        raise AssertionError(f"{self.type} is no affine map")

    def forward_fused(self, bottom: Sequence[Blob], top: Sequence[Blob], epilogue: Epilogue) -> None:
        """Run forward and, in the pass that writes the top, the epilogue, of numbers or one value per channel."""
        raise AssertionError(f"{self.type} fuses no layers")

    def state(self) -> dict[str, Any] | None:
        """The state that resuming needs besides the weights, as JSON values, or None if there is none."""
        if self.rng is None:
            return None
        return {"random": _as_json(self.rng.bit_generator.state)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state` returned."""
        if self.rng is not None and "random" in state:
            self.rng.bit_generator.state = _from_json(state["random"])

    def close(self) -> None:
        """Stop threads and close files."""

    def random_stream(self) -> np.random.Generator:
        """The layer's own random stream, saved with the solver's state."""
        if self.rng is None:
            self.rng = self.context.generator(self.name)
        return self.rng

    def add_filled(self, shape: tuple[int, ...], filler_param: Any) -> Blob:
        """Add a parameter: from the LayerParameter's own `blobs` if it has them, else by its filler.

        The filler runs when the values are first read. It does not run if weights are loaded or shared before that.
        Raises NetError for a shape that does not fit.
        """
        index = len(self.blobs)
        blob = self.blobs.add_blob(*shape)
        if index < len(self.param.blobs):
            blob.data[...] = self.context.backend.from_host(
                arrays.from_proto_as(self.param.blobs[index], shape, f"param {index} in the layer's own blobs"))
        else:
            filler.check(shape, filler_param)
            if filler_param.type != "constant" or filler_param.value:
                blob.memory.fill = functools.partial(_filled, shape, filler_param, self.context, self.name, index)
        return blob

    def buffer(self, dtype: Any = None) -> Blob:
        """Memory that grows with the batch, for what forward keeps for backward; by default of the net's dtype."""
        return Blob((), dtype or self.context.dtype, self.context.backend)

    def check_values(self, wrong: Array, values: Array, explain: Callable[[Any], str]) -> None:
        """Raise NetError(explain(value)) for the first of `values` where `wrong`, an array of booleans, is true.

        On the host the error is raised at once. On a GPU, where that would have to wait for the device, the check is
        deferred until the net's loss is next read.
        """
        if not wrong.size:
            return
        if not self.context.backend.asynchronous:
            if wrong.any():
                raise NetError(explain(values[wrong].ravel()[0].item()))
            return
        xp = self.context.backend.xp
        failed, value = wrong.any(), xp.take(values.reshape(-1), wrong.reshape(-1).argmax())
        if self.deferred_check is not None:      # not examined since the last forward: the earlier failure is reported
            failed_before, earlier, _ = self.deferred_check
            failed, value = failed | failed_before, xp.where(failed_before, earlier, value)
        self.deferred_check = failed, value, explain

    def check_counts(self, bottoms: int, tops: int) -> None:
        """Check the number of bottoms and tops against the class's facts. Raises NetError."""
        for kind, count, (least, most) in (("bottom", bottoms, self.bottoms), ("top", tops, self.tops)):
            if count < least or (most is not None and count > most):
                expected = (f"exactly {least}" if least == most else f"at least {least}" if most is None
                            else f"{least} to {most}")
                raise NetError(f"takes {expected} {kind} blob(s), found {count}")
        if self.one_top_per_bottom and bottoms != tops:
            raise NetError(f"makes one top for each bottom, found {bottoms} bottom(s) and {tops} top(s)")


class FusingLayer(Layer):
    """Base of layers that can fuse others: forward is `forward_fused` without an epilogue."""

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.forward_fused(bottom, top, Epilogue())


class DeferredCheck:
    """The check that a layer on a GPU deferred in `check_values`; its result is on the way to the host."""

    def __init__(self, layer: Layer) -> None:
        failed, self._value, self._explain = layer.deferred_check
        self._failed = layer.context.backend.fetch(failed)
        self.layer = layer
        layer.deferred_check = None

    def raise_if_failed(self) -> None:
        """Wait for the result. Raises NetError if a value was wrong."""
        if self._failed():
            raise NetError(self._explain(self._value.item()))


def _filled(shape: tuple[int, ...], filler_param: Any, context: Context, *names: Any) -> Any:
    """New values as a flat array with the context's device and dtype."""
    values = filler.fill(shape, filler_param, context.generator(*names))
    with context.backend.use():
        return context.backend.from_host(np.require(values, context.dtype, ["C", "W"]).reshape(-1))


def canonical_axis(axis: int, ndim: int, name: str = "axis") -> int:
    """A possibly negative axis as 0 <= axis < ndim; raises NetError out of range."""
    if not -ndim <= axis < ndim:
        raise NetError(f"{name} {axis} is out of range for a blob of {ndim} axes")
    return axis % ndim


def _as_json(state: Any) -> Any:
    """The state of a bit generator with its arrays as lists."""
    if isinstance(state, dict):
        return {key: _as_json(value) for key, value in state.items()}
    return [int(v) for v in state] if isinstance(state, np.ndarray) else state


def _from_json(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _from_json(value) for key, value in state.items()}
    return np.array(state, np.uint64) if isinstance(state, list) else state
