"""Tables on a GPU in one launch, where plain torch operations (rotary.angles) take nine, with float64 temporaries."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..constants import Constants
from . import CHOSEN, triton
from .code import MOST, Code

Table = tuple[Tensor, Tensor]
_VALUES = 512  # of each table per program of 4 warps: 16 bytes per thread
_WARPS = 4


def cos_sin(positions: Tensor, turns_per_token: Constants, amplitude: Constants) -> Table | None:
    """(cos, sin), each (..., planes) float32, times the amplitude; or None where no kernel serves, and nothing has been done.

    positions: (...) int64, a plain tensor. turns_per_token: (planes,) int64 in units of 2^-64 turn. amplitude: (1,) float64.

    Before it is rounded a value is within 6e-16 of what angles.cos_sin_of_turns computes: it is the same float32 but for about one
    in a hundred million, which lies next to the middle of two.
    """
    if CHOSEN.get() not in (None, "triton"):
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
        made = turns_per_token.on(positions.device), amplitude.on(positions.device)
        tensors = (positions.contiguous(), *made, cos, sin)
        kernel.launch(-(-rows // kernel.constants[1]), tensors, (rows,))
    return cos, sin


@functools.cache
def code(device: torch.device, planes: int) -> Code:
    """The kernel for so many planes; its constants are those and the rows that one program makes."""
    return Code(_kernel, device.index or 0, _WARPS, (planes, max(_VALUES >> (planes - 1).bit_length(), 1)))


def _kernel() -> object:
    from . import triton_tables

    return triton_tables.tables_kernel
