"""`python -m spp.pycaffe script.py args...`: run a script that says `import caffe`, with this module as that."""
import os
import runpy
import sys

import spp.proto
import spp.pycaffe

USAGE = """usage: python -m spp.pycaffe SCRIPT [ARGUMENT ...]

Runs a Python script written for Caffe: `import caffe`, `import caffe.io`, `from caffe import layers as L`,
`from caffe.proto import caffe_pb2` mean spp.pycaffe in it. Caffe's log goes to the standard error; set
GLOG_minloglevel=2 to silence it.

example: python -m spp.pycaffe examples/net_surgery.py
"""


def install() -> None:
    """Make `import caffe` mean this module in this process."""
    for name, module in list(sys.modules.items()):
        if name == "spp.pycaffe" or name.startswith("spp.pycaffe.") and not name.endswith(".__main__"):
            sys.modules["caffe" + name[len("spp.pycaffe"):]] = module
    sys.modules["caffe.proto"] = spp.proto
    sys.modules["caffe.proto.caffe_pb2"] = spp.proto.caffe_pb2
    sys.modules["caffe.pycaffe"] = sys.modules["caffe._caffe"] = spp.pycaffe


def main(arguments: list[str]) -> None:
    """Run the script as python itself would: its folder first on the path, its name first in sys.argv."""
    if not arguments or arguments[0] in ("-h", "--help"):
        (sys.stdout if arguments else sys.stderr).write(USAGE)
        sys.exit(0 if arguments else 2)
    script = arguments[0]
    if not os.path.isfile(script):
        sys.exit(f"python -m spp.pycaffe: cannot open {script!r}: no such file (looked from {os.getcwd()})")
    install()
    spp.pycaffe.init_log()
    sys.argv = arguments
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
