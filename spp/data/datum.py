"""Datum, the record of Caffe's databases: conversion from and to images."""
import numpy as np

from spp.data import images
from spp.data.database import Database
from spp.errors import DataError, format_shape
from spp.proto.caffe_pb2 import Datum
from spp.proto.files import DecodeError


def raw(image: np.ndarray, label: int) -> bytes:
    """A Datum that holds the pixels of an H x W x C uint8 image, as Caffe's convert_imageset writes it."""
    height, width, channels = image.shape
    return Datum(channels=channels, height=height, width=width, data=image.transpose(2, 0, 1).tobytes(),
                 label=label, encoded=False).SerializeToString()


def encoded(file: bytes, label: int) -> bytes:
    """A Datum that holds an image file's bytes, as Caffe's convert_imageset --encoded writes it."""
    return Datum(data=file, label=label, encoded=True).SerializeToString()


def decode(record: bytes, color: bool | None = None) -> tuple[np.ndarray, int]:
    """Image and label of a Datum's bytes; the image H x W x C, uint8, or float32 if it holds float_data.

    `color` True or False is Caffe's force_color or force_gray: how an encoded image is decoded.
    Raises DataError if the bytes are no Datum, do not fit its sizes, or cannot be decoded as `color` says.
    """
    try:
        datum = Datum.FromString(record)
    except DecodeError:
        raise DataError(f"is not a Datum ({len(record)} bytes); build the database with "
                        "tools/convert_imageset") from None
    if datum.encoded:
        return images.decode(datum.data, color), datum.label
    shape = (datum.channels, datum.height, datum.width)
    data = datum.data
    values = np.frombuffer(data, np.uint8) if data else np.array(datum.float_data, np.float32)
    if min(shape) < 1 or values.size != shape[0] * shape[1] * shape[2]:
        raise DataError(f"its Datum says {format_shape(shape)} (channels x height x width) and holds "
                        f"{values.size} values; build the database with tools/convert_imageset")
    if color is not None and datum.channels != (3 if color else 1):
        raise DataError(f"force_{'color' if color else 'gray'} is for encoded images, and this one is raw, "
                        f"with {datum.channels} channel(s); drop it, or build the database "
                        f"{'without' if color else 'with'} --gray")
    return images.planes_to_image(values.reshape(shape)), datum.label


class DatumImages:
    """The labelled images of an LMDB of Datum records, by index, for `Batches`; raises DataError like Database."""

    def __init__(self, path: str) -> None:
        self.database = Database(path)

    def __len__(self) -> int:
        return len(self.database)

    def name(self, index: int) -> str:
        """Description of record `index` for messages."""
        return f"record {self.database.key(index).decode(errors='replace')!r} of LMDB '{self.database.path}'"

    def read(self, index: int, color: bool | None = None) -> tuple[np.ndarray, int]:
        """Image and label of record `index`; raises DataError like `decode`, without the record's name."""
        return decode(self.database.value(index), color)

    def close(self) -> None:
        """Close the database."""
        self.database.close()
