"""BlobProto to and from NumPy arrays."""
import numpy as np

from spp.errors import NetError, format_shape
from spp.proto import caffe_pb2
from spp.proto.wire import LENGTH, encode

RAW_TYPES = {caffe_pb2.DOUBLE: "<f8", caffe_pb2.FLOAT: "<f4", caffe_pb2.FLOAT16: "<f2"}    # of NVIDIA's raw_data


def shape_of(proto: caffe_pb2.BlobProto) -> tuple[int, ...]:
    """The shape of a BlobProto: `shape`, or the legacy num, channels, height, width."""
    if any(proto.HasField(name) for name in ("num", "channels", "height", "width")):
        return (proto.num, proto.channels, proto.height, proto.width)
    return tuple(proto.shape.dim)


def from_proto(proto: caffe_pb2.BlobProto, name: str = "blob", diff: bool = False) -> np.ndarray:
    """The values (or gradients) of a BlobProto as float32, or as float64 if it stores doubles.

    NVIDIA's raw_data of 16, 32 or 64 bits takes precedence. Raises NetError if the number of values does not fit
    the shape, or if raw_data stores integers.
    """
    doubles, floats = (proto.double_diff, proto.diff) if diff else (proto.double_data, proto.data)
    if proto.HasField("raw_diff" if diff else "raw_data"):
        values = _raw(proto, name, diff)
    else:
        values = np.array(doubles, np.float64) if len(doubles) else np.array(floats, np.float32)
    shape = shape_of(proto)
    if values.size != int(np.prod(shape, dtype=np.int64)):
        raise NetError(f"{name}: {values.size} values do not fit the shape {format_shape(shape)}; "
                       "the file is damaged or from a fork of Caffe that stores weights in another way")
    return values.reshape(shape)


def _raw(proto: caffe_pb2.BlobProto, name: str, diff: bool) -> np.ndarray:
    data, kind = (proto.raw_diff, proto.raw_diff_type) if diff else (proto.raw_data, proto.raw_data_type)
    if kind not in RAW_TYPES:
        raise NetError(f"{name}: raw_data of type {caffe_pb2.Type.Name(kind)} holds no weights; expected FLOAT16, "
                       "FLOAT or DOUBLE")
    dtype = np.dtype(RAW_TYPES[kind])
    if len(data) % dtype.itemsize:
        raise NetError(f"{name}: {len(data)} bytes of raw_data are no whole number of {caffe_pb2.Type.Name(kind)}; "
                       "the file is damaged, copy or download it again")
    return np.frombuffer(data, dtype).astype(np.float64 if kind == caffe_pb2.DOUBLE else np.float32)


def from_proto_as(proto: caffe_pb2.BlobProto, shape: tuple[int, ...], name: str) -> np.ndarray:
    """The values of a BlobProto in the shape of a parameter.

    The shapes must be equal except for axes of length 1: old files have 1 x 1 x M x N for M x N, NVIDIA's have
    1 x C x 1 x 1 for C. Raises NetError with both shapes otherwise.
    """
    stored = shape_of(proto)
    if [size for size in stored if size != 1] != [size for size in shape if size != 1]:
        raise NetError(f"{name}: the file's shape is {format_shape(stored)}, the net's is {format_shape(shape)}")
    return from_proto(proto, name).reshape(shape)


def to_proto(array: np.ndarray, diff: np.ndarray | None = None, legacy: bool = False) -> caffe_pb2.BlobProto:
    """A BlobProto of a float32 or float64 array, with `shape`, or with the legacy 4-D shape of mean files."""
    proto = caffe_pb2.BlobProto()
    if legacy:
        proto.num, proto.channels, proto.height, proto.width = (1,) * (4 - array.ndim) + array.shape
    elif array.ndim:        # Caffe writes no shape for a scalar, and OpenCV cannot read an empty one
        proto.shape.dim.extend(array.shape)
    double = array.dtype == np.float64
    _append(proto, "double_data" if double else "data", array)
    if diff is not None:
        _append(proto, "double_diff" if double else "diff", diff)
    return proto


def _append(proto: caffe_pb2.BlobProto, field: str, array: np.ndarray) -> None:
    """Append an array to a packed field as wire bytes; `extend` takes 30 times as long."""
    payload = np.ascontiguousarray(array, "<f8" if field.startswith("double") else "<f4").tobytes()
    tag = encode(proto.DESCRIPTOR.fields_by_name[field].number << 3 | LENGTH)
    proto.MergeFromString(tag + encode(len(payload)) + payload)
