"""Shared by all tests: memory that was not written contains NaN, so that a value read from it cannot pass by chance.

The kernels under test can be others than the installed ones:

    ROTARY_LIBRARY=path    a native library of another build (tests/_native/sanitize.sh)
    TRITON_INTERPRET=1     the GPU kernels through Triton's interpreter, whose rounding is corrected first
    ROTARY_CHIP=90         (or 80, 100) the GPU kernels as they are compiled for that chip, their instructions run in software: CPU
                           tensors pass for those of a GPU, and whatever is tested rotates and makes tables by these kernels
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rotary._native import library

if os.environ.get("TRITON_INTERPRET") == "1":
    from software_gpu import interpreter as interpreter

if "ROTARY_LIBRARY" in os.environ:
    library.LIBRARY = Path(os.environ["ROTARY_LIBRARY"]).resolve(strict=True)
    library.SOURCES = library.LIBRARY.parent  # without sources, with which the library would be compared

if "ROTARY_CHIP" in os.environ:
    from software_gpu import driver

    driver.install(int(os.environ["ROTARY_CHIP"]))


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN while a test runs."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)
