"""Caffe's messages: the schema (caffe.proto), reading and writing them, and upgrades of old dialects."""
from spp.proto import caffe_pb2
from spp.proto.binary import read_blob_proto, read_net_binary, read_solver_state, write_binary
from spp.proto.text import parse_net, parse_solver, read_net, read_solver, to_text, where, write_text
from spp.proto.upgrade import upgrade_net, upgrade_solver

__all__ = [
    "caffe_pb2", "parse_net", "parse_solver", "read_blob_proto", "read_net", "read_net_binary", "read_solver",
    "read_solver_state", "to_text", "upgrade_net", "upgrade_solver", "where", "write_binary", "write_text",
]
