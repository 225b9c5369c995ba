"""Upgrade the prototxt of an old solver."""
import sys
from typing import Sequence

from spp.proto import read_solver, write_text
from spp_tools.common import rewrite

DESCRIPTION = """Rewrite an old solver's prototxt: solver_type becomes type, and snapshot_prefix is set.

  upgrade_solver_proto_text old_solver.prototxt new_solver.prototxt
      comments are lost; not needed for reading old files: every program upgrades them itself"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    return rewrite("upgrade_solver_proto_text", DESCRIPTION, "solver prototxt", read_solver, write_text, argv)


if __name__ == "__main__":
    sys.exit(main())
