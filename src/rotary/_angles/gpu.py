"""cos and sin on a GPU in one launch, where plain torch operations (turns.py) take nine, with float64 temporaries."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .._constants import Constants
from .._rotation import backends, triton
from .._triton.launch import MOST, Code
from .._types import CosSin

_VALUES = 512  # of each table per program of 4 warps: 16 bytes per thread
_WARPS = 4


def cos_sin(positions: Tensor, turns_per_token: Constants, amplitude: Constants) -> CosSin | None:
    """(cos, sin), each (..., planes) float32, times the amplitude; None where the kernel does not serve these positions.

    positions: (...) int64, a plain tensor. turns_per_token: (planes,) int64 in units of 2^-64 turn. amplitude: (1,) float64.

    Before it is rounded a value is within 6e-16 of what turns.cos_sin_of_turns computes: it is the same float32 but for about one
    in a hundred million, which lies next to the middle of two.
    """
    if backends.chosen() not in (None, "triton"):
        return None
    if type(positions) is not Tensor or not triton.serves(positions) or triton.unavailable() is not None:
        return None
    rows, planes = positions.numel(), len(turns_per_token.values)
    if rows > MOST:
        return None
    cos = torch.empty((*positions.shape, planes), dtype=torch.float32, device=positions.device)
    sin = torch.empty_like(cos)
    if rows and planes:
        kernel = code(positions.device, planes)
        constants = turns_per_token.on(positions.device), amplitude.on(positions.device)
        tensors = (positions.contiguous(), *constants, cos, sin)
        kernel.launch(-(-rows // kernel.constants[1]), tensors, (rows,))
    return cos, sin


@functools.cache
def code(device: torch.device, planes: int) -> Code:
    """The kernel for this number of planes; its constants are that and the rows that one program computes."""
    return Code(_kernel, device.index or 0, _WARPS, (planes, max(_VALUES >> (planes - 1).bit_length(), 1)))


def _kernel() -> object:
    from . import gpu_kernel

    return gpu_kernel.tables_kernel
