"""The rotation on a CPU at memory speed: one call of the native library, which takes tensors as addresses, sizes and strides.

The block of integers, written by rotate() here and read by rotary_rotate() in _native/rotate.cpp:

    header        count  dtype  interleaved  conjugate  seq_dim
    per tensor    x  out  cos  sin                          addresses
                  table_ndim  ndim
                  shape[ndim]  x_strides[ndim]  out_strides[ndim]
                  table_shape[table_ndim]  cos_strides[table_ndim]  sin_strides[table_ndim]

Strides are in elements.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._native import library
from .._types import CosSin, Tensors

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
"""enum Dtype of _native/numbers.h."""
REASONS = (
    "the channels of a tensor are not adjacent in memory (stride of the last dimension is not 1)",
    "the columns of a table are not adjacent in memory (stride of the last dimension is not 1)",
    "more than 16 dimensions",
    "memory that is not aligned to its elements",
    "a tensor without memory",
    "a number of tensors, a rank, an axis or a size that does not fit",
)
"""enum Reason of _native/rotate.h, from 1."""
_call: Callable[[bytes], int] | None = None

unavailable = library.unavailable


def rotate(
    xs: Tensors,
    outs: Tensors,
    tables: tuple[CosSin, ...],
    *,
    seq_dim: int,
    interleaved: bool,
    conjugate: bool,
) -> str | None:
    call = _call
    if call is None:
        reason = unavailable()
        if reason is not None:
            return reason
        call = _bind()
    x = xs[0]
    dtype = DTYPES.get(x.dtype)
    if dtype is None:
        return f"no loop for {x.dtype}"
    if not x.is_cpu:
        return f"tensors on {x.device}"
    words = [len(xs), dtype, interleaved, conjugate, seq_dim]
    in_place = False
    for x, out, (cos, sin) in zip(xs, outs, tables, strict=True):
        in_place = in_place or out is x
        table_shape, strides = cos.shape, x.stride()
        words += (x.data_ptr(), out.data_ptr(), cos.data_ptr(), sin.data_ptr(), len(table_shape), len(strides))
        words += (*x.shape, *strides, *out.stride(), *table_shape, *cos.stride(), *sin.stride())
    status = call(packed(words))
    if status:
        if status < 0:
            raise RuntimeError(
                "torch's thread pool reported an error in torch_parallel_for; the output is not complete"
            )
        return REASONS[status - 1]
    if in_place:
        for x, out in zip(xs, outs, strict=True):
            if out is x:
                count_write(x)
    return None


def count_write(x: Tensor) -> None:
    """Raise x's version counter: autograd does not see a write through an address, and would take the new values for the saved ones."""
    if not x.is_inference():
        torch.autograd.graph.increment_version(x)


def packed(words: Sequence[int]) -> bytes:
    """The integers as int64 in the byte order of the machine."""
    return _packer(len(words))(*words)


@functools.cache
def _packer(count: int) -> Callable[..., bytes]:
    # struct.pack, which takes a new format string at each call, is 0.7 us slower, of the 18 us of a rotation of one token.
    return struct.Struct(f"{count}q").pack


def _bind() -> Callable[[bytes], int]:
    """The library's function, looked up once."""
    global _call
    loaded = library.load()
    assert not isinstance(loaded, str)
    function = loaded.rotary_rotate
    function.restype, function.argtypes = ctypes.c_int32, (ctypes.c_char_p,)
    _call = function
    return function
