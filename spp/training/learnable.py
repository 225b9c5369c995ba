"""The parameters that a solver updates; those of one name share memory (Caffe's AppendParam)."""
from dataclasses import dataclass
from typing import Any, Callable, ContextManager, Sequence

from spp.blob import Blob
from spp.errors import NetError
from spp.layers import Layer


@dataclass
class Learnable:
    """A parameter that a solver updates, with its multipliers of the rate and of the weight decay."""

    blob: Blob
    name: str
    lr_mult: float = 1.0
    decay_mult: float = 1.0


def collect(layers: Sequence[Layer],
            located: Callable[[Any], ContextManager[None]]) -> tuple[list[Learnable], dict[int, Learnable]]:
    """The learnable parameters in order, and by id of every layer's blob; parameters of one name come to share memory.

    A sharer has its owner's entry. `located(layer's param)` says where an error is. Raises NetError where parameters
    of one name do not fit each other.
    """
    learnable: list[Learnable] = []
    entries: dict[int, Learnable] = {}
    owners: dict[str, tuple[Layer, int, Learnable]] = {}
    for layer in layers:
        with located(layer.param):
            specs = layer.param.param
            if len(specs) > len(layer.blobs):
                raise NetError(f"too many param blocks: {len(specs)} for {len(layer.blobs)} parameter(s)")
            for i, blob in enumerate(layer.blobs):
                spec = specs[i] if i < len(specs) else None
                if spec is not None and spec.name and spec.name in owners:
                    _share(layer, i, spec, *owners[spec.name])
                    entries[id(blob)] = owners[spec.name][2]
                    continue
                entry = Learnable(blob, f"{layer.name}[{i}]", spec.lr_mult if spec else 1.0,
                                  spec.decay_mult if spec else 1.0)
                learnable.append(entry)
                entries[id(blob)] = entry
                if spec is not None and spec.name:
                    owners[spec.name] = (layer, i, entry)
    return learnable, entries


def _share(layer: Layer, index: int, spec: Any, owner: Layer, owner_index: int, entry: Learnable) -> None:
    mine, theirs = layer.blobs[index], owner.blobs[owner_index]
    permissive = spec.share_mode == spec.PERMISSIVE
    if mine.count != theirs.count if permissive else mine.shape != theirs.shape:
        raise NetError(f"cannot share param {spec.name!r} owned by layer {owner.name!r}: "
                       f"{'count' if permissive else 'shape'} mismatch, the owner's shape is {theirs.shape}, "
                       f"this layer's is {mine.shape}")
    owner_spec = owner.param.param[owner_index]
    for field in ("lr_mult", "decay_mult"):
        if spec.HasField(field):
            value = getattr(spec, field)
            if owner_spec.HasField(field) and value != getattr(entry, field):
                raise NetError(f"shared param {spec.name!r} has mismatched {field}: {value:g} here, "
                               f"{getattr(entry, field):g} in its owner, layer {owner.name!r}")
            setattr(entry, field, value)
    mine.share_data(theirs)
    mine.share_diff(theirs)
