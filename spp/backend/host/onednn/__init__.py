"""oneDNN's convolutions and matrix products, if its wheel is installed: pip install "spp[onednn]".

The host uses what is listed here and nothing else of this package, and works without it: `available` then is False,
`plan`, `prepare_products` and `prepare_sums` return None, and `takes_product` returns False.
"""
from spp.backend.host.onednn.convolution import Plan, plan
from spp.backend.host.onednn.library import library as _library
from spp.backend.host.onednn.products import (NO_CALLS, caches, check, execute, prepare_products, prepare_sums,
                                              product, takes_product)

__all__ = ["NO_CALLS", "Plan", "available", "caches", "check", "execute", "plan", "prepare_products", "prepare_sums",
           "product", "takes_product"]


def available() -> bool:
    """Whether oneDNN is installed and works; loads it at the first call."""
    return _library() is not None
