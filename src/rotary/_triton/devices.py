"""Which tensors the Triton kernels take. Imports no Triton: it is asked before a kernel is imported."""

from __future__ import annotations

import functools
import os

from torch import Tensor


@functools.cache
def interpreting() -> bool:
    """True if Triton interprets kernels instead of compiling them. Cached: Triton too reads the variable once, when a kernel is defined."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "y", "yes", "on", "true")


def serves(x: Tensor) -> bool:
    """True if x is on a device on which the kernels run."""
    return x.is_cuda or (x.is_cpu and interpreting())
