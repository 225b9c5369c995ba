"""Upgrade an old caffemodel."""
import sys
from typing import Sequence

from spp.proto import read_net_binary, write_binary
from spp_tools.common import rewrite

DESCRIPTION = """Rewrite a caffemodel of any dialect (V0, V1 `layers`) with `layer` messages, including the weights.

  upgrade_net_proto_binary old.caffemodel new.caffemodel
      not needed for reading old files: every program upgrades them itself"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    return rewrite("upgrade_net_proto_binary", DESCRIPTION, "caffemodel", read_net_binary, write_binary, argv)


if __name__ == "__main__":
    sys.exit(main())
