"""The gradient on a GPU, host part. One launch for q and k, and a small one that adds the chunks of the weights' sums."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._triton.launch import MOST, Code
from .._types import CosSin, Sizes, Tensors
from . import sums
from . import triton_rows as cut_rows
from .eager import Weights
from .work import Norm

_WARPS = 1  # the rows of a program stay within one warp, so nothing is exchanged through shared memory
_HELD = 24  # channels of a row in the registers of one thread, at most: so many each of x, g, the weight and the sum
_READ = 4  # rows that a thread reads before it computes with the first
_STAGED_CHANNELS = 64  # channels of x in those rows, at most, and as many of g
_ADDED = 256  # chunks that a program of the second launch reads at once
_CHANNELS = 4  # channels of such a program
_LEVELS = 12  # 2^12 x 256 chunks of 64 rows at most


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
    reason = cut_rows.refused(xs, (*grads, *xs, *grad_xs)) or _cut(xs, tables, interleaved)[1]
    if reason is not None:
        return reason
    if max(x.shape.numel() // max(x.shape[-1], 1) for x in xs) > min(sums.ROWS * _ADDED << _LEVELS, MOST >> 1):
        return f"more than {sums.ROWS * _ADDED << _LEVELS} rows"
    together = cut_rows.together(xs, tables)
    for part in (slice(0, len(xs)),) if together else (slice(0, 1), slice(1, 2)):
        _launch(
            grads[part],
            xs[part],
            grad_xs[part],
            grad_weights[part],
            weights[part],
            tables[part],
            norm,
            seq_dim,
            interleaved,
        )
    return None


def _launch(
    grads: Tensors,
    xs: Tensors,
    grad_xs: Tensors,
    grad_weights: Weights,
    weights: Weights,
    tables: tuple[CosSin, ...],
    norm: Norm,
    seq_dim: int,
    interleaved: bool,
) -> None:
    """Launch both kernels for one tensor, or for two of one width."""
    x, pair = xs[0], len(xs) == 2
    cut, _ = _cut(xs, tables, interleaved)
    tables = tuple(cut_rows.alike(*table) for table in tables)
    dim, turned = x.shape[-1], 2 * tables[0][0].shape[-1]
    parts: list[Sizes] = []
    chunks: list[int] = []
    for g, x, d, (cos, _) in zip(grads, xs, grad_xs, tables, strict=True):
        fours = [cut_rows.by_head(t, seq_dim) for t in (x, g, d)]
        batch, heads, seq = fours[0].shape[:3]
        rows = batch * heads * seq if dim else 0
        each = [s for four in fours for s in cut_rows.strides(four)]
        parts.append((rows, max(seq, 1), max(heads, 1), *each, *cut_rows.rows_of(cos, seq)))
        chunks.append(-(-rows // sums.ROWS))
    q, k = parts[0], parts[-1]
    weights = tuple(weight if weight is None else weight.contiguous() for weight in weights)
    has_sums = any(total is not None for total in grad_weights)
    partial = tables[0][0].new_empty((sum(chunks) if has_sums else 0, dim))
    tile = cut.rows(_WARPS)
    read = max(min(_READ, _STAGED_CHANNELS // (cut.number * cut.per_thread)), 1)
    read = 1 << (read.bit_length() - 1)
    constants = (  # in the order of the kernel's capitals
        *(dim, turned, interleaved, cut.width),
        cut_rows.unit(x.element_size(), (dim, *q[3:12], *k[3:12])),
        cut_rows.unit(tables[0][0].element_size(), (turned // 2, *q[12:], *k[12:])),
        *(tile, read, (weights[0] is not None) + 2 * (pair and weights[-1] is not None), norm.eps, norm.weight_offset),
        *(norm.model, norm.after, has_sums, pair),
    )
    tensors: list[Tensor] = []
    for i in (0, -1):
        weight = weights[i]
        tensors += [xs[i], grads[i], grad_xs[i], xs[i] if weight is None else weight, *tables[i]]
    programs = sum(-(-n // tile) for n in chunks)
    steps = -(-min(max(q[0], k[0]), sums.ROWS) // read)
    if programs:
        code = _code(_gradient, (x.dtype, tables[0][0].dtype), x.device, _WARPS, constants)
        code.launch(programs, (*tensors, partial if has_sums else tables[0][0]), (*q, *k, chunks[0], steps))
    if has_sums and dim:
        _add(partial, grad_weights, chunks)


def _add(partial: Tensor, grad_weights: Weights, chunks: list[int]) -> None:
    """Add the chunks of each tensor by halves, into grad_weights."""
    dim = partial.shape[-1]
    levels = [max(-(-n // _ADDED) - 1, 0).bit_length() for n in chunks]
    outs = tuple(partial.new_empty(dim) if total is None else total for total in grad_weights)
    programs = -(-dim // _CHANNELS)
    code = _code(_adding, (partial.dtype, partial.dtype), partial.device, 4, (dim, _ADDED, _CHANNELS, _LEVELS))
    integers = (chunks[0], chunks[-1], programs, levels[0], levels[-1], 1 << max(levels))
    code.launch(programs * len(outs), (partial, outs[0], outs[-1]), integers)


def _cut(xs: Tensors, tables: tuple[CosSin, ...], interleaved: bool) -> tuple[cut_rows.Blocks, str | None]:
    """The blocks of the rows of the first tensor, and the reason why the rows of one of them are not served, or None."""
    cuts: list[cut_rows.Blocks] = []
    reasons: list[str | None] = []
    for x, table in zip(xs, tables, strict=True):
        turned = 2 * table[0].shape[-1]
        cuts.append(cut_rows.blocks(x.shape[-1], turned, x.shape[-1], x.element_size(), _HELD, interleaved=interleaved))
        reasons.append(cut_rows.in_pieces(cuts[-1], turned))
    return cuts[0], next((one for one in reasons if one is not None), None)


@functools.cache
def _code(
    kernel: Callable[[], Any],
    dtypes: tuple[torch.dtype, torch.dtype],
    device: torch.device,
    warps: int,
    constants: tuple[Any, ...],
) -> Code:
    """A kernel compiled for these constants, one object for each set. The number of sets does not depend on lengths."""
    return Code(kernel, device.index or 0, warps, constants)


def _gradient() -> Any:
    from . import triton_gradient

    return triton_gradient.norm_rotate_backward_kernel


def _adding() -> Any:
    from . import triton_gradient

    return triton_gradient.add_chunks_kernel
