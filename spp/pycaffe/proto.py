"""caffe.proto: the messages of caffe.proto."""
from spp.proto import caffe_pb2

__all__ = ["caffe_pb2"]
