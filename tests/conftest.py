"""Shared by all tests: memory that nobody has written holds NaN, so that a value read from it cannot pass by luck.

With ROTARY_CHIP=90 (or 80, 100) CPU tensors pass for those of a GPU: whatever is tested rotates and makes tables by the GPU kernels as they
are compiled for that chip, their instructions run in software.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

if "ROTARY_CHIP" in os.environ:
    from kernels import software_gpu

    software_gpu.install(int(os.environ["ROTARY_CHIP"]))


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN while a test runs."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)
