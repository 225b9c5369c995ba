"""Fusion: a layer does the work of the layers that follow it in place, in the pass that writes its top.

All of it is decided here. `find_chains` says which layers may run together, from four facts about each; `Fusion`
runs a net's layers, alone or together with the chain that follows them. A net runs every layer alone while a hook
is installed, because the hook may read a blob in the middle of a chain. With SPP_EXACT=1 only a ReLU is fused: the
other maps are rounded differently when they are combined.
"""
import functools
from typing import NamedTuple, Sequence

from spp import backend
from spp.blob import Blob
from spp.layers import Layer
from spp.layers.base import AFFINE, RELU, SCALE
from spp.layers.batch_norm import BatchNorm
from spp.layers.scale import Scale
from spp.ops.affine import IDENTITY


class Node(NamedTuple):
    """What `find_chains` needs to know about a layer: its blobs, its fusion kind and the kinds that it can fuse."""

    bottom: Sequence[str]
    top: Sequence[str]
    kind: str = ""
    fuses: Sequence[str] = ()

    def is_in_place_on(self, top: Sequence[str]) -> bool:
        """Whether the layer changes the only top of another layer, and nothing else."""
        return list(top) == list(self.bottom) == list(self.top)


def find_chains(nodes: Sequence[Node]) -> dict[int, list[int]]:
    """Map a layer's index to the indices of the layers after it that it can fuse; layers in net order.

    A chain is any number of affine maps or one scale, and then at most one ReLU.
    """
    chains: dict[int, list[int]] = {}
    last = -1
    for i, node in enumerate(nodes):
        if i <= last or len(node.top) != 1:
            continue
        chain: list[int] = []
        for j, follower in enumerate(nodes[i + 1:], i + 1):
            previous = nodes[chain[-1]].kind if chain else ""
            if not (follower.kind in node.fuses and follower.is_in_place_on(node.top)
                    and _may_follow(follower.kind, previous)):
                break
            chain.append(j)
        if chain:
            chains[i], last = chain, chain[-1]
    return chains


def _may_follow(kind: str, previous: str) -> bool:
    """Whether a chain may go on with this kind of layer; `previous` is "" at its start."""
    if previous in ("", AFFINE):
        return kind != SCALE or not previous
    return previous == SCALE and kind == RELU


class Fusion:
    """The chains of a net, and how its layers run with them. The arguments are a net's lists, one item per layer."""

    def __init__(self, layers: Sequence[Layer], bottoms: Sequence[list[Blob]], tops: Sequence[list[Blob]]) -> None:
        self._layers, self._bottoms, self._tops = layers, bottoms, tops
        self.chains = find_chains([
            Node(layer.param.bottom, layer.param.top, layer.fusion_kind,
                 [kind for kind in layer.fuses if _is_allowed(kind, layer)]) for layer in layers])

    def chain(self, index: int, last: int) -> list[int]:
        """The layers, up to the layer `last`, that the layer `index` can fuse."""
        return [i for i in self.chains.get(index, ()) if i <= last]

    def forward(self, index: int, chain: Sequence[int]) -> None:
        """Run a layer forward together with a chain, which may be empty."""
        layer, bottom, top = self._layers[index], self._bottoms[index], self._tops[index]
        if not chain:
            layer.forward(bottom, top)
            return
        affine, relu = IDENTITY, False
        for follower in (self._layers[i] for i in chain):
            if follower.fusion_kind == RELU:
                relu = True
            else:
                affine = affine.then(follower.affine())
            if isinstance(follower, Scale) and isinstance(layer, BatchNorm):
                follower.fused_gradient = functools.partial(layer.gradient_of_scale, bottom, top)
        layer.forward_fused(bottom, top, affine.epilogue(relu))

    def fused_scale(self, index: int) -> Scale | None:
        """The Scale layer that the last forward fused into a BatchNorm layer, if their backward can run together."""
        layer = self._layers[index]
        follower = self._layers[self.chains[index][0]] if index in self.chains else None
        if (isinstance(layer, BatchNorm) and layer.runs_backward and isinstance(follower, Scale)
                and follower.fusion_kind == SCALE and follower.fused_gradient):
            return follower
        return None

    def backward(self, index: int, propagate_down: Sequence[bool], scale: Scale | None) -> None:
        """Run a layer backward, together with the Scale layer that `fused_scale` returned for it or None."""
        layer, bottom, top = self._layers[index], self._bottoms[index], self._tops[index]
        if scale is not None and isinstance(layer, BatchNorm):
            layer.backward_fused(top, propagate_down, bottom, scale)
        else:
            layer.backward(top, propagate_down, bottom)


def _is_allowed(kind: str, layer: Layer) -> bool:
    """Whether a layer fuses layers of this kind; a SCALE only if it runs backward too."""
    return kind == RELU or (not backend.EXACT and (kind == AFFINE or layer.runs_backward))
