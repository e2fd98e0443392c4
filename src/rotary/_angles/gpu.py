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


def cos_sin(
    positions: Tensor, turns_per_token: Constants, amplitude: Constants, axes: Constants | None = None
) -> CosSin | None:
    """(cos, sin), each (..., planes) float32, times the amplitude; None where the kernel does not serve these positions.

    positions: (...) int64, a plain tensor; with axes (..., coordinates), of which each plane reads its own.
    turns_per_token: (planes,) int64 in units of 2^-64 turn. amplitude: (1,) float64.

    Before it is rounded a value is within 6e-16 of what turns.cos_sin_of_turns computes: it is the same float32 but for about one
    in a hundred million, which lies next to the middle of two.
    """
    if backends.chosen() not in (None, "triton"):
        return None
    if type(positions) is not Tensor or not triton.serves(positions) or triton.unavailable() is not None:
        return None
    shape, coordinates = (positions.shape, 0) if axes is None else (positions.shape[:-1], positions.shape[-1])
    rows, planes = shape.numel(), len(turns_per_token.values)
    if rows > MOST:
        return None
    cos = torch.empty((*shape, planes), dtype=torch.float32, device=positions.device)
    sin = torch.empty_like(cos)
    if rows and planes:
        kernel = code(positions.device, planes, coordinates)
        turns, factor = turns_per_token.on(positions.device), amplitude.on(positions.device)
        read = turns if axes is None else axes.on(positions.device)  # without coordinates the kernel reads none
        tensors = (positions.contiguous(), read, turns, factor, cos, sin)
        kernel.launch(-(-rows // kernel.constants[1]), tensors, (rows,))
    return cos, sin


@functools.cache
def code(device: torch.device, planes: int, coordinates: int = 0) -> Code:
    """The kernel for this number of planes; its constants are that, the rows that one program computes, and the coordinates."""
    rows = max(_VALUES >> (planes - 1).bit_length(), 1)
    return Code(_kernel, device.index or 0, _WARPS, (planes, rows, coordinates))


def _kernel() -> object:
    from . import gpu_kernel

    return gpu_kernel.tables_kernel
