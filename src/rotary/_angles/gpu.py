"""cos and sin on a GPU in one launch; plain torch operations take fifty, with float64 temporaries."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .._triton.launch import MOST, Code
from .work import Work

_VALUES = 512  # of each table per program of 4 warps: 16 bytes per thread
_WARPS = 4


def fill(work: Work, cos: Tensor, sin: Tensor) -> bool:
    """Write the tables, contiguous float32 or float64 of work.shape; False where there are more rows than the kernel counts."""
    rows = work.batch * work.rows
    if rows > MOST:
        return False
    axes, low, decay = work.axes, work.low, work.decay
    unused = work.high  # a kernel takes a pointer for each parameter, also for those that its constants leave unread
    kernel = code(
        work.positions.device,
        cos.dtype,
        work.planes,
        0 if axes is None else work.coordinates,
        work.words,
        work.batch > 1,
        work.amplitude.shape[0] > 1,
        decay is not None,
    )
    tensors = (
        work.positions,
        unused if axes is None else axes,
        work.high,
        unused if low is None else low,
        work.amplitude,
        work.amplitude if decay is None else decay,
        cos,
        sin,
    )
    kernel.launch(-(-rows // kernel.constants[1]), tensors, (rows, work.rows, work.step))
    return True


@functools.cache
def code(
    device: torch.device,
    dtype: torch.dtype,
    planes: int,
    coordinates: int,
    words: int,
    batched: bool,
    amplitudes: bool,
    decay: bool,
) -> Code:
    """The kernel for this dtype and number of planes; its constants are planes, the rows of one program, and what it reads."""
    rows = max(_VALUES >> (planes - 1).bit_length(), 1)
    return Code(
        _kernel,
        device.index or 0,
        _WARPS,
        (planes, rows, coordinates, words, int(batched), int(amplitudes), int(decay)),
    )


def _kernel() -> object:
    from . import gpu_kernel

    return gpu_kernel.tables_kernel
