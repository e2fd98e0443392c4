"""cos and sin on a CPU in one call of the native library, which takes tensors as addresses, sizes and strides in 64-bit integers.

The block of integers, written by fill() here and read by rotary_tables() in _native/tables.cpp:

    dtype  words  batch  rows  planes  step  coordinates  amplitudes  first
    positions  axes  high  low  amplitude  decay  cos  sin                     addresses, 0: none

work.py describes them; amplitudes is their number, 1 or batch. Without positions, row r has position first + r.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable

import torch
from torch import Tensor

from .._native import library
from .work import Work

_DTYPES = {torch.float32: 0, torch.float64: 1}  # enum Dtype of _native/numbers.h
_COUNT = 17
_pack = struct.Struct(f"{_COUNT}q").pack
_call: Callable[[bytes], int] | None = None

unavailable = library.unavailable


def fill(work: Work, cos: Tensor, sin: Tensor) -> bool:
    """Write the tables, contiguous float32 or float64 of work.shape on the CPU, in torch's threads. Always True: any size is served."""
    call = _call or _bind()
    positions, axes, low, decay = work.positions, work.axes, work.low, work.decay
    status = call(
        _pack(
            _DTYPES[cos.dtype],
            work.words,
            work.batch,
            work.rows,
            work.planes,
            work.step,
            work.coordinates,
            work.amplitude.shape[0],
            0,
            positions.data_ptr(),
            0 if axes is None else axes.data_ptr(),
            work.high.data_ptr(),
            0 if low is None else low.data_ptr(),
            work.amplitude.data_ptr(),
            0 if decay is None else decay.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
        )
    )
    if status < 0:
        raise RuntimeError("torch's thread pool reported an error in torch_parallel_for; the tables are not complete")
    assert status == 0, f"the native library declined with status {status}"  # work_of() makes only sizes that fit
    return True


def _bind() -> Callable[[bytes], int]:
    """The library's function, looked up once."""
    global _call
    loaded = library.load()
    assert not isinstance(loaded, str)
    function = loaded.rotary_tables
    function.restype, function.argtypes = ctypes.c_int32, (ctypes.c_char_p,)
    _call = function
    return function
