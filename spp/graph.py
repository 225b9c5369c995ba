"""Pure passes over a NetParameter: the layers of a phase, splits of blobs with several readers, the backward plan."""
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Callable, Sequence

from spp.errors import NetError


def filter_net(param: Any, phase: int, level: int = 0, stages: Sequence[str] = ()) -> Any:
    """A copy of the net with the layers that the state keeps (Caffe's FilterNet).

    `phase` and `level` replace the file's own NetState, `stages` are added to its stages. A layer with
    include rules is kept if any rule is met; a layer with exclude rules is dropped if any is met.
    Raises NetError if a layer has both kinds.
    """
    result = type(param)()
    result.CopyFrom(param)
    result.state.phase = phase
    result.state.level = level
    result.state.stage.extend(stages)
    del result.layer[:]
    for layer in param.layer:
        if layer.include and layer.exclude:
            raise NetError(f"layer {layer.name!r}: specify either include rules or exclude rules, not both")
        if layer.include:
            keep = any(meets(result.state, rule) for rule in layer.include)
        else:
            keep = not any(meets(result.state, rule) for rule in layer.exclude)
        if keep:
            result.layer.add().CopyFrom(layer)
    return result


def meets(state: Any, rule: Any) -> bool:
    """Whether a NetState meets every condition of a NetStateRule."""
    return not ((rule.HasField("phase") and rule.phase != state.phase)
                or (rule.HasField("min_level") and state.level < rule.min_level)
                or (rule.HasField("max_level") and state.level > rule.max_level)
                or any(stage not in state.stage for stage in rule.stage)
                or any(stage in state.stage for stage in rule.not_stage))


def insert_splits(param: Any) -> Any:
    """A copy of the net in which no blob has two readers (Caffe's InsertSplits).

    If several bottoms read a blob, or bottoms read it and it has a loss weight, a Split layer
    `<blob>_<layer>_<top>_split` follows its producer, with tops `..._split_<k>`; the loss weight moves to the first
    top. Raises NetError for a bottom that no layer has produced.
    """
    source: dict[tuple[int, int], tuple[int, int]] = {}     # (layer, bottom) -> (layer, top)
    readers: dict[tuple[int, int], int] = defaultdict(int)
    loss_weight: dict[tuple[int, int], float] = {}
    producer: dict[str, tuple[int, int]] = {}
    for i, layer in enumerate(param.layer):
        for j, name in enumerate(layer.bottom):
            if name not in producer:
                known = ", ".join(producer) or "none"
                raise NetError(f"unknown bottom blob {name!r} (layer {layer.name!r}, bottom index {j}); "
                               f"blobs made before this layer: {known}")
            source[i, j] = producer[name]
            readers[producer[name]] += 1
        for j, name in enumerate(layer.top):
            producer[name] = (i, j)
        for j, weight in enumerate(layer.loss_weight[:len(layer.top)]):
            if weight:
                loss_weight[i, j] = weight
                readers[i, j] += 1

    result = type(param)()
    result.CopyFrom(param)
    del result.layer[:]
    used: dict[tuple[int, int], int] = defaultdict(int)
    for i, original in enumerate(param.layer):
        layer = result.layer.add()
        layer.CopyFrom(original)
        for j, name in enumerate(layer.bottom):
            top = source[i, j]
            if readers[top] > 1:
                layer.bottom[j] = f"{_split_name(param, top, name)}_{used[top]}"
                used[top] += 1
        for j, name in enumerate(original.top):
            count = readers[i, j]
            if count > 1:
                split = result.layer.add(name=_split_name(param, (i, j), name), type="Split")
                split.bottom.append(name)
                split.top.extend(f"{split.name}_{k}" for k in range(count))
                if (i, j) in loss_weight:
                    split.loss_weight.extend([loss_weight[i, j]] + [0.0] * (count - 1))
                    layer.ClearField("loss_weight")
                    used[i, j] += 1
    return result


def _split_name(param: Any, top: tuple[int, int], blob: str) -> str:
    layer, index = top
    return f"{blob}_{param.layer[layer].name}_{index}_split"


@dataclass
class BackwardNode:
    """What `backward_plan` needs to know about a layer.

    propagate_down: the prototxt's flags, one per bottom, or empty. differentiable: which bottoms may get a gradient.
    learns: whether a parameter has an lr_mult other than 0. loss: whether a top has a loss weight.
    """

    bottom: Sequence[str]
    top: Sequence[str]
    propagate_down: Sequence[bool]
    differentiable: Callable[[int], bool]
    learns: bool
    loss: bool


def outputs(net: Any) -> list[str]:
    """The names of the blobs that no layer reads, sorted; a blob that its last reader changes in place counts too."""
    unread: set[str] = set()
    for layer in net.layer:
        unread = unread.difference(layer.bottom).union(layer.top)
    return sorted(unread)


def backward_plan(layers: Sequence[BackwardNode], force: bool) -> tuple[list[bool], list[list[bool]]]:
    """Which layers run backward, and which of their bottoms get a gradient; layers in net order.

    A layer runs backward if it leads to a loss and a bottom needs a gradient or a parameter learns. With `force`
    (force_backward) every bottom that may get a gradient gets one.
    """
    blob_needs: dict[str, bool] = {}
    needs: list[bool] = []
    bottom_needs: list[list[bool]] = []
    for layer in layers:
        flags = list(layer.propagate_down) or [blob_needs.get(b, False) for b in layer.bottom]
        bottom_needs.append(flags)
        needs.append(any(flags) or layer.learns)
        blob_needs.update({t: needs[-1] for t in layer.top})

    under_loss: set[str] = set()
    skipped: set[str] = set()
    for i in reversed(range(len(layers))):
        layer = layers[i]
        contributes = layer.loss or any(t in under_loss for t in layer.top)
        if contributes:
            under_loss.update(layer.bottom)
        if not contributes or (needs[i] and layer.top and all(t in skipped for t in layer.top)):
            needs[i], bottom_needs[i] = False, [False] * len(layer.bottom)
        for name, flag in zip(layer.bottom, bottom_needs[i]):
            (skipped.discard if flag else skipped.add)(name)

    if force:
        needs = [True] * len(layers)
        bottom_needs = [[flag or layer.differentiable(j) for j, flag in enumerate(flags)]
                        for layer, flags in zip(layers, bottom_needs)]
    return needs, bottom_needs
