"""BlobProto to and from NumPy arrays."""
import numpy as np

from spp.errors import NetError
from spp.proto import caffe_pb2


def shape_of(proto: caffe_pb2.BlobProto) -> tuple[int, ...]:
    """The shape of a BlobProto: `shape`, or the legacy num, channels, height, width."""
    if any(proto.HasField(name) for name in ("num", "channels", "height", "width")):
        return (proto.num, proto.channels, proto.height, proto.width)
    return tuple(proto.shape.dim)


def from_proto(proto: caffe_pb2.BlobProto, name: str = "blob", diff: bool = False) -> np.ndarray:
    """The values (or gradients) of a BlobProto as float32, or float64 where it holds doubles.

    Raises NetError if the number of values does not fit the shape.
    """
    doubles, floats = (proto.double_diff, proto.diff) if diff else (proto.double_data, proto.data)
    values = np.array(doubles, np.float64) if len(doubles) else np.array(floats, np.float32)
    shape = shape_of(proto)
    if values.size != int(np.prod(shape, dtype=np.int64)):
        raise NetError(f"{name}: {values.size} values do not fit the shape {' x '.join(map(str, shape)) or '()'}; "
                       "the file is damaged or from a fork of Caffe that stores weights in another way")
    return values.reshape(shape)


def fitted(proto: caffe_pb2.BlobProto, shape: tuple[int, ...], name: str) -> np.ndarray:
    """The values of a BlobProto in the shape that a parameter wants.

    Shapes must be equal; a legacy 4-D shape may have extra leading ones (1 x 1 x M x N is M x N).
    Raises NetError with both shapes otherwise.
    """
    found = shape_of(proto)
    legacy = proto.HasField("num") or proto.HasField("channels")
    same = found == shape
    if not same and legacy and len(shape) <= 4:
        same = found == (1,) * (4 - len(shape)) + shape
    if not same:
        raise NetError(f"{name}: the file's shape is {' x '.join(map(str, found)) or '()'}, "
                       f"the net's is {' x '.join(map(str, shape)) or '()'}")
    return from_proto(proto, name).reshape(shape)


def to_proto(array: np.ndarray, diff: np.ndarray | None = None, legacy: bool = False) -> caffe_pb2.BlobProto:
    """A BlobProto of a float32 or float64 array, with `shape`, or with the legacy 4-D shape of mean files."""
    proto = caffe_pb2.BlobProto()
    if legacy:
        proto.num, proto.channels, proto.height, proto.width = (1,) * (4 - array.ndim) + array.shape
    else:
        proto.shape.dim.extend(array.shape)
    double = array.dtype == np.float64
    _append(proto, "double_data" if double else "data", array)
    if diff is not None:
        _append(proto, "double_diff" if double else "diff", diff)
    return proto


def _append(proto: caffe_pb2.BlobProto, field: str, array: np.ndarray) -> None:
    """Add an array to a packed field: as wire bytes, since `extend` takes 30 times as long."""
    payload = np.ascontiguousarray(array, "<f8" if field.startswith("double") else "<f4").tobytes()
    length_delimited = 2
    head = [proto.DESCRIPTOR.fields_by_name[field].number << 3 | length_delimited]
    size = len(payload)
    while size >= 128:
        head.append(size & 127 | 128)
        size >>= 7
    proto.MergeFromString(bytes([*head, size]) + payload)
