"""The GPU kernel: what is decided on the host. One launch forward, with the write into a cache or without; the gradient is the
formula's."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from .._rotation import triton as rotation
from .._triton import devices
from .._triton.launch import MOST, Code
from .._types import CosSin, Sizes, Tensors
from .eager import Weights
from .work import Norm, Store

_WARPS = 4
_ELEMENTS = 16  # of a tile per thread: a tile is held several times, as channels, their partners, cos, sin and weights
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


def norm_rotate_backward(*given: object, **how: object) -> str:
    """Always the reason why not: a kernel was 16 to 20 times slower than the model's code (benchmarks/results/gpu_fused.md)."""
    return "there is no kernel for the gradient"


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
        _code(dtypes, last.device, constants).launch(programs, tuple(tensors), (*q, *k, *cache))
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
    if reason is None and not devices.serves(x):
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
def _code(dtypes: tuple[Any, ...], device: torch.device, constants: tuple[Any, ...]) -> Code:
    """The kernel compiled for these constants, one object each. Their number does not depend on lengths."""
    return Code(_kernel, device.index or 0, _WARPS, constants)


def _kernel() -> Any:
    from . import triton_kernel

    return triton_kernel.norm_rotate_kernel
