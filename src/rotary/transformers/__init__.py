"""Run the rotations inside a model of another library on this library's kernels; nothing else in the model changes.

    handle = patch(model)        ...        handle.remove()
    handle_of(model)    unpatch(model)
    print(check(model))          does the model rotate as its config says?
    rerotate(cache, handle, old, new)     keys of its cache, moved in place
    with use_kernels(): ...      the same kernels through the hook that transformers has for the kernels hub

A model's rotation function is recognised by what it computes (probe), not by its name or source. Only use_kernels() imports transformers
itself.
"""

import warnings
from typing import Any

from . import layers
from .caches import rerotate
from .check import check
from .findings import Finding, Findings
from .handle import Handle, Report
from .kernel_mapping import KernelMapping, use_kernels
from .patch import patch
from .patched_model import handle_of, unpatch
from .probe import probe
from .spec import RotationSpec

__all__ = [
    "Finding",
    "Findings",
    "Handle",
    "KernelMapping",
    "Report",
    "RotationSpec",
    "check",
    "handle_of",
    "layers",
    "patch",
    "probe",
    "rerotate",
    "unpatch",
    "use_kernels",
]


def __getattr__(name: str) -> Any:
    if name == "Body":
        warnings.warn(
            "rotary.transformers.Body is now RotationSpec; the old name goes in 0.4", DeprecationWarning, stacklevel=2
        )
        return RotationSpec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
