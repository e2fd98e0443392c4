"""The rotation on a CPU at memory speed: one call of the native library, with everything about tensors as 64-bit integers.

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
from collections.abc import Callable

import torch

from .._native import library
from .._types import CosSin, Tensors

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}  # as the library numbers them
_REASONS = (  # as the library numbers them, from 1
    "the channels of a tensor are not adjacent in memory (stride of the last dimension is not 1)",
    "the columns of a table are not adjacent in memory (stride of the last dimension is not 1)",
    "more than 16 dimensions",
    "memory that is not aligned to its elements",
    "a tensor without memory",
    "a number of tensors, a rank, an axis or a size that does not fit",
)
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
    dtype = _DTYPES.get(x.dtype)
    if dtype is None:
        return f"no loop for {x.dtype}"
    if not x.is_cpu:
        return f"tensors on {x.device}"
    # One token waits for everything from here to the call (benchmarks/cpu): one list, one pack, one call.
    words = [len(xs), dtype, interleaved, conjugate, seq_dim]
    in_place = False
    seen = table = table_layout = ()
    for x, out, (cos, sin) in zip(xs, outs, tables, strict=True):
        if seen != (id(cos), id(sin)):  # q and k mostly share their tables
            seen = id(cos), id(sin)
            shape = cos.shape
            table = cos.data_ptr(), sin.data_ptr(), len(shape)
            table_layout = (*shape, *cos.stride(), *sin.stride())
        address, strides = x.data_ptr(), x.stride()
        if out is x:
            in_place, out_address, out_strides = True, address, strides
        else:
            out_address, out_strides = out.data_ptr(), out.stride()
        words += (address, out_address, *table, len(strides), *x.shape, *strides, *out_strides, *table_layout)
    status = call(_packer(len(words))(*words))
    if status:
        if status < 0:
            raise RuntimeError(
                "torch's thread pool reported an error in torch_parallel_for; the output is not complete"
            )
        return _REASONS[status - 1]
    if in_place:  # autograd does not see a write through an address, and would use the changed values as saved ones
        for x, out in zip(xs, outs, strict=True):
            if out is x and not x.is_inference():
                torch.autograd.graph.increment_version(x)
    return None


@functools.cache
def _packer(count: int) -> Callable[..., bytes]:
    """Packs that many integers: 0.2 of 13 microseconds less per call than struct.pack, which looks its format up by a new string."""
    return struct.Struct(f"{count}q").pack


def _bind() -> Callable[[bytes], int]:
    """Look the function up in the loaded library, once."""
    global _call
    loaded = library.load()
    assert not isinstance(loaded, str)
    function = loaded.rotary_rotate
    function.restype, function.argtypes = ctypes.c_int32, (ctypes.c_char_p,)
    _call = function
    return function
