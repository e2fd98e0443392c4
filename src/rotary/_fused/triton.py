"""The GPU kernels: what is decided on the host. One launch forward, with the write into a cache or without.

Backward, a launch for each of q and k, and, where a weight wants a gradient, two or three that add its rows. How they are added depends
on the number of rows alone, so that the bits are those of every card. On a device that way is many times slower than the formula
(benchmarks/results/gpu_fused.md), which is what autograd takes there; in software the kernel is tested.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from .._rotation import triton as rotation
from .._triton.launch import MOST, Code
from .._types import CosSin, Sizes, Tensors
from .eager import Weights
from .work import Norm, Store

_WARPS = 4
_ELEMENTS = 16  # of a tile per thread: a tile is held several times, as channels, their partners, cos, sin and weights
_ADDED = 64  # rows that one program of the sum adds
_WIDEST = 4096  # channels of a head: one row of a wider tile does not fit into the registers of a program
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

unavailable = rotation.unavailable


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
    return _forward(xs, outs, weights, tables, norm, store, seq_dim, interleaved)


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
    reason = _refused(xs, seq_dim, (*grads, *xs, *grad_xs))
    if reason is None and xs[0].is_cuda:
        reason = "the formula is faster there"
    if reason is not None:
        return reason
    for grad, x, grad_x, total, weight, (cos, sin) in zip(
        grads, xs, grad_xs, grad_weights, weights, tables, strict=True
    ):
        dim, width = x.shape[-1], _width(x.shape[-1])
        batch, heads, seq = _sizes(x, seq_dim)
        rows = batch * heads * seq
        tile = _tile(width)
        programs = -(-rows // tile)
        if not rows or not dim:
            if total is not None:
                total.zero_()
            continue
        cos, sin = _alike(cos, sin)
        # The sums of its rows are made with the gradient of x whether the weight wants one or not.
        partial = cos.new_empty((programs, dim))
        constants = (
            *(dim, 2 * cos.shape[-1], width, interleaved, weight is not None, norm.eps, norm.weight_offset),
            *(norm.model, norm.after, tile),
        )
        code = _code("norm_rotate_backward_kernel", (x.dtype, cos.dtype), x.device, constants)
        integers = (
            rows,
            seq,
            heads,
            *(s for t in (x, grad, grad_x) for s in _strides(t, seq_dim)),
            *_rows_of(cos, seq),
        )
        code.launch(
            programs, (x, grad, grad_x, x if weight is None else weight.contiguous(), cos, sin, partial), integers
        )
        if total is not None:
            _add_rows(partial, total)
    return None


def _add_rows(partial: Tensor, total: Tensor) -> None:
    """The sum of the rows of partial (rows, dim), by 64 of them at a time."""
    dim = partial.shape[-1]
    code = _code("add_rows_kernel", (partial.dtype,), partial.device, (dim, _width(dim), _ADDED))
    while True:
        rows = partial.shape[0]
        programs = -(-rows // _ADDED)
        out = total.view(1, dim) if programs == 1 else partial.new_empty((programs, dim))
        code.launch(programs, (partial, out), (rows,))
        if programs == 1:
            return
        partial = out


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
    reason = _refused(xs, seq_dim, (*xs, *outs) if store is None else (*xs, *outs, *store[:3]))
    if reason is not None:
        return reason
    pair = len(xs) == 2
    if pair and not _together(xs, tables):  # one launch takes heads of one width, and dtypes that go together
        for i in range(2):
            last = i == 1
            part = slice(i, i + 1)
            reason = _forward(
                xs[part], outs[part], weights[part], tables[part], norm, store if last else None, seq_dim, interleaved
            )
            if reason is not None:
                return reason
        return None
    if norm is None and store is None:
        return "nothing to do beside the rotation"
    tables = tuple(_alike(*table) for table in tables)
    dim, turned = xs[0].shape[-1], 2 * tables[0][0].shape[-1]
    value_dim = 0 if store is None else store.values.shape[-1]
    width = _width(max(dim, value_dim))
    tile = _tile(width)
    parts: list[Sizes] = []
    for x, out, (cos, _) in zip(xs, outs, tables, strict=True):
        batch, heads, seq = _sizes(x, seq_dim)
        parts.append(
            (batch * seq, max(seq, 1), heads, *_strides(x, seq_dim), *_strides(out, seq_dim), *_rows_of(cos, seq))
        )
    q, k = parts[0], parts[-1]
    last = xs[-1]
    kept = tuple(weight if weight is None else weight.contiguous() for weight in weights)
    present = (kept[0] is not None) + 2 * (pair and kept[-1] is not None)
    if not pair and store is not None:  # the one tensor is the keys, which stand where q stands: q has no heads
        present = 2 * (kept[0] is not None)
    q_heads = 0 if store is not None and not pair else q[2]
    q = (*q[:2], q_heads, *q[3:])
    in_place = outs[0] is xs[0]
    has_norm = norm is not None
    described = norm or Norm(1.0, 0.0, False, False)
    constants = (
        *(dim, turned, value_dim, width, interleaved, has_norm, present if has_norm else 0),
        *(described.eps, described.weight_offset, described.model, described.after),
        *(in_place, store is not None, tile, pair or store is not None),
    )
    tensors = [xs[0], outs[0], xs[0] if kept[0] is None else kept[0], *tables[0]]
    tensors += [last, outs[-1], last if kept[-1] is None else kept[-1], *tables[-1]]
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
    heads = q_heads + (k[2] if pair or store is not None else 0) + (cache[0] if store is not None else 0)
    programs = heads * -(-max(q[0], k[0]) // tile)
    if max(q[0], k[0], heads) > MOST or programs > MOST:
        return f"more than {MOST} rows or programs"
    dtypes = (last.dtype, tables[0][0].dtype, slots_dtype)
    if programs and width:
        _code("norm_rotate_kernel", dtypes, last.device, constants).launch(programs, tuple(tensors), (*q, *k, *cache))
    for x, out in zip(xs, outs, strict=True):
        if out is x and not x.is_inference():  # autograd does not see a write through an address
            torch.autograd.graph.increment_version(x)
    for written in () if store is None else (store.cache_k, store.cache_v):
        if not written.is_inference():
            torch.autograd.graph.increment_version(written)
    return None


def _refused(xs: Tensors, seq_dim: int, tensors: Tensors) -> str | None:
    """The reason why the kernels do not serve these, or None."""
    x = xs[0]
    reason = unavailable()
    if reason is None and not rotation.serves(x):
        reason = f"tensors on {x.device}"
    if reason is not None:
        return reason
    if x.dtype not in _DTYPES:
        return f"no kernel for {x.dtype}"
    if any(t.shape[-1] > _WIDEST for t in tensors):
        return f"more than {_WIDEST} channels"
    if any(t.ndim > 4 for t in tensors):
        return "more than two dimensions beside sequence and channels"
    if any(t.shape[-1] > 1 and t.stride(-1) != 1 for t in tensors):
        return "the channels of a tensor are not adjacent in memory (stride of the last dimension is not 1)"
    return None


def _together(xs: Tensors, tables: tuple[CosSin, ...]) -> bool:
    """Whether one launch takes both: heads of one width, tables of one width."""
    return xs[0].shape[-1] == xs[1].shape[-1] and tables[0][0].shape[-1] == tables[1][0].shape[-1]


def _four(x: Tensor, seq_dim: int) -> Tensor:
    """x as (batch, heads, seq, channels), a view. Dimension 0 is the batch, where tables may have a row each, except where it is the
    sequence or the only one beside it: then a batch of one."""
    if x.ndim == 2:
        return x[None, None]
    if x.ndim == 3:
        return x.transpose(0, 1)[None] if seq_dim == 0 else x[:, None]
    return x.movedim(seq_dim, 2)


def _sizes(x: Tensor, seq_dim: int) -> tuple[int, int, int]:
    batch, heads, seq = _four(x, seq_dim).shape[:3]
    return batch, heads, seq


def _strides(x: Tensor, seq_dim: int) -> tuple[int, int, int]:
    b, h, s = _four(x, seq_dim).stride()[:3]
    return b, h, s


def _alike(cos: Tensor, sin: Tensor) -> CosSin:
    """Both with one layout and adjacent columns."""
    if cos.stride() == sin.stride() and (cos.stride(-1) == 1 or cos.shape[-1] <= 1):
        return cos, sin
    return cos.contiguous(), sin.contiguous()


def _rows_of(table: Tensor, seq: int) -> tuple[int, int]:
    """Strides of the rows of a table over batch and sequence."""
    batched = table.ndim == 3 and table.shape[0] > 1
    return table.stride(0) if batched else 0, table.stride(-2) if seq > 1 else 0


def _width(channels: int) -> int:
    return 1 << max(channels - 1, 0).bit_length()


def _tile(width: int) -> int:
    """Rows of a tile."""
    return max(32 * _WARPS * _ELEMENTS // width, 1)


@functools.cache
def _code(name: str, dtypes: tuple[Any, ...], device: torch.device, constants: tuple[Any, ...]) -> Code:
    """The kernel compiled for these constants, one object each. Their number does not depend on lengths."""
    return Code(functools.partial(_kernel, name), device.index or 0, _WARPS, constants)


def _kernel(name: str) -> Any:
    from . import triton_kernel

    return getattr(triton_kernel, name)
