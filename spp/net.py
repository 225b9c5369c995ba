"""Net: build a graph of layers from a NetParameter, reshape it, run it forward and backward, load and save it."""
import functools
import logging
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Sequence

import numpy as np

from spp import backend, graph, layers, memory, weights as weight_files
from spp.blob import Blob
from spp.errors import NetError, SppError
from spp.layers import TEST, Context, Layer
from spp.layers.base import DeferredCheck, on_device
from spp.training.learnable import collect
from spp.proto import text

log = logging.getLogger("spp.net")


class Net:
    """A graph of Caffe layers on one device.

    param: the path of a prototxt, or a NetParameter. phase: TRAIN (0) or TEST (1). level, stages: the rest
    of the NetState. weights: a caffemodel, or several, to load. device: "auto", "cpu", "cuda[:i]". seed
    fixes the initial weights, dropout and data order, together with rank. reuse_memory: in phase TEST, without
    backward, blobs take the memory of those that no layer reads any more; only inputs, outputs, losses and the
    blobs named in `keep` can be read after a forward. precision: what convolutions and inner products multiply:
    fp32, or on a GPU tf32, bf16, fp16; all else is float32 (fp16 needs a `loss_scale`, which a Solver sets). Raises
    SppError, with the prototxt's line and the layer's name, where the net is wrong.

    `blobs` (name to Blob), `params` (layer name to its Blobs), `layers`, `inputs` and `outputs` (blob
    names), `learnable`, `loss_weights` (blob name to weight) are there to be read and written; so are
    `before_forward`, `after_forward`, `before_backward` and `after_backward`, lists of functions that are
    called with a layer's number before or after it runs.
    """

    def __init__(self, param: Any, phase: int = TEST, level: int = 0, stages: Sequence[str] = (),
                 weights: str | Sequence[str] | None = None, device: str = "auto", dtype: Any = np.float32,
                 seed: int = 0, rank: int = 0, reuse_memory: bool = False, keep: Sequence[str] = (),
                 precision: str = "fp32") -> None:
        self.source = param if isinstance(param, str) else None
        if isinstance(param, str):
            param = text.read_net(param)
        self.phase = phase
        self.context = Context(phase, np.dtype(dtype), backend.select(device), seed, rank, self.source, precision)
        self.loss_scale = 1.0       # a factor of the gradients that `backward` computes
        with self._located(None):
            self.context.check_precision()
            self.param = graph.insert_splits(graph.filter_net(param, phase, level, stages))
        self.name: str = self.param.name
        self.layers: list[Layer] = []
        self.blobs: dict[str, Blob] = {}
        self.bottoms: list[list[Blob]] = []
        self.tops: list[list[Blob]] = []
        self.inputs: list[str] = []
        self.loss_weights: dict[str, float] = {}
        self.before_forward: list[Callable[[int], Any]] = []
        self.after_forward: list[Callable[[int], Any]] = []
        self.before_backward: list[Callable[[int], Any]] = []
        self.after_backward: list[Callable[[int], Any]] = []
        self._losses: list[list[tuple[Blob, float]]] = []
        for layer_param in self.param.layer:
            with self._located(layer_param):
                self._append(layer_param)
        self.outputs: list[str] = graph.outputs(self.param)
        self.params: dict[str, list[Blob]] = {layer.name: layer.blobs for layer in self.layers if layer.blobs}
        self.learnable, self._entries = collect(self.layers, self._located)
        self._plan_backward()
        self._arena = self._make_arena(keep) if reuse_memory else None
        self._fused = self._plan_fusion()
        memory.join_concats(self.layers, self.bottoms, self.tops, self._fused)
        for path in [weights] if isinstance(weights, str) else weights or ():
            self.copy_from(path)

    @on_device
    def _append(self, param: Any) -> None:
        layer = layers.create(param, self.context)
        bottom = [self.blobs[name] for name in param.bottom]
        top = []
        for i, name in enumerate(param.top):
            if i < len(param.bottom) and name == param.bottom[i]:
                if not layer.in_place:
                    raise NetError(f"cannot work in place: give its top another name than its bottom {name!r}")
                top.append(self.blobs[name])
                continue
            if name in self.blobs:
                raise NetError(f"top blob {name!r} is made by an earlier layer already")
            self.blobs[name] = self._blob()
            top.append(self.blobs[name])
        if param.type == "Input":
            self.inputs.extend(param.top)
        layer.check_counts(len(bottom), len(top))
        if layer.is_loss and not top:
            top.append(self._blob())     # an anonymous loss: counted, but no output
        self.layers.append(layer)
        self.bottoms.append(bottom)
        self.tops.append(top)
        layer.setup(bottom, top)
        if len(param.blobs) not in (0, len(layer.blobs)):
            raise NetError(f"has {len(layer.blobs)} parameter(s), its blobs in the prototxt are {len(param.blobs)}")
        layer.reshape(bottom, top)
        self._losses.append(self._weigh(layer, top))

    def _blob(self) -> Blob:
        return Blob((), self.context.dtype, self.context.backend)

    def _weigh(self, layer: Layer, top: list[Blob]) -> list[tuple[Blob, float]]:
        """The layer's tops that count in the loss, with their weights."""
        given = list(layer.param.loss_weight)
        if not given:
            given = [1.0] + [0.0] * (len(top) - 1) if layer.is_loss else [0.0] * len(top)
        elif len(given) != len(top):
            raise NetError(f"loss_weight must be unspecified, or specified once for each of the {len(top)} tops; "
                           f"found {len(given)}")
        self.loss_weights.update(zip(layer.param.top, given))
        return [(blob, weight) for blob, weight in zip(top, given) if weight]

    @contextmanager
    def _located(self, layer: Any) -> Iterator[None]:
        """Say where the net is wrong: file, line, layer."""
        try:
            yield
        except (SppError, MemoryError, RuntimeError) as found:
            error = backend.explained(found)
            if not isinstance(error, SppError):
                raise
            parts = []
            if self.source:
                parts.append(text.where(self.source, layer.name) if layer is not None else self.source)
            if layer is not None:
                parts.append(f"layer {layer.name!r} ({layer.type})")
            raise type(error)(": ".join([*parts, str(error)])) from found

    # --- parameters

    def _plan_backward(self) -> None:
        facts = []
        for layer, losses in zip(self.layers, self._losses):
            with self._located(layer.param):
                given = layer.param.propagate_down
                if len(given) not in (0, len(layer.param.bottom)):
                    raise NetError(f"propagate_down must be given not at all, or once for each of the "
                                   f"{len(layer.param.bottom)} bottoms; found {len(given)}")
            layer.param_propagate_down = [self.param.force_backward or self._entries[id(blob)].lr_mult != 0
                                          for blob in layer.blobs]
            facts.append(graph.BackwardNode(layer.param.bottom, layer.param.top, given, layer.differentiable,
                                            any(layer.param_propagate_down), bool(losses)))
        self._needs_backward, self._propagate_down = graph.backward_plan(facts, self.param.force_backward)
        for layer, needed, flags in zip(self.layers, self._needs_backward, self._propagate_down):
            layer.runs_backward = needed
            for j, flag in enumerate(flags):
                if flag and layer.is_loss and not layer.differentiable(j):
                    with self._located(layer.param):
                        wanted = " ".join(f"propagate_down: {str(j != k).lower()}" for k in range(len(flags)))
                        raise NetError(f"has no gradient for its bottom {layer.param.bottom[j]!r}, which depends on "
                                       f"a parameter that learns; if that is meant, add {wanted}")

    def _plan_fusion(self) -> dict[int, list[int]]:
        """By its number, the layers behind a layer that forward lets it do in its own pass."""
        return graph.fused([
            graph.FusionNode(list(layer.param.bottom), list(layer.param.top), layer.kind(),
                             [kind for kind in layer.fuses if kind == "relu" or not backend.EXACT
                              and (kind == "affine" or layer.runs_backward)])
            for layer in self.layers])

    def _make_arena(self, keep: Sequence[str]) -> memory.Arena:
        if self.phase != TEST:
            raise NetError("reuse_memory needs phase TEST: training goes backward, and that needs all blobs")
        for layer in self.layers:
            layer.runs_backward = False
        # a user's own layer may look at its blobs again in the next forward
        users = [blob for layer, bottom, top in zip(self.layers, self.bottoms, self.tops) if layer.type == "Python"
                 for blob in (*bottom, *top)]
        return memory.Arena([*(self.blob(name) for name in [*self.outputs, *keep]),
                             *(blob for losses in self._losses for blob, _ in losses), *users])

    @on_device
    def clear_param_diffs(self) -> None:
        """Set the gradients of all parameters to 0; `backward` adds to them."""
        for entry in self.learnable:
            entry.blob.diff[...] = 0

    # --- running

    @on_device
    def reshape(self) -> None:
        """Shape all blobs anew after an input changed its size. `forward` does it by itself."""
        for layer, bottom, top in zip(self.layers, self.bottoms, self.tops):
            with self._located(layer.param):
                layer.reshape(bottom, top)

    @on_device
    def forward(self, **inputs: Any) -> dict[str, Any]:
        """Run all layers; `inputs` are arrays by blob name, and may change an input's shape.

        Returns the outputs' arrays by name: the net's own memory, valid until the next forward.
        Raises NetError for an unknown blob, or an input size that a layer does not take.
        """
        for name, array in inputs.items():
            blob = self.blob(name)
            with self._located(next(layer.param for layer in self.layers if name in layer.param.top)):
                blob.reshape(np.shape(array))
                given = isinstance(array, type(blob.data))
                blob.data[...] = array if given else blob.backend.from_host(np.asarray(array))
        self.forward_layers(0, len(self.layers) - 1)
        return {name: self.blobs[name].data for name in self.outputs}

    @on_device
    def forward_layers(self, first: int, last: int) -> None:
        """Shape and run the layers with the numbers `first` to `last`, both included."""
        if self._arena:
            self._arena.prepare(self)
        watched = self.before_forward or self.after_forward     # somebody may look at a blob before its ReLU
        done = first - 1
        for i in range(first, last + 1):
            if i <= done:
                continue
            _call(self.before_forward, i)
            layer, bottom, top = self.layers[i], self.bottoms[i], self.tops[i]
            chain = [] if watched else [j for j in self._fused.get(i, ()) if j <= last]
            with self._located(layer.param):
                if self._arena:
                    self._arena.enter(i)
                layer.reshape(bottom, top)
                layer.forward(bottom, top, **self._together(i, chain))
            done = chain[-1] if chain else i
            _call(self.after_forward, i)

    def _together(self, index: int, chain: Sequence[int]) -> dict[str, Any]:
        """What forward of a layer is told, for it to do the layers of the chain too."""
        told: dict[str, Any] = {}
        for j in chain:
            layer: Any = self.layers[j]
            kind = layer.kind()
            if kind == "relu":
                told["relu"] = True
            else:
                told["affine"] = told["affine"].then(layer.affine()) if told else layer.affine()
            if kind == "scale":
                doer: Any = self.layers[index]
                layer.fused_gradient = functools.partial(doer.gradient_of_scale, self.bottoms[index], self.tops[index])
        return told

    @property
    def loss(self) -> float:
        """The weighted sum of all losses of the last forward."""
        return self.loss_of_layers(0, len(self.layers) - 1)

    def loss_of_layers(self, first: int, last: int) -> float:
        """The weighted sum of the losses that the layers `first` to `last`, both included, made."""
        return self.fetch_loss(first, last)()

    @on_device
    def fetch_loss(self, first: int = 0, last: int | None = None) -> Callable[[], float]:
        """Begin to bring the loss to the host, the sum that `loss_of_layers` gives: what is returned waits for it.

        On a GPU that raises, too, what a layer found wrong with its input.
        """
        last = len(self.layers) - 1 if last is None else last
        total = sum(weight * blob.data.sum() for losses in self._losses[first:last + 1] for blob, weight in losses)
        arrived = self.context.backend.fetch(total)
        checks = [DeferredCheck(layer) for layer in self.layers if layer.deferred_check is not None]

        def checked_loss() -> float:
            for check in checks:
                with self._located(check.layer.param):
                    check.raise_if_failed()
            return arrived()

        return checked_loss if checks else arrived

    def backward(self) -> None:
        """Gradients of the loss: written to the blobs' diffs, added to the parameters' diffs.

        Without a loss in the net, set the diff of a top first (and `force_backward: true` in the prototxt).
        """
        self.set_loss_diffs()
        self.backward_layers(len(self.layers) - 1, 0)

    @on_device
    def set_loss_diffs(self) -> None:
        """Set the diff of every loss to its weight: where `backward` starts from."""
        for losses in self._losses:
            for blob, weight in losses:
                blob.diff[...] = weight * self.loss_scale

    @on_device
    def backward_layers(self, first: int, last: int) -> int:
        """Run the layers with the numbers `first` down to `last`, both included, backward from their tops' diffs.

        Returns how many of them had a gradient to compute.
        """
        if self._arena:
            raise NetError("a net with reuse_memory has no backward pass: that needs all blobs; build it without")
        watched = self.before_backward or self.after_backward
        for i in range(first, last - 1, -1):
            _call(self.before_backward, i)
            together = {} if watched or i == first else self._together_backward(i)
            if self._needs_backward[i] and (watched or i == last or not self._together_backward(i - 1)):
                with self._located(self.layers[i].param):
                    self.layers[i].backward(self.tops[i], self._propagate_down[i], self.bottoms[i], **together)
            _call(self.after_backward, i)
        return sum(self._needs_backward[last:first + 1])

    def _together_backward(self, index: int) -> dict[str, Any]:
        """What backward of a layer is told, for it to do the layer behind too: a scale that forward did with it."""
        behind: Any = self.layers[self._fused[index][0]] if index in self._fused else None
        together = behind and self._needs_backward[index] and behind.kind() == "scale" and behind.fused_gradient
        return {"scale": behind} if together else {}

    def propagates_down(self, index: int) -> list[bool] | None:
        """Which bottoms of a layer, by its number, `backward` writes gradients of; None if it skips the layer."""
        return self._propagate_down[index] if self._needs_backward[index] else None

    def blob(self, name: str) -> Blob:
        """The blob of this name; raises NetError that lists the known ones."""
        if name not in self.blobs:
            raise NetError(f"no blob {name!r} in net {self.name!r}; its blobs are {', '.join(self.blobs)}")
        return self.blobs[name]

    # --- weights

    @on_device
    def copy_from(self, model: Any) -> None:
        """Load weights by layer name from a .caffemodel or .caffemodel.h5 file, or a NetParameter.

        Layers that the file lacks keep their values; layers that the net lacks are passed over with a log
        line. Raises NetError, with both shapes, where a layer's parameters do not fit.
        """
        source = model if isinstance(model, str) else "the given NetParameter"
        mine: dict[str, Layer] = {}
        for layer in self.layers:
            mine.setdefault(layer.name, layer)
        matched = 0
        for name, arrays in weight_files.read(model):
            if name not in mine:
                log.info("Ignoring source layer %s", name)
            elif arrays:
                matched += 1
                weight_files.assign(mine[name].blobs, arrays, f"{source}: layer {name!r}")
        if not matched and self.params:
            raise NetError(f"{source}: none of its layers has the name of a layer with parameters in net "
                           f"{self.name!r} ({', '.join(self.params)}); is it the weights of another net?")

    def share_with(self, other: "Net") -> None:
        """Use `other`'s weights, in its memory, for layers of the same name."""
        theirs = {layer.name: layer for layer in other.layers}
        for layer in self.layers:
            source = theirs.get(layer.name)
            if source is None or not source.blobs:
                continue
            shapes, mine = [b.shape for b in source.blobs], [b.shape for b in layer.blobs]
            if shapes != mine:
                raise NetError(f"cannot share the weights of layer {layer.name!r}: the shapes are {shapes} and {mine}")
            for blob, owner in zip(layer.blobs, source.blobs):
                blob.share_data(owner)

    @on_device
    def save(self, path: str, diff: bool = False) -> None:
        """Write the net's layers and weights to a .caffemodel, or to HDF5 if the path ends in .h5."""
        weight_files.write(self, path, diff)

    # --- what resuming needs besides the weights

    @on_device
    def state(self) -> dict[str, Any]:
        """Random streams and data positions, by layer, as JSON values."""
        states = {layer.name: layer.state() for layer in self.layers}
        return {name: state for name, state in states.items() if state is not None}

    @on_device
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        for layer in self.layers:
            if layer.name in state:
                layer.restore(state[layer.name])

    def close(self) -> None:
        """Stop the threads and close the files of data layers."""
        for layer in self.layers:
            layer.close()

    def __enter__(self) -> "Net":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def _call(callbacks: list[Callable[[int], Any]], index: int) -> None:
    for callback in callbacks:
        callback(index)
