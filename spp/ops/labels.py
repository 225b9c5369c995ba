"""Labels, which a data layer delivers as floats, as class indices."""
from spp import backend
from spp.backend.types import Array
from spp.ops import indexing


def read(labels: Array, ignore_label: int | None, classes: int, indices: Array, counted: Array) -> Array:
    """indices = the labels as integers; counted = whether a label is not `ignore_label` (None: all are counted).

    indices: int64, any shape; labels: as many elements; counted: booleans of the shape of indices. Returns booleans
    in a scratch buffer: where a counted label is not 0 to classes - 1.
    """
    device = backend.of(indices)
    indices[...] = labels.reshape(indices.shape)
    if ignore_label is None:
        counted[...] = True
    else:
        device.xp.not_equal(indices, ignore_label, out=counted)
    outside = indexing.outside(indices, classes)
    outside &= counted
    return outside


def clear_others(indices: Array, counted: Array, outside: Array) -> None:
    """indices = 0 where a label is not counted or is `outside` (overwritten), so that all can be looked up."""
    device = backend.of(indices)
    ignored = device.scratch_like("labels.ignored", counted)
    device.xp.logical_not(counted, out=ignored)
    outside |= ignored
    device.xp.copyto(indices, 0, where=outside)
