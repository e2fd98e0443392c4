"""Which tensors Triton's kernels take. Asked before any of them is imported."""

from __future__ import annotations

import functools
import os

from torch import Tensor


@functools.cache
def interpreting() -> bool:
    """True if Triton interprets instead of compiling. Triton reads the variable once, when a kernel is defined, and so does this."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "y", "yes", "on", "true")


def serves(x: Tensor) -> bool:
    """True if x is on a device on which the kernels run."""
    return x.is_cuda or (x.is_cpu and interpreting())
