"""`python -m spp.pycaffe script.py args...`: run a script that imports caffe, with spp.pycaffe as that module."""
import os
import runpy
import sys

import spp.pycaffe
from spp.pycaffe import alias

USAGE = """usage: python -m spp.pycaffe SCRIPT [ARGUMENT ...]

Runs a Python script written for Caffe: in it, `import caffe`, `import caffe.io`, `from caffe import layers as L` and
`from caffe.proto import caffe_pb2` import spp.pycaffe. Caffe's log goes to the standard error; set GLOG_minloglevel=2
to silence it.

example: python -m spp.pycaffe examples/net_surgery.py
"""


def main(arguments: list[str]) -> None:
    """Run the script as Python would: with its folder first on the path and its name first in sys.argv."""
    if not arguments or arguments[0] in ("-h", "--help"):
        (sys.stdout if arguments else sys.stderr).write(USAGE)
        sys.exit(0 if arguments else 2)
    script = arguments[0]
    if not os.path.isfile(script):
        sys.exit(f"python -m spp.pycaffe: cannot open {script!r}: no such file (looked from {os.getcwd()})")
    alias.install()
    spp.pycaffe.init_log()
    sys.argv = arguments
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
