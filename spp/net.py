"""Net: build a graph of layers from a NetParameter, reshape it, run it forward and backward, load and save it."""
import logging
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Callable, Iterator, Sequence

import numpy as np

from spp import backend, graph, layers, memory, weights as weight_files
from spp.blob import Blob
from spp.errors import NetError, SppError
from spp.fusion import Fusion
from spp.layers import TEST, Context, Layer
from spp.layers.base import DeferredCheck, on_device
from spp.training.learnable import collect
from spp.proto import text

log = logging.getLogger("spp.net")


class Net(AbstractContextManager["Net"]):
    """A graph of Caffe layers on one device.

    param: the path of a prototxt, or a NetParameter. phase: TRAIN (0) or TEST (1). level, stages: the rest of the
    NetState. weights: the path of a caffemodel to load, or several paths. device: "auto", "cpu", "cuda[:i]". dtype:
    of all blobs, float32 or float64. seed, rank: they fix the initial weights, dropout and data order. reuse_memory:
    in phase TEST, without backward, a blob takes the memory of blobs that no layer reads any more; only inputs,
    outputs, losses and the blobs named in `keep` can be read after a forward. precision: the arithmetic of
    convolutions and inner products, fp32, or on a GPU also tf32, bf16, fp16; everything else is float32 (fp16 needs
    a `loss_scale`, which a Solver sets). Raises SppError, with the prototxt's line and the layer's name, if the net
    is wrong.

    Public attributes: `blobs` (name to Blob), `params` (layer name to its Blobs), `layers`, `inputs` and `outputs`
    (blob names), `learnable`, `loss_weights` (blob name to weight), and the hooks `before_forward`, `after_forward`,
    `before_backward` and `after_backward`: lists of functions that are called with a layer's index before or after
    the layer runs.
    """

    def __init__(self, param: Any, phase: int = TEST, level: int = 0, stages: Sequence[str] = (),
                 weights: str | Sequence[str] | None = None, device: str = "auto", *, dtype: Any = np.float32,
                 seed: int = 0, rank: int = 0, reuse_memory: bool = False, keep: Sequence[str] = (),
                 precision: str = "fp32") -> None:
        self.source = param if isinstance(param, str) else None
        if isinstance(param, str):
            param = text.read_net(param)
        self.phase = phase
        self.context = Context(phase, np.dtype(dtype), backend.select(device), seed, rank, self.source, precision)
        self.loss_scale = 1.0       # a factor of all gradients that `backward` computes
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
        self._fusion = Fusion(self.layers, self.bottoms, self.tops)
        memory.join_concats(self.layers, self.bottoms, self.tops, self._fusion.chains)
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
        self._losses.append(self._weighted_losses(layer, top))

    def _blob(self) -> Blob:
        return Blob((), self.context.dtype, self.context.backend)

    def _weighted_losses(self, layer: Layer, top: list[Blob]) -> list[tuple[Blob, float]]:
        """The layer's tops that count in the loss, with their weights."""
        weights = list(layer.param.loss_weight)
        if not weights:
            weights = [1.0] + [0.0] * (len(top) - 1) if layer.is_loss else [0.0] * len(top)
        elif len(weights) != len(top):
            raise NetError(f"loss_weight must be unspecified, or specified once for each of the {len(top)} tops; "
                           f"found {len(weights)}")
        self.loss_weights.update(zip(layer.param.top, weights))
        return [(blob, weight) for blob, weight in zip(top, weights) if weight]

    @contextmanager
    def _located(self, layer: Any) -> Iterator[None]:
        """Add the place in the net to an error's message: file, line, layer."""
        try:
            yield
        except (SppError, MemoryError, RuntimeError) as raised:
            error = backend.as_spp_error(raised)
            if not isinstance(error, SppError):
                raise
            parts = []
            if self.source:
                parts.append(text.where(self.source, layer.name) if layer is not None else self.source)
            if layer is not None:
                parts.append(f"layer {layer.name!r} ({layer.type})")
            raise type(error)(": ".join([*parts, str(error)])) from raised

    # --- parameters

    def _plan_backward(self) -> None:
        nodes = []
        for layer, losses in zip(self.layers, self._losses):
            with self._located(layer.param):
                flags = layer.param.propagate_down
                if len(flags) not in (0, len(layer.param.bottom)):
                    raise NetError(f"propagate_down must be given not at all, or once for each of the "
                                   f"{len(layer.param.bottom)} bottoms; found {len(flags)}")
            layer.param_propagate_down = [self.param.force_backward or self._entries[id(blob)].lr_mult != 0
                                          for blob in layer.blobs]
            nodes.append(graph.BackwardNode(layer.param.bottom, layer.param.top, flags, layer.differentiable,
                                            any(layer.param_propagate_down), bool(losses)))
        self._needs_backward, self._propagate_down = graph.backward_plan(nodes, self.param.force_backward)
        for layer, needed, flags in zip(self.layers, self._needs_backward, self._propagate_down):
            layer.runs_backward = needed
            for j, flag in enumerate(flags):
                if flag and layer.is_loss and not layer.differentiable(j):
                    with self._located(layer.param):
                        lines = " ".join(f"propagate_down: {str(j != k).lower()}" for k in range(len(flags)))
                        raise NetError(f"has no gradient for its bottom {layer.param.bottom[j]!r}, which depends on "
                                       f"a parameter that learns; if that is meant, add {lines}")

    def _make_arena(self, keep: Sequence[str]) -> memory.Arena:
        if self.phase != TEST:
            raise NetError("reuse_memory needs phase TEST: training goes backward, and that needs all blobs")
        for layer in self.layers:
            layer.runs_backward = False
        kept_by_layers = [blob for layer, bottom, top in zip(self.layers, self.bottoms, self.tops)
                          if layer.keeps_blobs for blob in (*bottom, *top)]
        return memory.Arena([*(self.blob(name) for name in [*self.outputs, *keep]),
                             *(blob for losses in self._losses for blob, _ in losses), *kept_by_layers])

    @on_device
    def clear_param_diffs(self) -> None:
        """Set the gradients of all parameters to 0; `backward` adds to them."""
        for entry in self.learnable:
            entry.blob.diff[...] = 0

    # --- running

    @on_device
    def reshape(self) -> None:
        """Shape all blobs after an input changed its size; `forward` does this by itself."""
        for layer, bottom, top in zip(self.layers, self.bottoms, self.tops):
            with self._located(layer.param):
                layer.reshape(bottom, top)

    @on_device
    def forward(self, **inputs: Any) -> dict[str, Any]:
        """Run all layers; `inputs` are arrays by blob name, and may change an input's shape.

        Returns the outputs' arrays by name. They are the net's own memory, valid until the next forward.
        Raises NetError for an unknown blob, or an input size that a layer does not accept.
        """
        for name, array in inputs.items():
            blob = self.blob(name)
            with self._located(next(layer.param for layer in self.layers if name in layer.param.top)):
                blob.reshape(np.shape(array))
                is_on_device = isinstance(array, type(blob.data))
                blob.data[...] = array if is_on_device else blob.backend.from_host(np.asarray(array))
        self.forward_layers(0, len(self.layers) - 1)
        return {name: self.blobs[name].data for name in self.outputs}

    @on_device
    def forward_layers(self, first: int, last: int) -> None:
        """Shape and run the layers with the indices `first` to `last`, both included."""
        if self._arena:
            self._arena.prepare(self)
        hooked = self.before_forward or self.after_forward      # a hook may read a blob in the middle of a chain
        i = first
        while i <= last:
            _call(self.before_forward, i)
            chain = [] if hooked else self._fusion.chain(i, last)
            with self._located(self.layers[i].param):
                if self._arena:
                    self._arena.enter(i)
                self.layers[i].reshape(self.bottoms[i], self.tops[i])
                self._fusion.forward(i, chain)
            _call(self.after_forward, i)
            i += 1 + len(chain)

    @property
    def loss(self) -> float:
        """The weighted sum of all losses of the last forward."""
        return self.loss_of_layers(0, len(self.layers) - 1)

    def loss_of_layers(self, first: int, last: int) -> float:
        """The weighted sum of the losses of the layers `first` to `last`, both included."""
        return self.fetch_loss(first, last)()

    @on_device
    def fetch_loss(self, first: int = 0, last: int | None = None) -> Callable[[], float]:
        """Begin to copy the loss, as `loss_of_layers` defines it, to the host. Returns a function that waits for it.

        On a GPU that function also raises the NetError of a layer's deferred check.
        """
        last = len(self.layers) - 1 if last is None else last
        total = sum(weight * blob.data.sum() for losses in self._losses[first:last + 1] for blob, weight in losses)
        fetched = self.context.backend.fetch(total)
        checks = [DeferredCheck(layer) for layer in self.layers if layer.deferred_check is not None]

        def checked_loss() -> float:
            for check in checks:
                with self._located(check.layer.param):
                    check.raise_if_failed()
            return fetched()

        return checked_loss if checks else fetched

    def backward(self) -> None:
        """Write the gradients of the loss to the blobs' diffs, and add them to the parameters' diffs.

        In a net without a loss, set the diff of a top first (and `force_backward: true` in the prototxt).
        """
        self.set_loss_diffs()
        self.backward_layers(len(self.layers) - 1, 0)

    @on_device
    def set_loss_diffs(self) -> None:
        """Set the diff of every loss to its weight, from which `backward` starts."""
        for losses in self._losses:
            for blob, weight in losses:
                blob.diff[...] = weight * self.loss_scale

    @on_device
    def backward_layers(self, first: int, last: int) -> int:
        """Run the layers with the indices `first` down to `last`, both included, backward from their tops' diffs.

        Returns how many of the layers had a gradient to compute.
        """
        if self._arena:
            raise NetError("a net with reuse_memory has no backward pass: that needs all blobs; build it without")
        hooked = self.before_backward or self.after_backward
        scale = None        # of layer i, if its backward runs together with that of the layer before it
        for i in range(first, last - 1, -1):
            _call(self.before_backward, i)
            before = None if hooked or i == last else self._fusion.fused_scale(i - 1)
            if self._needs_backward[i] and before is None:
                with self._located(self.layers[i].param):
                    self._fusion.backward(i, self._propagate_down[i], scale)
            scale = before
            _call(self.after_backward, i)
        return sum(self._needs_backward[last:first + 1])

    def propagates_down(self, index: int) -> list[bool] | None:
        """The bottoms, as flags, whose gradients `backward` writes for a layer; None if it skips the layer."""
        return self._propagate_down[index] if self._needs_backward[index] else None

    def blob(self, name: str) -> Blob:
        """The blob of this name. Raises NetError, which lists the known names."""
        if name not in self.blobs:
            raise NetError(f"no blob {name!r} in net {self.name!r}; its blobs are {', '.join(self.blobs)}")
        return self.blobs[name]

    # --- weights

    @on_device
    def copy_from(self, model: Any) -> None:
        """Load weights by layer name from a .caffemodel or .caffemodel.h5 file, or a NetParameter.

        Layers that are not in the file keep their values; layers that are not in the net are ignored with a log
        line. Raises NetError, with both shapes, if a layer's parameters do not fit.
        """
        source = model if isinstance(model, str) else "the given NetParameter"
        mine = {layer.name: layer for layer in reversed(self.layers)}       # of equal names the first layer
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
        """Share the memory of `other`'s weights for layers of the same name."""
        theirs = {layer.name: layer.blobs for layer in other.layers}
        for layer in self.layers:
            source: list[Blob] = theirs.get(layer.name, [])
            shapes, mine = [b.shape for b in source], [b.shape for b in layer.blobs]
            if source and shapes != mine:
                raise NetError(f"cannot share the weights of layer {layer.name!r}: the shapes are {shapes} and {mine}")
            for blob, owner in zip(layer.blobs, source):
                blob.share_data(owner)

    @on_device
    def save(self, path: str, diff: bool = False) -> None:
        """Write the net's layers and weights to a .caffemodel, or to HDF5 if the path ends in .h5."""
        weight_files.write(self, path, diff)

    # --- the state that resuming needs besides the weights

    @on_device
    def state(self) -> dict[str, Any]:
        """Random streams and data positions, by layer, as JSON values."""
        states = {layer.name: layer.state() for layer in self.layers}
        return {name: state for name, state in states.items() if state is not None}

    @on_device
    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state` returned."""
        for layer in self.layers:
            if layer.name in state:
                layer.restore(state[layer.name])

    def close(self) -> None:
        """Stop the threads and close the files of data layers."""
        for layer in self.layers:
            layer.close()

    def __exit__(self, *exc: Any) -> None:
        self.close()


def _call(callbacks: list[Callable[[int], Any]], index: int) -> None:
    for callback in callbacks:
        callback(index)
