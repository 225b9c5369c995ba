"""caffe.draw: a net as a graph in Graphviz's language, and as an image where Graphviz is installed."""
import os

from spp import graph
from spp.atomic import replacing
from spp.inspection import drawing
from spp.proto import caffe_pb2
from spp.pycaffe.common import CaffeError, caffe_errors


class DotGraph:
    """DOT text, with the methods of pydot's graphs that scripts for Caffe call."""

    def __init__(self, text: str) -> None:
        self._text = text

    def to_string(self) -> str:
        """The graph in the DOT language."""
        return self._text

    @caffe_errors()
    def create(self, format: str = "png") -> bytes:
        """The graph as the bytes of a file: "dot" and "raw" are its text, all other formats need Graphviz."""
        return self._text.encode() if format in ("dot", "raw") else drawing.render(self._text, format)


@caffe_errors()
def get_pydot_graph(caffe_net: caffe_pb2.NetParameter, rankdir: str, label_edges: bool = True,
                    phase: int | None = None, display_lrm: bool = False) -> DotGraph:
    """The graph of a net's layers and blobs.

    rankdir: the direction of edges, "LR", "TB", "RL" or "BT". phase: only the layers of this phase, None for all.
    display_lrm: show the learning-rate multipliers of layers with parameters.
    """
    if rankdir not in drawing.DIRECTIONS:
        raise CaffeError(f"rankdir must be LR, TB, RL or BT, found {rankdir!r}")
    net = caffe_net if phase is None else graph.filter_net(caffe_net, phase)
    return DotGraph(drawing.to_dot(net, rankdir, None, label_edges, display_lrm))


def draw_net(caffe_net: caffe_pb2.NetParameter, rankdir: str, ext: str = "png", phase: int | None = None,
             display_lrm: bool = False) -> bytes:
    """The bytes of an image of a net; `ext` is a format of Graphviz, or "dot" for the text of the graph."""
    return get_pydot_graph(caffe_net, rankdir, phase=phase, display_lrm=display_lrm).create(format=ext)


@caffe_errors()
def draw_net_to_file(caffe_net: caffe_pb2.NetParameter, filename: str, rankdir: str = "LR", phase: int | None = None,
                     display_lrm: bool = False) -> None:
    """Draw a net to a file; the end of its name is the format."""
    ext = os.path.splitext(filename)[1][1:]
    if not ext:
        raise CaffeError(f"{filename}: the name must end in the format to draw, such as .png, .svg or .dot")
    data = draw_net(caffe_net, rankdir, ext, phase, display_lrm)
    with replacing(filename) as temporary, open(temporary, "wb") as file:
        file.write(data)
