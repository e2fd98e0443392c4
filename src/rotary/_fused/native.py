"""The CPU kernel: C++ loops in torch's own thread pool.

A call passes one array of int64 to C++, drawn here and read in ../_native/norm.cpp; [ ]: only in the backward pass:

    header        count  dtype  interleaved  seq_dim  model  after  bits of eps and of weight_offset
    per tensor    x  out  cos  sin                          addresses
                  table_ndim  ndim
                  weight or 0  weight_stride
                  [grad  sums or 0]
                  shape[ndim]  x_strides[ndim]  out_strides[ndim]  [grad_strides[ndim]]
                  table_shape[table_ndim]  cos_strides[table_ndim]  sin_strides[table_ndim]

Strides are in elements. The array of a write into a cache is drawn in ../_native/store.cpp.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .._native import library
from .._rotation import native as rotation
from .._types import CosSin, Tensors
from . import eager, sums
from .eager import Weights
from .work import Norm, Store, by_token

_REASONS = (*rotation.REASONS, "more than 1024 channels", "a slot outside of the cache")
"""enum Reason of _native/rotate.h, from 1."""

unavailable = library.unavailable


def norm_rotate(
    xs: Tensors,
    outs: Tensors,
    weights: Weights,
    tables: tuple[CosSin, ...],
    norm: Norm,
    *,
    seq_dim: int,
    interleaved: bool,
) -> str | None:
    reason = _not_served(xs)
    if reason is not None:
        return reason
    words = _header(xs, norm, seq_dim, interleaved)
    for x, out, weight, (cos, sin) in zip(xs, outs, weights, tables, strict=True):
        shape = cos.shape
        words += (x.data_ptr(), out.data_ptr(), cos.data_ptr(), sin.data_ptr(), len(shape), x.ndim)
        words += (0, 0) if weight is None else (weight.data_ptr(), weight.stride(0))
        words += (*x.shape, *x.stride(), *out.stride(), *shape, *cos.stride(), *sin.stride())
    reason = _status(_functions().norm_rotate(rotation.packed(words)))
    if reason is None:
        for x, out in zip(xs, outs, strict=True):
            if out is x:
                rotation.count_write(x)
    return reason


def norm_rotate_backward(
    grads: Tensors,
    xs: Tensors,
    grad_xs: Tensors,
    grad_weights: Weights,
    weights: Weights,
    tables: tuple[CosSin, ...],
    norm: Norm,
    *,
    seq_dim: int,
    interleaved: bool,
) -> str | None:
    reason = _not_served(xs)
    if reason is not None:
        return reason
    words = _header(xs, norm, seq_dim, interleaved)
    sums_of_chunks: list[Tensor | None] = []  # of the gradient of a weight, a row for each sums.ROWS rows
    for grad, x, grad_x, grad_weight, weight, (cos, sin) in zip(
        grads, xs, grad_xs, grad_weights, weights, tables, strict=True
    ):
        channels = max(x.shape[-1], 1)
        chunks = -(-x.numel() // channels // sums.ROWS)
        partial = None if grad_weight is None else torch.empty((chunks, x.shape[-1]), dtype=cos.dtype)
        sums_of_chunks.append(partial)
        words += (x.data_ptr(), grad_x.data_ptr(), cos.data_ptr(), sin.data_ptr(), cos.ndim, x.ndim)
        words += (0, 0) if weight is None else (weight.data_ptr(), weight.stride(0))
        words += (grad.data_ptr(), 0 if partial is None else partial.data_ptr())
        words += (*x.shape, *x.stride(), *grad_x.stride(), *grad.stride(), *cos.shape, *cos.stride(), *sin.stride())
    reason = _status(_functions().norm_rotate_backward(rotation.packed(words)))
    if reason is None:
        with torch.no_grad():
            for partial, grad_weight in zip(sums_of_chunks, grad_weights, strict=True):
                if partial is not None and grad_weight is not None:
                    grad_weight.copy_(sums.over_chunks(partial))
    return reason


def rotate_and_store(
    xs: Tensors,
    outs: Tensors,
    weights: Weights,
    tables: tuple[CosSin, ...],
    norm: Norm | None,
    store: Store,
    *,
    seq_dim: int,
    interleaved: bool,
) -> str | None:
    """Rotate, then copy keys and values to their slots; the keys are still in the processor's cache. The second loop serves every
    tensor that the first serves."""
    if norm is None:
        reason = rotation.rotate(xs, outs, tables, seq_dim=seq_dim, interleaved=interleaved, conjugate=False)
    else:
        reason = norm_rotate(xs, outs, weights, tables, norm, seq_dim=seq_dim, interleaved=interleaved)
    if reason is None:
        _write(by_token(outs[-1], seq_dim), store)
    return reason


def _write(keys: Tensor, store: Store) -> None:
    values, cache_k, cache_v, slots = store
    copied = (keys, cache_k), (values, cache_v)
    if any(t.stride(-1) != 1 and t.shape[-1] > 1 for pair in copied for t in pair):
        eager.write(keys, store)
        return
    batch, seq, heads, _ = keys.shape
    words = [keys.element_size(), slots.element_size(), batch, seq, heads, *cache_k.shape[:2]]
    words += (slots.data_ptr(), *slots.stride())
    for tensor, cache in copied:
        words += (tensor.data_ptr(), *tensor.stride()[:3], cache.data_ptr(), *cache.stride()[:3], tensor.shape[-1])
    reason = _status(_functions().store(rotation.packed(words)))
    if reason is not None:
        raise RuntimeError(f"nothing is stored: {reason}")
    rotation.count_write(cache_k)
    rotation.count_write(cache_v)


def _not_served(xs: Tensors) -> str | None:
    reason = unavailable()
    if reason is not None:
        return reason
    x = xs[0]
    if x.dtype not in rotation.DTYPES:
        return f"no loop for {x.dtype}"
    return None if x.is_cpu else f"tensors on {x.device}"


def _header(xs: Tensors, norm: Norm, seq_dim: int, interleaved: bool) -> list[int]:
    eps, weight_offset, model, after = norm
    dtype = rotation.DTYPES[xs[0].dtype]
    return [len(xs), dtype, interleaved, seq_dim, model, after, _bits(eps), _bits(weight_offset)]


@functools.lru_cache(maxsize=64)  # saves 0.16 of the 16 us of one token; a model has one or two such numbers
def _bits(number: float) -> int:
    return struct.unpack("q", struct.pack("d", number))[0]


def _status(status: int) -> str | None:
    """The library's reason for a status, None if the work is done."""
    if status < 0:
        raise RuntimeError("torch's thread pool reported an error in torch_parallel_for; the output is not complete")
    return _REASONS[status - 1] if status else None


class _Functions(NamedTuple):
    norm_rotate: Callable[[bytes], int]
    norm_rotate_backward: Callable[[bytes], int]
    store: Callable[[bytes], int]


@functools.cache
def _functions() -> _Functions:
    """The functions of the loaded library, looked up once."""
    loaded = library.load()
    assert not isinstance(loaded, str)
    functions = loaded.rotary_norm_rotate, loaded.rotary_norm_rotate_backward, loaded.rotary_store
    for function in functions:
        function.restype, function.argtypes = ctypes.c_int32, (ctypes.c_char_p,)
    return _Functions(*functions)
