"""Upgrade the prototxt of an old net."""
import sys
from typing import Sequence

from spp.proto import read_net, write_text
from spp_tools.common import rewrite

DESCRIPTION = """Rewrite a net's prototxt of any dialect (V0, V1 `layers`, `input` fields) with `layer` blocks.

  upgrade_net_proto_text old.prototxt new.prototxt
      comments are lost; not needed for reading old files: every program upgrades them itself"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    return rewrite("upgrade_net_proto_text", DESCRIPTION, "net prototxt", read_net, write_text, argv)


if __name__ == "__main__":
    sys.exit(main())
