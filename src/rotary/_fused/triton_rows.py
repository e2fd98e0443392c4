"""Tensors as the GPU kernels of this room take them: rows of memory, cut into blocks of channels. Host part, from sizes and strides."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .._rotation import triton as rotation
from .._triton import devices
from .._triton.launch import ACCESS
from .._types import CosSin, Sizes, Tensors
from .work import by_token

unavailable = rotation.unavailable
_WIDEST = 4096  # channels of a head: one row of a wider tile does not fit into the registers of a program
_WIDEST_BLOCK = 64
_MOST_BLOCKS = 64  # of a row; the code of a kernel grows with their number
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Blocks(NamedTuple):
    """How a row is cut: channels of a block, blocks of a row, adjacent channels of a block in the registers of one thread."""

    width: int
    number: int
    per_thread: int

    def rows(self, warps: int) -> int:
        """Rows of a tile that gives each thread `per_thread` channels of every block."""
        return max(32 * warps * self.per_thread // self.width, 1)


def blocks(dim: int, turned: int, widest: int, size: int, most: int, *, interleaved: bool) -> Blocks:
    """The blocks of a row. dim, turned: its channels, and those of them that are rotated. widest: channels of the longest row. size: bytes
    of a channel. most: channels of a row in one thread, unless that is less than one of each block.

    The two channels of a plane must be the same element of two blocks, or adjacent in one (drawn in triton_blocks.py). So a block is the
    largest power of two that divides half of the rotated channels, or all of them if interleaved. It is at most half a row, so that the
    first addition of a sum is within registers, and at most _WIDEST_BLOCK, so that few threads share a row: with wider blocks Triton
    exchanges the sum through shared memory.
    """
    half = min(max(_power(widest) // 2, 1), _WIDEST_BLOCK)
    if turned:
        span = turned if interleaved else turned // 2
        width = min(span & -span, max(half, 2 if interleaved else 1))
    else:
        width = half
    count = -(-widest // width)
    per_thread = min(ACCESS // size, width)
    while per_thread > 1 and per_thread * count > most:
        per_thread //= 2
    return Blocks(width, count, per_thread)


def refused(xs: Tensors, tensors: Tensors) -> str | None:
    """The reason why the kernels do not serve these tensors, or None."""
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


def in_pieces(cut: Blocks, turned: int) -> str | None:
    """The reason why rows cut like this are not served, or None."""
    if cut.number > _MOST_BLOCKS:
        return f"{turned} channels that turn cut a row into {cut.number} blocks, more than {_MOST_BLOCKS}"
    return None


def together(xs: Tensors, tables: tuple[CosSin, ...]) -> bool:
    """True if one launch takes both tensors: heads of one width, tables of one width."""
    return xs[0].shape[-1] == xs[-1].shape[-1] and tables[0][0].shape[-1] == tables[-1][0].shape[-1]


def by_head(x: Tensor, seq_dim: int) -> Tensor:
    """x as (batch, heads, seq, channels), a view. Dimension 0 is the batch, for which tables may have rows of their own. In two dimensions,
    and in three with the sequence first, the batch is 1."""
    if x.ndim == 2:
        return x[None, None]
    if x.ndim == 3:
        return x.transpose(0, 1)[None] if seq_dim == 0 else x[:, None]
    return x.movedim(seq_dim, 2)


def stored_by_head(x: Tensor, seq_dim: int) -> Tensor:
    """by_head for a write: a slot is for a token of all heads, so (heads, tokens, channels) is a batch of one, as in work.by_token."""
    return by_token(x, seq_dim).transpose(1, 2)


def strides(four: Tensor) -> tuple[int, int, int]:
    """Strides of batch, heads and sequence. 0 for a size of 1: only index 0 multiplies it, and unit() ignores zeros."""
    b, h, s = (stride if size > 1 else 0 for size, stride in zip(four.shape[:3], four.stride()[:3], strict=True))
    return b, h, s


def alike(cos: Tensor, sin: Tensor) -> CosSin:
    """cos and sin with equal strides and adjacent columns, copied if they have not."""
    if cos.stride() == sin.stride() and (cos.stride(-1) == 1 or cos.shape[-1] <= 1):
        return cos, sin
    return cos.contiguous(), sin.contiguous()


def rows_of(table: Tensor, seq: int) -> tuple[int, int]:
    """Strides of the rows of a table over batch and sequence."""
    batched = table.ndim == 3 and table.shape[0] > 1
    return table.stride(0) if batched else 0, table.stride(-2) if seq > 1 else 0


def unit(size: int, numbers: Sizes) -> int:
    """The number of channels that one access may move: it divides every stride, hence the first address of every row.

    The channels of a row are among the numbers, because one row alone has no strides and would otherwise need another kernel.
    """
    return math.gcd(ACCESS // size, *numbers)


def _power(least: int) -> int:
    return 1 << max(least - 1, 0).bit_length()
