"""The files of a conversion to Caffe: a prototxt and its weights, both or neither."""
from typing import Any

from spp.atomic import replacing
from spp.errors import ConvertError
from spp.proto import to_text, write_binary


def write(param: Any, prototxt: str, weights: str) -> None:
    """Write a NetParameter with weights in its layers as a prototxt and a caffemodel."""
    plain = type(param)()
    plain.CopyFrom(param)
    for layer in plain.layer:
        del layer.blobs[:]
    with replacing(prototxt, ConvertError) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(to_text(plain))
        write_binary(param, weights)
