"""spp: Caffe you can pip install, and the complete SPP-net system built on it."""
__version__ = "0.1.0"
__all__ = ["Blob", "Layer", "Net", "Solver"]
TYPE_CHECKING = False       # typing's own would make `import spp` slower
_MODULES = {"Blob": "spp.blob", "Layer": "spp.layers", "Net": "spp.net", "Solver": "spp.solver"}

if TYPE_CHECKING:
    from spp.blob import Blob
    from spp.layers import Layer
    from spp.net import Net
    from spp.solver import Solver
else:
    def __getattr__(name):
        """Import a class when it is first asked for: programs that print their --help need none."""
        if name not in _MODULES:
            raise AttributeError(f"module 'spp' has no attribute {name!r}")
        from importlib import import_module
        return getattr(import_module(_MODULES[name]), name)
