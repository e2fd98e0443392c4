"""The GPU kernel, host part. One launch forward, with or without the write into a cache; the gradient is in triton_backward.py."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from .._triton.launch import MOST, Code
from .._types import CosSin, Sizes, Tensors
from . import triton_rows as rows
from .eager import Weights
from .triton_backward import norm_rotate_backward
from .triton_rows import unavailable
from .work import Norm, Store

_WARPS = 4
_HELD = 40  # channels of a row in the registers of one thread, at most
_HEADS = 2  # of a program, where there is work for every multiprocessor: they share the rows of its tables
_FILLING_ROWS = 2**17  # rows that are such work


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
    return _forward(xs, outs, weights, tables, norm, None, seq_dim, interleaved)


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
    if store.cache_k.shape[0] * store.cache_k.shape[1] > MOST:
        return f"a cache of more than {MOST} rows"
    if len(xs) == 2 and xs[0].shape[seq_dim] != xs[1].shape[seq_dim]:
        return "queries that are fewer than the keys"
    if xs[-1].ndim == 3 and seq_dim == 1 and any(cos.ndim == 3 and cos.shape[0] > 1 for cos, _ in tables):
        return "(heads, tokens, head_dim) with tables that have rows for each head"
    return _forward(xs, outs, weights, tables, norm, store, seq_dim, interleaved)


def _forward(
    xs: Tensors,
    outs: Tensors,
    weights: Weights,
    tables: tuple[CosSin, ...],
    norm: Norm | None,
    store: Store | None,
    seq_dim: int,
    interleaved: bool,
) -> str | None:
    reason = rows.refused(xs, (*xs, *outs) if store is None else (*xs, *outs, *store[:3]))
    if reason is not None:
        return reason
    pair = len(xs) == 2
    if pair and not rows.together(xs, tables):  # one launch takes heads of one width, and tables of one width
        reasons = [
            _cut(x, table, store if i else None, interleaved)[1]
            for i, (x, table) in enumerate(zip(xs, tables, strict=True))
        ]
        reason = reasons[0] or reasons[1]  # both are known before anything is written
        for i in (0, 1):
            part, store_of_keys = slice(i, i + 1), store if i else None
            reason = reason or _forward(
                xs[part], outs[part], weights[part], tables[part], norm, store_of_keys, seq_dim, interleaved
            )
        return reason
    if norm is None and store is None:
        return "nothing to do besides the rotation"
    cut, reason = _cut(xs[0], tables[0], store, interleaved)
    if reason is not None:
        return reason
    tables = tuple(rows.alike(*table) for table in tables)
    dim, turned = xs[0].shape[-1], 2 * tables[0][0].shape[-1]
    value_dim = 0 if store is None else store.values.shape[-1]
    tile = cut.rows(_WARPS)
    by_head = rows.by_head if store is None else rows.stored_by_head
    parts: list[Sizes] = []
    for x, out, (cos, _) in zip(xs, outs, tables, strict=True):
        four = by_head(x, seq_dim)
        batch, heads_of_x, seq = four.shape[:3]
        strides = (*rows.strides(four), *rows.strides(by_head(out, seq_dim)), *rows.rows_of(cos, seq))
        parts.append((batch * seq, max(seq, 1), heads_of_x, *strides))
    q, k = parts[0], parts[-1]
    last = xs[-1]
    weights = tuple(weight if weight is None else weight.contiguous() for weight in weights)
    has_weight = (weights[0] is not None) + 2 * (pair and weights[-1] is not None)  # bit 0: q, bit 1: k
    if not pair and store is not None:  # the one tensor is k; it fills the parameters of q too, which then has no heads
        has_weight = 2 * (weights[0] is not None)
    q_heads = 0 if store is not None and not pair else q[2]
    q = (*q[:2], q_heads, *q[3:])
    # A parameter that the constants leave unread still takes a pointer. For an absent weight that is the other one: with one weight of two
    # every program reads head_dim numbers there, also those of a tensor without elements, whose own address is 0.
    present = next((weight for weight in weights if weight is not None), last)
    tensors = [xs[0], outs[0], present if weights[0] is None else weights[0], *tables[0]]
    tensors += [last, outs[-1], present if weights[-1] is None else weights[-1], *tables[-1]]
    if store is None:
        tensors += [last, last, last, last]
        cache: Sizes = (0,) * 13
        slots_dtype = None
    else:
        tensors += store
        values = store.values
        cache = (
            values.shape[2],
            *(values.stride(0), values.stride(2), values.stride(1)),
            *store.slots.stride(),
            max(store.cache_k.shape[1], 1),
            *store.cache_k.stride()[:3],
            *store.cache_v.stride()[:3],
        )
        slots_dtype = store.slots.dtype
    heads = (q_heads, k[2] if pair or store is not None else 0, cache[0])  # of q, k and the values
    group = _HEADS if sum(heads) * max(q[0], k[0]) >= _FILLING_ROWS else 1
    programs = sum(-(-n // group) for n in heads) * -(-max(q[0], k[0]) // tile)
    if max(q[0], k[0], *heads) > MOST or programs > MOST:
        return f"more than {MOST} rows or programs"
    settings = norm or Norm(1.0, 0.0, False, False)
    unit = rows.unit(last.element_size(), (dim, value_dim, *q[3:9], *k[3:9], *cache[1:4], *cache[7:]))
    table_unit = rows.unit(tables[0][0].element_size(), (turned // 2, *q[9:], *k[9:]))
    constants = (  # in the order of the kernel's capitals
        *(dim, turned, value_dim, interleaved, cut.width, unit, table_unit, tile, group),
        *(norm is not None, has_weight if norm is not None else 0, settings.eps, settings.weight_offset),
        *(settings.model, settings.after, outs[0] is xs[0], store is not None, pair or store is not None),
    )
    dtypes = (last.dtype, tables[0][0].dtype, slots_dtype)
    if programs and max(dim, value_dim):
        _code(dtypes, last.device, constants).launch(programs, tuple(tensors), (*q, *k, *cache))
    for x, out in zip(xs, outs, strict=True):
        if out is x and not x.is_inference():  # autograd does not see a write through an address
            torch.autograd.graph.increment_version(x)
    for written in () if store is None else (store.cache_k, store.cache_v):
        if not written.is_inference():
            torch.autograd.graph.increment_version(written)
    return None


def _cut(x: Tensor, table: CosSin, store: Store | None, interleaved: bool) -> tuple[rows.Blocks, str | None]:
    """The blocks of the rows of x and of the values, and the reason why rows cut like this are not served, or None."""
    dim, turned = x.shape[-1], 2 * table[0].shape[-1]
    widest = max(dim, 0 if store is None else store.values.shape[-1])
    cut = rows.blocks(dim, turned, widest, x.element_size(), _HELD, interleaved=interleaved)
    return cut, rows.in_pieces(cut, turned)


@functools.cache
def _code(dtypes: tuple[Any, ...], device: torch.device, constants: tuple[Any, ...]) -> Code:
    """The kernel compiled for these constants, one object for each set. The number of sets does not depend on lengths."""
    return Code(_kernel, device.index or 0, _WARPS, constants)


def _kernel() -> Any:
    from . import triton_kernel

    return triton_kernel.norm_rotate_kernel


__all__ = ["norm_rotate", "norm_rotate_backward", "rotate_and_store", "unavailable"]
